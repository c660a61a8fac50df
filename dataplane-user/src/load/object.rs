//! The eBPF object: built into this program, or a file.

use std::borrow::Cow;
use std::path::Path;

use dataplane_common::types::fnv;

use super::LoadError;

/// Empty when the build had no eBPF object (see build.rs).
static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ropeway.bpf.o"));

/// An object file with the programs.
#[derive(Clone, Debug)]
pub struct Object {
    bytes: Cow<'static, [u8]>,
}

impl Object {
    /// The file, or what was built in.
    ///
    /// # Errors
    /// The file can't be read or is no ELF; nothing was built in.
    pub fn get(file: Option<&Path>) -> Result<Self, LoadError> {
        let Some(path) = file else {
            return if EMBEDDED.is_empty() { Err(LoadError::NoObject) } else { Ok(Self { bytes: EMBEDDED.into() }) };
        };
        let bytes = std::fs::read(path).map_err(|source| LoadError::File { path: path.into(), source })?;
        if !bytes.starts_with(b"\x7fELF") {
            return Err(LoadError::NotAnObject { path: path.into() });
        }
        Ok(Self { bytes: bytes.into() })
    }

    /// The file's content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Names what is loaded: the object and the settings that are compiled into the programs.
    #[must_use]
    pub fn fingerprint(&self, trace: bool) -> String {
        let hash = fnv::extend64(fnv::hash64(&self.bytes), &[u8::from(trace)]);
        format!("{hash:016x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_are_taken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "text").unwrap();
        let message = Object::get(Some(file.path())).unwrap_err().to_string();
        assert!(message.ends_with("not an ELF object"), "{message}");
        let message = Object::get(Some(Path::new("/nonexistent"))).unwrap_err().to_string();
        assert!(message.starts_with("/nonexistent: No such file"), "{message}");
        std::fs::write(file.path(), b"\x7fELF").unwrap();
        let object = Object::get(Some(file.path())).unwrap();
        assert_ne!(object.fingerprint(false), object.fingerprint(true));
    }

    #[test]
    fn a_build_without_programs_says_so() {
        if EMBEDDED.is_empty() {
            let message = Object::get(None).unwrap_err().to_string();
            assert!(
                message.contains("built without eBPF programs") && message.contains("cargo xtask build"),
                "{message}"
            );
        }
    }
}
