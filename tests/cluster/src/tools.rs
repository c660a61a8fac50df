//! The programs of a cluster, unmodified, built from their Go modules. A go.mod in
//! tests/cluster/tools pins each.
//!
//! Only the programs that a command needs are built. Compiled packages are in Go's cache, which all
//! checkouts share; linked programs are kept here, each with a key of its inputs.

mod list;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use super::layout::Layout;
use super::settings::{KUBERNETES, RUNC};
use super::shape::{Cni, Proxy, Shape};
use list::{BATCHES, Batch, Kind, Program};
use toolbox::image::layer::digest;
use toolbox::shell;

/// A set of programs that is built together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// Programs that every cluster needs.
    Cluster,
    /// Upstream's tests and what runs them.
    Tests,
    /// Upstream's proxy, for comparison.
    KubeProxy,
    /// The reference CNI plugins, for comparison.
    ReferencePlugins,
}

/// Memory in bytes for two calls of Go at the same time: each can link a program of 2.7 GB.
const MEMORY_FOR_TWO: u64 = 8 << 30;

/// Returns the sets that a cluster of this shape needs.
pub(super) fn sets(shape: &Shape) -> Vec<Set> {
    let mut sets = vec![Set::Cluster];
    if shape.proxy != Proxy::Ropeway {
        sets.push(Set::KubeProxy);
    }
    if shape.cni == Cni::Reference {
        sets.push(Set::ReferencePlugins);
    }
    sets
}

/// Builds the programs of these sets that are missing or were built from other inputs.
pub(super) fn build(layout: &Layout, sets: &[Set]) -> Result<()> {
    let mut missing = Vec::new();
    for batch in BATCHES.iter().filter(|batch| sets.contains(&batch.set)) {
        if !batch.is_current(layout)? {
            missing.push(batch);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if shell::which("go").is_none() {
        bail!("the test cluster builds Kubernetes from source: install Go 1.26 or later and have `go` in PATH");
    }
    // The batches of one module share packages, and two calls of Go would compile these twice.
    let (kubernetes, others): (Vec<_>, Vec<_>) = missing.into_iter().partition(|batch| batch.module == "kubernetes");
    let in_turn = |batches: &[&Batch]| batches.iter().try_for_each(|batch| batch.build(layout));
    shell::with_signs_of_life(|| {
        if memory_available()? < MEMORY_FOR_TWO {
            in_turn(&kubernetes)?;
            return in_turn(&others);
        }
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| in_turn(&others));
            in_turn(&kubernetes).and(beside.join().map_err(|_| anyhow!("the thread that builds has panicked"))?)
        })
    })
}

fn memory_available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .context("/proc/meminfo has no MemAvailable")?;
    let kib: u64 =
        line.trim().trim_end_matches(" kB").parse().context("MemAvailable in /proc/meminfo is not a number")?;
    Ok(kib << 10)
}

impl Batch {
    fn is_current(&self, layout: &Layout) -> Result<bool> {
        for program in self.programs {
            let built = fs::read_to_string(program.key_file(layout)).unwrap_or_default();
            if built != self.key(layout, program)? || !layout.bin(program.name).exists() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns a key of all inputs of the program except Go itself.
    fn key(&self, layout: &Layout, program: &Program) -> Result<String> {
        let mut text = format!("{} {:?} {}\n", program.package, self.kind, self.linker_flags()).into_bytes();
        for name in ["go.mod", "go.sum"] {
            let file = layout.tools().join(self.module).join(name);
            text.extend(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
        }
        Ok(digest(&text))
    }

    fn build(&self, layout: &Layout) -> Result<()> {
        let names: Vec<_> = self.programs.iter().map(|program| program.name).collect();
        let (names, begin) = (names.join(", "), Instant::now());
        println!("==> building {names}");
        // Linked to a temporary name first: an interrupted build must not look like a finished one.
        let fresh = layout.cache().join("build").join(format!("{}-{:?}-{:?}", self.module, self.set, self.kind));
        fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
        let mut go = Command::new("go");
        go.current_dir(layout.tools().join(self.module));
        // With -trimpath, compiled packages of one checkout serve all others.
        go.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-buildvcs=false -trimpath");
        go.env("CGO_ENABLED", if self.kind == Kind::Runc { "1" } else { "0" });
        match self.kind {
            Kind::Test => go.args(["test", "-c", "-vet=off"]),
            Kind::Runc => go.args(["build", "-tags", "seccomp"]),
            Kind::Plain | Kind::Kubernetes => go.arg("build"),
        };
        go.arg("-ldflags").arg(self.linker_flags()).arg("-o");
        match self.programs {
            [only] => go.arg(fresh.join(only.file())),
            _ => go.arg(&fresh),
        };
        shell::output(go.args(self.programs.iter().map(|program| program.package)))?;
        for program in self.programs {
            let (from, to, key) = (fresh.join(program.file()), layout.bin(program.name), program.key_file(layout));
            for file in [&to, &key] {
                fs::create_dir_all(file.parent().context("the path of a program has no directory")?)?;
            }
            fs::rename(&from, &to).with_context(|| format!("cannot move {}", from.display()))?;
            fs::write(&key, self.key(layout, program)?).with_context(|| format!("cannot write {}", key.display()))?;
        }
        println!("    built {names} in {} s", begin.elapsed().as_secs());
        Ok(())
    }

    fn linker_flags(&self) -> String {
        let version = "k8s.io/component-base/version";
        match self.kind {
            Kind::Plain => "-s -w".into(),
            Kind::Runc => format!("-s -w -X main.version={RUNC}"),
            Kind::Kubernetes | Kind::Test => {
                let parts: Vec<_> = KUBERNETES.trim_start_matches('v').split('.').collect();
                let (major, minor) = (parts.first().unwrap_or(&""), parts.get(1).unwrap_or(&""));
                format!(
                    "-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor} \
                     -X {version}.gitTreeState=clean"
                )
            }
        }
    }
}

impl Program {
    /// Returns the program's name without directory.
    fn file(&self) -> &'static str {
        self.name.rsplit('/').next().unwrap_or(self.name)
    }

    fn key_file(&self, layout: &Layout) -> PathBuf {
        layout.cache().join("keys").join(self.name)
    }
}

/// Returns the source of Kubernetes, for the files that its tests and images read.
pub(super) fn kubernetes_source(layout: &Layout) -> Result<PathBuf> {
    let mut go = Command::new("go");
    go.current_dir(layout.tools().join("kubernetes")).env("GOFLAGS", "");
    let path = shell::output(go.args(["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"]))?;
    Ok(path.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_names_match_go_build_output() {
        // A call that builds several programs names each after the last element of its package
        // path.
        for batch in BATCHES.iter().filter(|batch| batch.programs.len() > 1) {
            for program in batch.programs {
                assert_eq!(Some(program.file()), program.package.rsplit('/').next());
            }
        }
    }

    #[test]
    fn kube_proxy_is_built_only_on_request() {
        let shape = Shape { nodes: 1, proxy: Proxy::Ropeway, cni: Cni::Ropeway, routed: false };
        assert_eq!(sets(&shape), [Set::Cluster]);
        let shape = Shape { proxy: Proxy::KubeProxyNftables, cni: Cni::Reference, ..shape };
        assert_eq!(sets(&shape), [Set::Cluster, Set::KubeProxy, Set::ReferencePlugins]);
    }
}
