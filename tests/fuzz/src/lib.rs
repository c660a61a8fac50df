//! A fuzzer for parsers and decoders that runs in ordinary tests, with the stable tool chain.
//!
//! A test hands [`run`] valid inputs and a function that must end, with a result or an error, for
//! every input. Inputs are changed at random, bytes and JSON values alike; those that the function
//! accepts are changed further. `tests/fuzz/corpus/TARGET/` holds inputs that failed once, which
//! every run repeats. Tests of this kind are called `fuzz_*`; `cargo xtask fuzz` runs them longer.
#![allow(clippy::panic, reason = "tests panic to fail")]

mod mutate;
mod random;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mutate::Mutator;
use random::Random;

/// The environment variable with the seconds that each target runs; without it, a fixed number of
/// inputs of a fixed seed is tried.
pub const SECONDS: &str = "ROPEWAY_FUZZ_SECONDS";
/// The environment variable with the seed.
pub const SEED: &str = "ROPEWAY_FUZZ_SEED";

/// Inputs that a run tries without [`SECONDS`].
const INPUTS: u64 = 2000;
/// Longest time that one input may take. A debug build on a busy machine needs some of it.
const LONGEST: Duration = Duration::from_secs(1);
/// Most inputs that are kept for further changes.
const KEPT: usize = 256;
/// Longest input, bytes.
const MOST: usize = 1 << 13;

/// Runs `check` on the corpus of the target, on `seeds`, and on changed inputs. `check` returns
/// true for an input that it accepts. `words` are inserted whole, such as names of fields.
///
/// # Panics
/// If `check` panics, or takes longer than a second. The input is then a file in the corpus.
pub fn run(target: &str, seeds: &[&[u8]], words: &[&str], check: impl Fn(&[u8]) -> bool) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let known = fs::read_dir(&folder).into_iter().flatten().filter_map(|entry| fs::read(entry.ok()?.path()).ok());
    let mut pool: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).chain(known).collect();
    for input in &pool {
        assert!(accepts(&folder, &check, input) || !seeds.contains(&&input[..]), "{target}: a seed is rejected");
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seconds, seed) = (number(SECONDS), number(SEED).unwrap_or(1));
    let mut random = Random::new(seed);
    let (start, mut tried, mut accepted) = (Instant::now(), 0_u64, 0_u64);
    while seconds.map_or(tried < INPUTS, |seconds| start.elapsed() < Duration::from_secs(seconds)) {
        let input = Mutator { random: &mut random, pool: &pool, words, most: MOST }.input();
        tried += 1;
        if accepts(&folder, &check, &input) {
            accepted += 1;
            if pool.len() < KEPT {
                pool.push(input);
            } else {
                // Seeds stay: what grew from them may have lost what makes them interesting.
                let at = seeds.len() + random.below(KEPT - seeds.len());
                pool[at] = input;
            }
        }
    }
    println!("{target}: {tried} inputs from seed {seed}, {accepted} accepted");
}

/// Runs the check on one input; returns whether it accepts the input.
fn accepts(folder: &PathBuf, check: &impl Fn(&[u8]) -> bool, input: &[u8]) -> bool {
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| check(input)));
    let time = start.elapsed();
    match outcome {
        Ok(accepted) if time <= LONGEST => accepted,
        outcome => {
            let name = input
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
            let file = folder.join(format!("{name:016x}"));
            let written = fs::create_dir_all(folder).and_then(|()| fs::write(&file, input));
            let what = if outcome.is_err() { "panicked".to_owned() } else { format!("took {time:?}") };
            panic!("{what}: {} ({written:?}): {}", file.display(), String::from_utf8_lossy(input));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_fault_is_found_and_kept() {
        let target = "planted";
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        // Only a changed value shows it: the port is a number that does not fit.
        let check = |input: &[u8]| {
            let Ok(value) = serde_json::from_slice::<serde_json::Value>(input) else { return false };
            assert!(value["port"].as_i64().is_none_or(|port| port < 65_536));
            true
        };
        let seed = br#"{"name":"web","port":80}"#;
        let found = catch_unwind(|| run(target, &[seed], &[], check));
        let kept = fs::read_dir(&folder).map_or(0, Iterator::count);
        fs::remove_dir_all(&folder).ok();
        assert!(found.is_err());
        assert_eq!(kept, 1, "the input is a file of the corpus");
    }

    #[test]
    fn run_without_fault_ends() {
        run("none", &[b"seed"], &["word"], |input| input.len() < 100);
    }
}
