//! The plugin's log: lines on standard error, which the runtime copies to its log. Used by all
//! modules; never contains input.

use std::io::Write;

/// Writes a line. Input is never logged: it may hold secrets of other plugins in the chain.
pub(crate) fn log(line: &str) {
    // The runtime may have closed its end of the pipe; there is no other place to report that.
    drop(writeln!(std::io::stderr(), "ropeway-cni: {line}"));
}
