//! Builds the eBPF object into the agent when `ROPEWAY_EBPF_OBJECT` names one (`cargo xtask build` does).
//!
//! Without it the agent builds all the same, on a machine without BPF tools, and says at start what is missing.

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
