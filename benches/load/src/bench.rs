//! Runs the jobs, round by round, discards what was disturbed, and prints a JSON line for each server and job.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::fleet::Outcome;
use crate::jobs::{GROWTHS, JOBS, Job, Work};
use crate::machine::{self, DISTURBED_SHARE};
use crate::measure::{Figures, Measured, measure};
use crate::results::{Cell, Results, medians};
use crate::server::{Kind, Places, version};

/// Attempts at an undisturbed measurement; then the last is kept and marked.
const ATTEMPTS_MAX: usize = 6;
/// Before the next attempt, for others to finish.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(5);
/// In a small run: the size of a job is divided by this, and what has no more than this many stays as it is.
const SMALL_DIVISOR: u64 = 200;
const SMALL_LINKS: u64 = 300;
const SMALL_STEP: u64 = 1_000;

/// What the caller wants.
#[derive(Debug)]
pub struct Wishes {
    /// Only prove that all jobs work, on Porter.
    pub small: bool,
    /// Measure the peers as well.
    pub peers: bool,
    /// Keep disturbed measurements, marked: to try things out.
    pub noisy: bool,
    pub rounds: usize,
    /// Only jobs whose name begins so.
    pub only: String,
}

/// A job to be measured, and on which servers.
struct Task {
    name: String,
    job: Job,
    kinds: Vec<Kind>,
}

#[derive(Serialize)]
struct Line<'a> {
    job: &'a str,
    server: Kind,
    #[serde(flatten)]
    cell: &'a Cell,
}

/// Measures all that is wished for.
pub fn run(places: &Places, wishes: &Wishes) -> Outcome<Results> {
    let mut results =
        Results { date: today(), machine: machine::describe(), versions: BTreeMap::new(), rounds: wishes.rounds, jobs: BTreeMap::new() };
    for task in tasks(wishes) {
        let cells = run_task(places, wishes, &task);
        for (kind, cell) in &cells {
            results.versions.entry(*kind).or_insert_with(|| version(places, *kind));
            let line = Line { job: &task.name, server: *kind, cell };
            println!("{}", serde_json::to_string(&line).map_err(|error| crate::fleet::Bad(error.to_string()))?);
        }
        results.jobs.insert(task.name, cells);
    }
    Ok(results)
}

fn tasks(wishes: &Wishes) -> Vec<Task> {
    let with_peers = |job: &Job| {
        let mut kinds = vec![Kind::Porter];
        if wishes.peers {
            kinds.extend(job.peers());
        }
        kinds
    };
    let rows = JOBS.iter().map(|job| Task { name: job.id.to_owned(), job: *job, kinds: with_peers(job) });
    let steps = GROWTHS.iter().flat_map(|growth| {
        let sizes = growth.steps.iter().map(|step| step.0);
        let small_enough = sizes.zip(growth.jobs()).filter(|(size, _)| !wishes.small || *size <= SMALL_STEP);
        small_enough.map(|(_, (name, job))| Task { name, job, kinds: vec![Kind::Porter] }).collect::<Vec<_>>()
    });
    let wished = rows.chain(steps).filter(|task| task.name.starts_with(&wishes.only));
    wished.map(|task| if wishes.small { smaller(task) } else { task }).collect()
}

fn smaller(mut task: Task) -> Task {
    let least = match task.job.work {
        Work::Idle | Work::Connect { .. } => SMALL_LINKS,
        Work::Rest => 1,
        _ => 20,
    };
    match &mut task.job.work {
        Work::Openings { subscribers } => *subscribers = (*subscribers).min(SMALL_LINKS as u32),
        Work::Enqueue { before, .. } => *before = (*before).min(SMALL_STEP),
        _ => {}
    }
    task.job.operations = (task.job.operations / SMALL_DIVISOR).clamp(least, 20_000).min(task.job.operations);
    task
}

/// One round is one measurement on each server: so they share whatever mood the machine is in.
fn run_task(places: &Places, wishes: &Wishes, task: &Task) -> BTreeMap<Kind, Cell> {
    let mut rounds: BTreeMap<Kind, Vec<Figures>> = BTreeMap::new();
    let mut cells: BTreeMap<Kind, Cell> = BTreeMap::new();
    for _ in 0..wishes.rounds {
        for kind in &task.kinds {
            let cell = cells.entry(*kind).or_default();
            match attempt(places, wishes, *kind, task) {
                Ok((figures, disturbed)) => {
                    rounds.entry(*kind).or_default().push(figures);
                    cell.disturbed |= disturbed;
                }
                Err(bad) => {
                    eprintln!("BAD: {} on {}: {bad}", task.name, kind.name());
                    cell.bad = Some(bad.0);
                }
            }
        }
    }
    for (kind, figures) in rounds {
        cells.entry(kind).or_default().figures = medians(&figures);
    }
    cells
}

/// Measures until nobody else was busy meanwhile. The flag: it is disturbed all the same.
fn attempt(places: &Places, wishes: &Wishes, kind: Kind, task: &Task) -> Outcome<(Figures, bool)> {
    let mut left = if wishes.noisy || wishes.small { 1 } else { ATTEMPTS_MAX };
    loop {
        left -= 1;
        let Measured { figures, disturbance } = measure(places, kind, &task.job)?;
        let disturbed = disturbance.share > DISTURBED_SHARE;
        if !disturbed || left == 0 {
            return Ok((figures, disturbed));
        }
        let percent = disturbance.share * 100.0;
        eprintln!("{} on {}: discarded, {percent:.0} % was taken by others, most by {}", task.name, kind.name(), disturbance.culprit);
        std::thread::sleep(ATTEMPT_PAUSE);
    }
}

fn today() -> String {
    let output = Command::new("date").args(["-u", "+%F"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
