//! Verifier budgets: instructions, stack and load time of every program (ARCHITECTURE.md, I20).
//!
//! A program that exceeds its budget here would still load on this kernel, but the margin for other
//! kernels and for changes is gone.

use std::fmt::Write as _;
use std::time::Duration;

use aya::programs::{Program, ProgramError, ProgramInfo};
use dataplane_host::verifier::despite_signals;
use nix::time::{ClockId, clock_gettime};

use crate::stack::depths;

const MAX_INSTRUCTIONS: u32 = 50_000;
/// Instruction budget before Linux 6.8, whose verifier prunes fewer states (checked on 6.1).
const MAX_INSTRUCTIONS_OF_OLD: u32 = 150_000;
const MAX_STACK: u64 = 448;
/// Time of a processor. Several times what an idle machine takes: a busy one shares its caches.
const MAX_LOAD_MS: u128 = 250;

/// Returns the CPU time of this thread, which includes the kernel's work for it. Machines are
/// shared, so wall-clock time would measure other tests.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn max_instructions() -> u32 {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(8)) { MAX_INSTRUCTIONS_OF_OLD } else { MAX_INSTRUCTIONS }
}

/// Loads and unloads a program. Returns the time of the load and the kernel's information about the
/// program.
fn load_program(program: &mut Program) -> Result<(Duration, ProgramInfo), ProgramError> {
    macro_rules! load {
        ($p:ident) => {{
            // The stages are loaded already.
            let _ = $p.unload();
            let start = cpu_time();
            despite_signals(|| $p.load())?;
            let result = (cpu_time() - start, $p.info()?);
            $p.unload()?;
            Ok(result)
        }};
    }
    match program {
        Program::SchedClassifier(p) => load!(p),
        Program::CgroupSockAddr(p) => load!(p),
        Program::CgroupSock(p) => load!(p),
        other => panic!("unexpected program type {:?}", other.prog_type()),
    }
}

#[test]
#[ignore = "needs root"]
fn kernel_accepts_every_program_within_its_budget() {
    let mut ebpf = packet_tests::load("ropeway").unwrap();
    let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    assert!(names.len() >= 13, "{names:?}");
    let stacks = depths(&std::fs::read(packet_tests::object("ropeway")).unwrap());
    let (mut report, mut over) = (String::new(), Vec::new());
    for name in &names {
        let program = ebpf.program_mut(name).unwrap();
        let mut best = u128::MAX;
        let mut verified = 0;
        for _ in 0..3 {
            let (took, info) = load_program(program).unwrap_or_else(|e| panic!("{name}: {e}"));
            best = best.min(took.as_millis());
            verified = info.verified_instruction_count().unwrap_or(0);
        }
        let stack = stacks[name];
        writeln!(
            report,
            "{name:16} {verified:6} instructions verified, {stack:3} bytes of stack, loaded in {best:3} ms"
        )
        .unwrap();
        if verified > max_instructions() {
            over.push(format!("{name}: {verified} instructions"));
        }
        if stack > MAX_STACK {
            over.push(format!("{name}: {stack} bytes of stack"));
        }
        // Times of an emulated machine are meaningless.
        if best > MAX_LOAD_MS && std::env::var_os("ROPEWAY_SLOW_MACHINE").is_none() {
            over.push(format!("{name}: {best} ms"));
        }
    }
    print!("{report}");
    assert!(over.is_empty(), "{over:#?}");
}

/// The benchmark must run the same stages as the product.
#[test]
#[ignore = "needs root"]
fn kernel_takes_the_benchmark_with_its_stages() {
    let ebpf = packet_tests::load("bench").unwrap();
    assert!(ebpf.program("bench_from_pod").is_some());
}
