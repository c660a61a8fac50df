//! The paths of the test cluster: `cache` for built tools and images, which survive `down`, and
//! `run` for the state of the present cluster. Computes paths only; never touches the file system.

use std::path::PathBuf;

use toolbox::paths::Paths;

/// The directories of the test-bed.
#[derive(Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(paths: &Paths) -> Self {
        Self { root: paths.root.join("tests/cluster") }
    }

    /// Modules with a go.mod each, that pin the tools.
    pub(super) fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// Manifests of what runs in the cluster.
    pub(super) fn template(&self, name: &str) -> PathBuf {
        self.root.join("templates").join(name)
    }

    /// Upstream's tests that are not run, with the reasons.
    pub(super) fn skips(&self) -> PathBuf {
        self.root.join("skips.txt")
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The path of a built tool.
    pub(super) fn bin(&self, name: &str) -> PathBuf {
        self.cache().join("bin").join(name)
    }

    /// The archive with all images.
    pub(super) fn images(&self) -> PathBuf {
        self.cache().join("images.tar")
    }

    /// A containerd root into which the images were imported.
    pub(super) fn seed(&self) -> PathBuf {
        self.cache().join("seed")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.run().join("log").join(format!("{name}.log"))
    }

    pub(super) fn pid(&self, name: &str) -> PathBuf {
        self.run().join("pid").join(name)
    }

    pub(super) fn pki(&self, name: &str) -> PathBuf {
        self.run().join("pki").join(name)
    }

    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.run().join("kubeconfig").join(user)
    }

    /// All files of one node.
    pub(super) fn node(&self, name: &str) -> PathBuf {
        self.run().join("nodes").join(name)
    }

    /// The node's root directory.
    pub(super) fn node_root(&self, name: &str) -> PathBuf {
        self.node(name).join("root")
    }

    /// Results of conformance runs.
    pub(super) fn results(&self) -> PathBuf {
        self.run().join("results")
    }
}
