//! Sets up the agent's log on standard error, as text or JSON.
//!
//! `ropeway-agent` calls it once, after the configuration is checked. Libraries log warnings and
//! errors only, unless the level is `trace`.

use std::io::{IsTerminal, stderr};

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, LogFormat};

/// Libraries that are limited to warnings below level `trace`.
const LIBRARIES: [&str; 7] = ["aya", "aya_obj", "hyper", "hyper_util", "kube", "rustls", "tower"];

/// Installs the global log subscriber. Panics if called twice.
pub fn init(config: &Config) {
    let level = config.log_level.parse().unwrap_or(Level::INFO);
    let mut filter = Targets::new().with_default(level);
    if level < Level::TRACE {
        filter = filter.with_targets(LIBRARIES.map(|l| (l, LevelFilter::WARN.min(LevelFilter::from_level(level)))));
    }
    let lines = fmt::layer().with_writer(stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Text => registry.with(lines.with_target(false).with_ansi(stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}
