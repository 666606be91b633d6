//! Load for Porter and for what people would use otherwise: the same work in the same run.
//!
//! `porter-load bench` measures every job, round by round; `porter-load small` only proves that all of them work on Porter;
//! `porter-load tables` writes the tables of the documents from `benches/results.json`. `jobs` says what is measured, `measure`
//! how, `fleet` moves the bytes, a file for each protocol knows what they mean, `machine` tells what it cost and who disturbed.
//! Anything lost, refused, closed or late makes a job BAD and the exit code 1.
#![forbid(unsafe_code)]

mod bench;
mod documents;
mod driver;
mod fleet;
mod http;
mod jobs;
mod machine;
mod measure;
mod mqtt;
mod phone;
mod polling;
mod porter;
mod resp;
mod results;
mod rooms;
mod server;
mod sizing;
mod table;
mod websocket;

use std::path::Path;
use std::process::ExitCode;

use bench::Wishes;
use fleet::Outcome;
use results::Results;
use server::{Kind, Places};

const USAGE: &str = "usage: porter-load bench|small [JOB…'s first letters] | tables      (in the repository's folder)
variables: PEERS=1 measures the peers too; ROUNDS=5 in place of 3; NOISY=1 keeps disturbed runs, marked";
const RESULTS: &str = "benches/results.json";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["bench"] => bench(&wishes("")),
        ["bench", only] => bench(&wishes(only)),
        ["small"] => small(&Wishes { small: true, peers: false, rounds: 1, ..wishes("") }),
        ["small", only] => small(&Wishes { small: true, rounds: 1, ..wishes(only) }),
        ["tables"] => tables(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(bad) => {
            eprintln!("porter-load: {bad}");
            ExitCode::FAILURE
        }
    }
}

fn wishes(only: &str) -> Wishes {
    let is_set = |name: &str| std::env::var(name).is_ok_and(|value| value == "1");
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3).clamp(1, 99);
    Wishes { small: false, peers: is_set("PEERS"), noisy: is_set("NOISY"), rounds, only: only.to_owned() }
}

/// Measures, prints, and keeps the results if all jobs were measured, peers included. False: something is BAD.
fn bench(wishes: &Wishes) -> Outcome<bool> {
    machine::raise_descriptor_limit()?;
    machine::pin(machine::LOAD_CORE)?;
    let places = Places::new(Path::new("."))?;
    let results = bench::run(&places, wishes)?;
    println!("\n{}\n{}", table::markdown(&results, table::ENGLISH), table::summary(&results));
    if wishes.only.is_empty() && wishes.peers {
        results.write(&places.of(RESULTS))?;
        documents::update(&places.of(""), &results)?;
        println!("Written: {RESULTS} and the tables of the documents.");
    } else {
        println!("Nothing is written: that needs PEERS=1 and all jobs.");
    }
    Ok(is_good(&results))
}

fn small(wishes: &Wishes) -> Outcome<bool> {
    machine::raise_descriptor_limit()?;
    machine::pin(machine::LOAD_CORE)?;
    let results = bench::run(&Places::new(Path::new("."))?, wishes)?;
    let jobs = results.jobs.len();
    let bad = results.jobs.values().flat_map(|cells| cells.values()).filter(|cell| cell.bad.is_some()).count();
    println!("{jobs} jobs on {}, {bad} of them BAD", Kind::Porter.name());
    Ok(jobs > 0 && is_good(&results))
}

fn tables() -> Outcome<bool> {
    let places = Places::new(Path::new("."))?;
    documents::update(&places.of(""), &Results::read(&places.of(RESULTS))?)?;
    Ok(true)
}

fn is_good(results: &Results) -> bool {
    results.jobs.values().flat_map(|cells| cells.values()).all(|cell| cell.bad.is_none())
}
