//! `cargo xtask test mutants`: changes the source in one place at a time and expects a host test to
//! fail.
//!
//! cargo-mutants lists the changes, which are made in a copy of the checkout. A mutant that all
//! tests pass is a survivor: its behaviour is not tested. tests/mutants/accepted.txt lists
//! survivors with a reason; any other one fails the run. docs/mutation-testing.md has the results.

mod accepted;
mod cargo_mutants;
mod mutant;
mod report;
mod room;
mod trial;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Resource, Rlimit, setrlimit};

use self::accepted::Entry;
use self::cargo_mutants::CargoMutants;
use self::mutant::Mutant;
use self::report::Report;
use self::room::{ROOMS, Room};
use self::trial::Trial;
use super::copy;
use crate::paths::Paths;
use crate::shell;

/// Address space of each process: a mutant that allocates without end must not take the machine's
/// memory before its time is over.
const MEMORY: u64 = 8 << 30;

/// The commit that `--changed` compares with.
const PARENT: &str = "HEAD~1";

/// Options of `cargo xtask test mutants`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only mutants of files whose path contains this
    #[arg(long, value_name = "TEXT")]
    file: Option<String>,
    /// Only mutants of lines that changed since this commit
    #[arg(long, value_name = "COMMIT", num_args = 0..=1, default_missing_value = PARENT)]
    changed: Option<String>,
    /// Only a random sample of so many mutants
    #[arg(long, value_name = "NUMBER")]
    sample: Option<usize>,
    /// Choose another sample, and another order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Begin no mutant after so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Print the mutants instead of testing them
    #[arg(long)]
    list: bool,
}

/// Lists or tests mutants. Fails if one survives that is not accepted.
pub(crate) fn run(paths: &Paths, options: &Options) -> Result<()> {
    let deadline = options.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let diff = match &options.changed {
        None => None,
        Some(base) => match diff(paths, base)? {
            Some(diff) => Some(diff),
            None => return Ok(()),
        },
    };
    let copy = copy::make(paths, "mutants")?;
    let tool = CargoMutants::ensure(paths)?;
    let accepted = accepted::read(paths)?;
    let mut rooms = Vec::new();
    for room in ROOMS {
        let mutants = tool.list(&copy.root, room, diff.as_deref())?;
        rooms.push((room, mutants));
    }
    if options.file.is_none() && diff.is_none() {
        check_entries(&accepted, &rooms)?;
    }
    let chosen = choose(&rooms, options);
    let total: usize = chosen.iter().map(|(_, mutants)| mutants.len()).sum();
    for (room, mutants) in &chosen {
        println!("{:<14} {} mutants", room.name, mutants.len());
        if options.list {
            mutants.iter().for_each(|mutant| println!("{}", mutant.place));
        }
    }
    if options.list || total == 0 {
        println!("{total} mutants");
        return Ok(());
    }
    let report = test(&copy, chosen, deadline)?;
    shell::step("results of the mutants");
    let survivors = report.print(&accepted);
    if report.len() < total {
        println!("left out: {} of {total} mutants, for want of time", total - report.len());
    }
    if !survivors.is_empty() {
        bail!("{} mutants survived: test what they change, or say why not in {}", survivors.len(), accepted::FILE);
    }
    Ok(())
}

/// Tests the chosen mutants of each room.
fn test(copy: &Paths, chosen: Vec<(&'static Room, Vec<Mutant>)>, deadline: Option<Instant>) -> Result<Report> {
    let limit = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    setrlimit(Resource::As, limit).context("cannot limit the memory of tests")?;
    let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let mut report = Report::default();
    for (room, mutants) in chosen.into_iter().filter(|(_, mutants)| !mutants.is_empty()) {
        if is_over() {
            break;
        }
        shell::step(&format!("{}: tests without a mutation", room.name));
        let trial = Trial::start(copy, room)?;
        println!("pass; a mutant gets {} s", trial.limit().as_secs());
        let mut results = Vec::new();
        for (number, mutant) in mutants.iter().enumerate() {
            if is_over() {
                break;
            }
            let start = Instant::now();
            let outcome = trial.run(mutant)?;
            let (time, number) = (start.elapsed().as_secs(), number + 1);
            println!("{number}/{}: {outcome:?} in {time} s: {}", mutants.len(), mutant.place);
            results.push((mutant.clone(), outcome));
        }
        report.add(room.name, results);
    }
    Ok(report)
}

/// Applies the options to the mutants of all rooms.
fn choose(rooms: &[(&'static Room, Vec<Mutant>)], options: &Options) -> Vec<(&'static Room, Vec<Mutant>)> {
    let matches = |mutant: &Mutant| options.file.as_ref().is_none_or(|text| mutant.file().contains(text.as_str()));
    let matching: Vec<_> = rooms.iter().flat_map(|(_, mutants)| mutants).filter(|m| matches(m)).cloned().collect();
    let number = options.sample.unwrap_or(matching.len());
    let sample = mutant::sample(matching, number, options.seed);
    let of = |mutants: &[Mutant]| sample.iter().filter(|mutant| mutants.contains(mutant)).cloned().collect();
    rooms.iter().map(|(room, mutants)| (*room, of(mutants))).collect()
}

/// Fails for an accepted survivor that is not among the mutants.
fn check_entries(accepted: &[Entry], rooms: &[(&Room, Vec<Mutant>)]) -> Result<()> {
    let exists = |entry: &Entry| rooms.iter().any(|(_, mutants)| mutants.iter().any(|mutant| entry.is_of(mutant)));
    let gone: Vec<_> = accepted.iter().filter(|entry| !exists(entry)).map(Entry::name).collect();
    if !gone.is_empty() {
        bail!("{} names mutants that do not exist:\n{}", accepted::FILE, gone.join("\n"));
    }
    Ok(())
}

/// Writes the changes of Rust sources since a commit to a file. `None`: there is nothing to compare
/// with, which is said.
fn diff(paths: &Paths, base: &str) -> Result<Option<PathBuf>> {
    let git = |arguments: &[&str]| shell::output(Command::new("git").current_dir(&paths.root).args(arguments));
    if git(&["rev-parse", "--verify", "--quiet", &format!("{base}^{{commit}}")]).is_err() {
        if base != PARENT {
            bail!("there is no commit {base}");
        }
        let shallow = git(&["rev-parse", "--is-shallow-repository"])?.trim() == "true";
        let why = if shallow { "the clone is shallow: fetch one commit more" } else { "it is the first one" };
        println!("no mutants: the last commit has no parent here ({why})");
        return Ok(None);
    }
    let text = git(&["diff", "--no-ext-diff", "--no-color", "--src-prefix=a/", "--dst-prefix=b/", base, "--", "*.rs"])?;
    let path = paths.target.join("mutants.diff");
    std::fs::create_dir_all(&paths.target)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(path))
}
