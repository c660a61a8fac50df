//! Embeds the eBPF object in the agent if `ROPEWAY_EBPF_OBJECT` names one, which `cargo xtask
//! build` sets.
//!
//! Without the variable the agent can be built on a machine without BPF tools. At start it then
//! says that the object is missing.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=ROPEWAY_EBPF_OBJECT");
    if let Err(message) = embed() {
        println!("cargo::error={message}");
    }
}

fn embed() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("ropeway.bpf.o");
    let content = match env::var_os("ROPEWAY_EBPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).map_err(|e| format!("ROPEWAY_EBPF_OBJECT={}: {e}", path.display()))?
        }
        None => Vec::new(),
    };
    fs::write(&out, content).map_err(|e| format!("{}: {e}", out.display()))
}
