//! Builds the images of the cluster without a registry.
//!
//! Upstream's tests name their images; the images built here have the same names and contain what
//! the tests need. All of them are in one archive and share layers. The archive is imported once,
//! into a seed from which each node starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::layout::Layout;
use super::settings::{AGNHOST, COREDNS, METRICS_SERVER, PAUSE_IMAGE, TEST_IMAGES};
use super::step::{Steps, wait_for};
use super::{rootfs, tools};
use toolbox::image::archive::{self, Image};
use toolbox::image::layer::Layer;
use toolbox::shell;

/// Builds archive and seed, unless they are newer than the programs in them.
pub(super) fn make(layout: &Layout, steps: &Steps) -> Result<()> {
    let changed = |path: PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    let newest = ["agnhost", "coredns", "metrics-server", "regression-issue-74839"].map(|n| changed(layout.bin(n)));
    let archive = changed(layout.images());
    if archive.is_none() || archive < newest.into_iter().max().flatten() {
        if !rootfs::path(layout).exists() {
            steps.step("unpacking the test images' user space", || rootfs::make(layout))?;
        }
        steps.step("writing the images", || assemble(layout))?;
    }
    let marker = layout.cache().join("seed.done");
    if changed(marker.clone()).is_none() || changed(marker.clone()) < changed(layout.images()) {
        steps.step("importing the images", || import(layout))?;
        fs::write(marker, "")?;
    }
    Ok(())
}

/// Layers under construction, each a directory.
struct Layers {
    directory: PathBuf,
}

