//! The eBPF object: embedded in this binary at build time, or read from a file (--ebpf-object).
//!
//! Gives the loader the bytes and a fingerprint by which a later agent recognizes programs that
//! were loaded from the same object. Parses nothing but the ELF magic.

use std::borrow::Cow;
use std::path::Path;

use dataplane_common::types::fnv;

use super::LoadError;

/// The embedded object; empty if the build had none (see build.rs).
static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ropeway.bpf.o"));

/// An object file with the programs.
#[derive(Clone, Debug)]
pub struct Object {
    bytes: Cow<'static, [u8]>,
}

impl Object {
    /// Reads `file`, or returns the embedded object if no file is given.
    ///
    /// # Errors
    /// The file can't be read or is no ELF file; or no object is embedded.
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

    /// Returns the bytes of the ELF file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns a hash of the object and of the settings that are compiled into the programs.
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
    fn only_elf_objects_are_accepted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "text").unwrap();
        let message = Object::get(Some(file.path())).unwrap_err().to_string();
        assert!(message.ends_with("not an ELF object"), "{message}");
        let message = Object::get(Some(Path::new("/nonexistent"))).unwrap_err().to_string();
        assert!(message.starts_with("cannot access /nonexistent: No such file"), "{message}");
        std::fs::write(file.path(), b"\x7fELF").unwrap();
        let object = Object::get(Some(file.path())).unwrap();
        assert_ne!(object.fingerprint(false), object.fingerprint(true));
    }

    #[test]
    fn build_without_programs_says_so() {
        if EMBEDDED.is_empty() {
            let message = Object::get(None).unwrap_err().to_string();
            assert!(
                message.contains("built without eBPF programs") && message.contains("cargo xtask build"),
                "{message}"
            );
        }
    }
}
