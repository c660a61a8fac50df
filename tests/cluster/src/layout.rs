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

    /// Returns the directory of the modules that pin the tools, each with a go.mod.
    pub(super) fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// Returns the directory of the manifests of the cluster's add-ons and tests.
    pub(super) fn template(&self, name: &str) -> PathBuf {
        self.root.join("templates").join(name)
    }

    /// Returns the file that lists skipped upstream tests, with the reasons.
    pub(super) fn skips(&self) -> PathBuf {
        self.root.join("skips.txt")
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Returns the path of a built tool.
    pub(super) fn bin(&self, name: &str) -> PathBuf {
        self.cache().join("bin").join(name)
    }

    /// Returns the archive with all images.
    pub(super) fn images(&self) -> PathBuf {
        self.cache().join("images.tar")
    }

    /// Returns the containerd root into which the images were imported.
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

    /// Returns the directory with all files of one node.
    pub(super) fn node(&self, name: &str) -> PathBuf {
        self.run().join("nodes").join(name)
    }

    /// Returns the node's root directory.
    pub(super) fn node_root(&self, name: &str) -> PathBuf {
        self.node(name).join("root")
    }

    /// Returns the directory of conformance results.
    pub(super) fn results(&self) -> PathBuf {
        self.run().join("results")
    }
}