impl Layers {
    fn new(layout: &Layout) -> Result<Self> {
        let directory = layout.cache().join("layers");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Adds one program at the root.
    fn program(&self, name: &str, program: &Path) -> Result<PathBuf> {
        let path = self.path(name)?;
        fs::copy(program, path.join(program.file_name().context("the path of a program has no file name")?))
            .with_context(|| format!("cannot copy {}", program.display()))?;
        Ok(path)
    }

    fn pack(&self, directory: &Path) -> Result<Layer> {
        let name =
            directory.file_name().context("the directory of a layer has no name")?.to_string_lossy().into_owned();
        Layer::of_directory(directory, &self.directory.join(format!("{name}.tar")))
    }
}

fn assemble(layout: &Layout) -> Result<()> {
    let source = tools::kubernetes_source(layout)?;
    let layers = Layers::new(layout)?;
    let space = layers.pack(&rootfs::path(layout))?;
    let coredns = layers.pack(&layers.program("coredns", &layout.bin("coredns"))?)?;
    let agnhost = layers.pack(&agnhost(layout, &layers, &source)?)?;
    let pause = layers.pack(&pause(&layers, &source)?)?;
    let busybox = layers.pack(&busybox(layout, &layers)?)?;
    let metrics = layers.program("metrics-server", &layout.bin("metrics-server"))?;
    scratch(&metrics)?;
    let metrics = layers.pack(&metrics)?;
    let regression = layers.pack(&layers.program("regression", &layout.bin("regression-issue-74839"))?)?;
    let test = |name: &str| format!("{TEST_IMAGES}/{name}");
    let images = [
        Image::new([PAUSE_IMAGE], [&pause]).entrypoint(["/pause"]).user("65535:65535"),
        Image::new([format!("registry.k8s.io/coredns/coredns:{COREDNS}")], [&coredns]).entrypoint(["/coredns"]),
        Image::new([format!("registry.k8s.io/metrics-server/metrics-server:{METRICS_SERVER}")], [&metrics])
            .entrypoint(["/metrics-server"]),
        Image::new([AGNHOST.into(), test("agnhost:2.55")], [&space, &coredns, &agnhost])
            .entrypoint(["/agnhost"])
            .command(["pause"]),
        // The tests that use this web server only need an answer on port 80.
        Image::new([test("nginx:1.27.0-2"), test("nginx:1.28.0-2")], [&space, &coredns, &agnhost])
            .entrypoint(["/agnhost"])
            .command(["test-webserver"]),
        Image::new([test("glibc-dns-testing:2.1.1")], [&space, &coredns]).command(["/bin/bash"]),
        Image::new([test("busybox:1.37.0-2"), test("busybox:1.36.1-1")], [&space, &busybox]).command(["sh"]),
        Image::new([test("regression-issue-74839:1.5")], [&regression]).entrypoint(["/regression-issue-74839"]),
    ];
    archive::write(&layout.images(), &images)?;
    fs::remove_dir_all(&layers.directory).with_context(|| format!("cannot remove {}", layers.directory.display()))
}

fn agnhost(layout: &Layout, layers: &Layers, source: &Path) -> Result<PathBuf> {
    let path = layers.program("agnhost", &layout.bin("agnhost"))?;
    std::os::unix::fs::symlink("agnhost", path.join("agnhost-2"))?;
    for name in ["localhost.crt", "localhost.key"] {
        let file = source.join("test/images/agnhost/porter").join(name);
        fs::write(path.join(name), fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?)?;
    }
    fs::create_dir_all(path.join("var/registry"))?;
    fs::create_dir_all(path.join("uploads"))?;
    open_to_all(&path.join("uploads"), 0o777)?;
    Ok(path)
}

/// Builds the layer of `pause`, the program that holds a pod's namespaces, from upstream's source.
fn pause(layers: &Layers, source: &Path) -> Result<PathBuf> {
    let path = layers.path("pause")?;
    let mut compiler = Command::new("gcc");
    compiler.args(["-Os", "-static", "-s", "-DVERSION=3.10.2", "-o"]).arg(path.join("pause"));
    shell::output(compiler.arg(source.join("build/pause/linux/pause.c")))?;
    Ok(path)
}

/// Creates links for the commands that are missing in the user space.
fn busybox(layout: &Layout, layers: &Layers) -> Result<PathBuf> {
    let path = layers.path("busybox")?;
    fs::create_dir_all(path.join("bin"))?;
    let list = shell::output(Command::new("chroot").arg(rootfs::path(layout)).args(["/bin/busybox", "--list"]))?;
    // Not wget: Debian's crashes when it is given a timeout.
    for name in list.lines().filter(|name| !matches!(*name, "busybox" | "wget" | "[" | "[[" | "test")) {
        std::os::unix::fs::symlink("busybox", path.join("bin").join(name))?;
    }
    scratch(&path)?;
    Ok(path)
}

fn scratch(layer: &Path) -> Result<()> {
    fs::create_dir_all(layer.join("tmp"))?;
    open_to_all(&layer.join("tmp"), 0o1777)
}

fn open_to_all(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// Imports the archive with a separate containerd, in new namespaces.
fn import(layout: &Layout) -> Result<()> {
    let seed = layout.seed();
    if seed.exists() {
        fs::remove_dir_all(&seed).with_context(|| format!("cannot remove {}", seed.display()))?;
    }
    fs::create_dir_all(&seed)?;
    let state = layout.cache().join("seed-state");
    fs::create_dir_all(&state)?;
    let config = layout.cache().join("seed.toml");
    let socket = state.join("socket");
    let address = socket.display().to_string();
    ensure!(address.len() < 100, "{address}: too long for a socket; use a checkout with a shorter path");
    // No file of this containerd may be in the machine's directories.
    let text = format!(
        "version = 3\nroot = \"{}\"\nstate = \"{state}\"\ndisabled_plugins = [\"io.containerd.nri.v1.nri\"]\n\
         [grpc]\n  address = \"{address}\"\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = \"{PAUSE_IMAGE}\"\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\n  conf_dir = \"{state}/cni\"\n",
        seed.display(),
        state = state.display()
    );
    fs::write(&config, text)?;
    let log = fs::File::create(layout.cache().join("seed.log"))?;
    let mut containerd = Command::new(layout.bin("containerd"));
    let mut server = containerd.arg("--config").arg(&config).stdout(log.try_clone()?).stderr(log).spawn()?;
    let ctr = |arguments: &[&str]| {
        let mut command = Command::new(layout.bin("ctr"));
        shell::output(command.args(["--address", &address, "--namespace", "k8s.io"]).args(arguments))
    };
    let outcome = wait_for("containerd for the images", 30, || ctr(&["version"]).map(drop))
        .and_then(|()| ctr(&["images", "import", "--local", &layout.images().display().to_string()]).map(drop));
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    server.wait()?;
    fs::remove_dir_all(&state)?;
    outcome
}
