//! Brings `ropeway-peer`, the client and server of this project's tests, into the cluster: as an
//! image in the nodes and as a program of the machine.

use anyhow::Result;
use clap::Args;

use super::Workshop;
use super::install;
use super::layout::Layout;
use super::settings::PEER_IMAGE;
use super::shape::Shape;
use super::step::Steps;
use ropeway_tests::binaries;
use toolbox::image;
use toolbox::paths::Paths;

/// Options for building the peer.
#[derive(Args)]
pub(crate) struct Peer {
    /// Take the binaries that were built last, as they are
    #[arg(long)]
    no_build: bool,
}

/// Builds the peer's image and loads it into all nodes.
pub(super) fn bring(
    workshop: &dyn Workshop,
    paths: &Paths,
    layout: &Layout,
    steps: &Steps,
    shape: &Shape,
    options: &Peer,
) -> Result<()> {
    if !options.no_build {
        workshop.build_binaries()?;
    }
    binaries::look_in(paths.binaries());
    let archive = layout.run().join("peer.tar");
    image::of(paths, PEER_IMAGE, &["ropeway-peer"], &archive)?;
    steps.step("loading the image into the nodes", || install::load(layout, shape, &archive))
}
