//! `status`: shows the cluster's nodes and processes, and leftovers without a cluster.

use anyhow::Result;

use super::layout::Layout;
use super::shape::Shape;
use super::{cgroups, daemon, kube, network};

/// Prints the shape, the processes and the nodes.
pub(super) fn run(layout: &Layout) -> Result<()> {
    let Some(shape) = Shape::read(layout)? else {
        println!("no cluster is up");
        for path in cgroups::left() {
            println!("left over: {}", path.display());
        }
        for name in network::left() {
            println!("left over: network namespace {name}");
        }
        return Ok(());
    };
    println!("shape: {} workers, proxy {:?}, network {:?}", shape.nodes, shape.proxy, shape.cni);
    for name in daemon::names(layout) {
        let state = daemon::find(layout, &name).map_or("not running".into(), |p| format!("pid {}", p.pid()));
        println!("  {name:<26} {state:<14} {}", layout.log(&name).display());
    }
    println!("{}", kube::kubectl(layout, &["get", "nodes", "-o", "wide"])?);
    print!("{}", kube::kubectl(layout, &["get", "pods", "-A", "-o", "wide"])?);
    Ok(())
}
