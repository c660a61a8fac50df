//! The parts of the product that are mutated, each with the tests that must notice.
//!
//! A mutant is built and tested once, so a room names no more tests than its code needs: its own
//! unit and property tests, and for the packet core the scenarios on the model of the maps.

/// Source files, and the selection of `cargo test` that runs their host tests.
pub(super) struct Room {
    /// Name in the report.
    pub(super) name: &'static str,
    /// Cargo package of the files.
    pub(super) package: &'static str,
    /// Globs of the files, relative to the root.
    pub(super) files: &'static [&'static str],
    /// Packages whose tests are run.
    pub(super) test_packages: &'static [&'static str],
    /// Test targets of these packages.
    pub(super) targets: &'static [&'static str],
    /// Part of the names of the tests; empty: all.
    pub(super) filter: &'static str,
}

/// All rooms, in the order in which they are tested.
pub(super) const ROOMS: &[Room] = &[
    Room {
        name: "packet core",
        package: "dataplane-common",
        files: &["dataplane-common/src/**/*.rs"],
        test_packages: &["dataplane-common", "packet-tests"],
        targets: &["--lib", "--test", "packet"],
        filter: "",
    },
    Room {
        name: "address store",
        package: "dataplane-host",
        files: &["dataplane-host/src/store.rs", "dataplane-host/src/store/**/*.rs"],
        test_packages: &["dataplane-host"],
        targets: &["--lib"],
        filter: "store::",
    },
    agent("reconcile", &["dataplane-user/src/proxy/reconcile/**/*.rs"], "proxy::"),
    agent("flows", &["dataplane-user/src/observe/flows.rs", "dataplane-user/src/observe/flows/**/*.rs"], "observe::"),
    agent(
        "routes",
        &["dataplane-user/src/network/routes.rs", "dataplane-user/src/network/routes/**/*.rs"],
        "network::",
    ),
    agent("IPAM plan", &["dataplane-user/src/ipam/plan.rs", "dataplane-user/src/ipam/plan/**/*.rs"], "ipam::"),
];

/// A room of the agent's crate.
const fn agent(name: &'static str, files: &'static [&'static str], filter: &'static str) -> Room {
    Room { name, package: "dataplane-user", files, test_packages: &["dataplane-user"], targets: &["--lib"], filter }
}
