//! What the three microbenchmarks share: named workloads of a given size.
//!
//! `cargo bench --bench hub` times all; `hub NAME SIZE` runs one and nothing else, for `benches/instructions` to count; without
//! arguments, as `cargo test --bench hub` has it, each runs small and checks what it did.

use std::process::ExitCode;

use porter::runtime::clock;

/// One hot path. `run` does `size` operations, checks that they did what they should, and panics if not.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) run: fn(u64),
    /// Operations for a time that means something.
    pub(crate) size: u64,
}

/// In a test, the size is divided by this.
const SMALL_DIVISOR: u64 = 500;

/// Does what the arguments ask.
pub(crate) fn main(workloads: &[Workload]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--list"] => workloads.iter().for_each(|workload| println!("{} {}", workload.name, workload.size)),
        ["--bench", ..] => workloads.iter().for_each(time),
        [name, size] => {
            let found = workloads.iter().find(|workload| workload.name == *name).zip(size.parse().ok());
            let Some((workload, size)) = found else {
                eprintln!("no workload {name} of size {size}");
                return ExitCode::from(2);
            };
            (workload.run)(size);
        }
        _ => {
            for workload in workloads {
                (workload.run)((workload.size / SMALL_DIVISOR).max(1));
                println!("{} did what it should", workload.name);
            }
        }
    }
    ExitCode::SUCCESS
}

fn time(workload: &Workload) {
    let begin = clock::mono_us();
    (workload.run)(workload.size);
    let us = clock::mono_us() - begin;
    println!("{:<24} {:>8} ns an operation", workload.name, us * 1_000 / workload.size);
}
