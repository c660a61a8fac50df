//! `install`: installs Ropeway's image and manifests as a user does, onto the cluster that is up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::Workshop;
use super::layout::Layout;
use super::settings::{POD_RANGES, ROPEWAY_IMAGE};
use super::shape::{Cni, Proxy, Shape};
use super::step::Steps;
use super::{enter, kube, node, pki, up};
use toolbox::image::layer::digest;
use toolbox::paths::Paths;
use toolbox::{image, shell};

/// Options that select what is installed.
#[derive(Args)]
pub(crate) struct Options {
    /// Take the binaries that were built last, as they are
    #[arg(long)]
    no_build: bool,
    /// Give pods addresses from IP pools instead of the ranges that the cluster assigns to nodes
    #[arg(long)]
    pools: bool,
}

/// Loads the image into every node, applies the manifests, and waits until nodes, DNS and metrics
/// are ready.
pub(super) fn run(
    workshop: &dyn Workshop,
    paths: &Paths,
    layout: &Layout,
    steps: &Steps,
    options: &Options,
) -> Result<()> {
    let shape = Shape::require(layout)?;
    ensure!(shape.has_agents(), "this cluster was started without Ropeway as proxy or network: {shape:?}");
    let alone = shape.proxy == Proxy::Ropeway && shape.cni == Cni::Ropeway;
    ensure!(
        alone || !options.pools,
        "--pools: this cluster was not started with Ropeway as both proxy and network: {shape:?}"
    );
    let archive = layout.run().join("ropeway.tar");
    if !options.no_build {
        workshop.build_binaries()?;
    }
    image::make(paths, ROPEWAY_IMAGE, &archive)?;
    steps.step("loading the image into the nodes", || load(layout, &shape, &archive))?;
    steps.step("applying the manifests", || apply(paths, layout, overlay(&shape, options.pools), &archive))?;
    if options.pools {
        steps.step("IP pools", || pools(layout))?;
    }
    steps.step("agents ready", || kube::rolled_out(layout, "kube-system", "daemonset/ropeway", 180))?;
    up::ready(layout, steps, &shape)
}

/// Loads the images of an archive into every node.
pub(super) fn load(layout: &Layout, shape: &Shape, archive: &Path) -> Result<()> {
    for node in shape.all() {
        // A node sees only programs and certificates of the checkout.
        let name = "/tmp/ropeway.tar";
        let inside = node::inside(&layout.node_root(&node.name), name.as_ref());
        fs::copy(archive, &inside).with_context(|| format!("cannot copy to {}", inside.display()))?;
        let mut ctr = enter::in_node(&node.name, &layout.bin("ctr"))?;
        shell::output(ctr.args(["--namespace", "k8s.io", "images", "import", "--local", name]))?;
        fs::remove_file(&inside)?;
    }
    Ok(())
}

/// Creates one pool of each family as soon as the API server knows the kind.
fn pools(layout: &Layout) -> Result<()> {
    let known = ["wait", "--for=condition=Established", "crd/ippools.ropeway.dev", "--timeout=60s"];
    kube::kubectl(layout, &known)?;
    let pool = |(name, cidr): (&str, &str)| json!({"apiVersion": "ropeway.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": name}, "spec": {"cidr": cidr}});
    let pools = ["default-ipv4", "default-ipv6"].into_iter().zip(POD_RANGES).map(pool);
    kube::apply(layout, &json!({"apiVersion": "v1", "kind": "List", "items": pools.collect::<Vec<_>>()}).to_string())
}

/// Returns the overlay that users apply, with this cluster's image and addresses.
fn apply(paths: &Paths, layout: &Layout, (overlay, mut config): (&str, Value), archive: &Path) -> Result<()> {
    let directory = layout.run().join("install");
    fs::create_dir_all(&directory)?;
    let (name, tag) = ROPEWAY_IMAGE.split_once(':').context("the name of the image has no tag")?;
    config["apiserver"] = json!([pki::api_server()]);
    // The image has a constant name, so the agents have to be restarted.
    let digest = digest(&fs::read(archive)?);
    let annotate = json!([{"op": "add", "path": "/spec/template/metadata/annotations/image", "value": digest}]);
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "kube-system",
        "resources": [relative(&paths.root.join("manifests/overlays").join(overlay), &directory)?],
        "images": [{"name": "ropeway", "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": "DaemonSet"}, "patch": annotate.to_string()}],
        "configMapGenerator": [{"name": "ropeway", "behavior": "merge", "files": ["config.yaml"]}],
    });
    fs::write(directory.join("config.yaml"), serde_json::to_vec_pretty(&config)?)?;
    fs::write(directory.join("kustomization.yaml"), serde_json::to_vec_pretty(&kustomization)?)?;
    let mut kubectl: Command = kube::command(layout);
    shell::output(kubectl.args(["apply", "--server-side", "--force-conflicts", "-k"]).arg(&directory)).map(drop)
}

/// Returns the overlay for this cluster and its settings, which replace those of the overlay.
fn overlay(shape: &Shape, pools: bool) -> (&'static str, Value) {
    let conflist = "/etc/cni/net.d/10-ropeway.conflist";
    match (shape.proxy, shape.cni) {
        (_, Cni::Reference) => ("proxy-only", json!({"ipam": "none"})),
        (Proxy::Ropeway, Cni::Ropeway) if pools => ("pools", json!({"ipam": "pools", "cniConflist": conflist})),
        (Proxy::Ropeway, Cni::Ropeway) => ("podcidr", json!({"cniConflist": conflist})),
        (_, Cni::Ropeway) => {
            let config = json!({
                "serviceProxy": false, "cniConflist": conflist,
                "metricsBindAddress": "127.0.0.1:10245", "healthzBindAddress": "0.0.0.0:10246",
            });
            ("cni-only", config)
        }
    }
}

/// Returns a relative path, because kustomize takes no other.
fn relative(to: &Path, from: &Path) -> Result<PathBuf> {
    let common =
        from.ancestors().find(|parent| to.starts_with(parent)).context("the two paths have no common directory")?;
    let up = from.strip_prefix(common)?.components().map(|_| "..");
    Ok(up.collect::<PathBuf>().join(to.strip_prefix(common)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kustomize_path_is_relative() {
        let path = relative("/a/b/manifests".as_ref(), "/a/b/tests/run".as_ref()).unwrap();
        assert_eq!(path, Path::new("../../manifests"));
    }
}
