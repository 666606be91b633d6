//! What /proc tells: what a process has used, what others did meanwhile, and what machine this is.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The server's core, and the load's.
pub const SERVER_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;
/// Of the two cores' time: if others take more, the run is disturbed.
pub const DISTURBED_SHARE: f64 = 0.03;
/// The kernel's threads have this flag.
const PF_KTHREAD: u64 = 0x0020_0000;

/// Pins this thread, and the processes that it starts from now on.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// As many descriptors as the kernel gives: a fleet has one a connection.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu_s: f64,
    /// Bytes that it caused to be written to the disk.
    pub written: u64,
}

pub fn usage(pid: u32) -> io::Result<Usage> {
    let stat = Stat::read(pid)?;
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    Ok(Usage { cpu_s: stat.ticks as f64 / ticks_per_s(), written: field(&io, "write_bytes:") })
}

/// Kilobytes of a field of /proc/PID/status, such as `VmRSS`.
pub fn memory_kb(pid: u32, name: &str) -> io::Result<u64> {
    Ok(field(&fs::read_to_string(format!("/proc/{pid}/status"))?, name))
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0)
}

fn ticks_per_s() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

struct Stat {
    name: String,
    is_kernel: bool,
    /// User and system time, those of its ended children included: so nothing is lost when one ends.
    ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat"))?).ok_or_else(|| io::Error::other("unreadable stat"))
    }

    fn parse(text: &str) -> Option<Stat> {
        let (head, tail) = text.rsplit_once(')')?;
        let fields: Vec<u64> = tail.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0)).collect();
        let name = head.split_once('(')?.1.to_owned();
        // Fields of proc(5), less the four that stand before: flags 9, utime 14 to cstime 17.
        Some(Stat { name, is_kernel: fields.get(5)? & PF_KTHREAD != 0, ticks: fields.get(10..14)?.iter().sum() })
    }
}

/// Watches what others do during a run.
pub struct Watch {
    own: Vec<u32>,
    others: HashMap<u32, Stat>,
    stolen: u64,
    begin: Instant,
}

/// What others took, as a share of the two cores' time.
#[derive(Debug, Clone, Default)]
pub struct Disturbance {
    pub share: f64,
    /// Who took most of it.
    pub culprit: String,
}

impl Watch {
    /// Begins to watch all processes but this one and `own`. The kernel's threads write our data: they don't count.
    pub fn begin(own: &[u32]) -> Watch {
        let mut own = own.to_vec();
        own.push(std::process::id());
        Watch { others: others(&own), own, stolen: stolen(), begin: Instant::now() }
    }

    pub fn end(self) -> Disturbance {
        let mut total = stolen().saturating_sub(self.stolen);
        let mut most = (total, "the host".to_owned());
        for (pid, stat) in others(&self.own) {
            let before = self.others.get(&pid).map_or(0, |before| before.ticks);
            let took = stat.ticks.saturating_sub(before);
            total += took;
            if took > most.0 {
                most = (took, stat.name);
            }
        }
        let share = total as f64 / ticks_per_s() / (2.0 * self.begin.elapsed().as_secs_f64().max(0.01));
        Disturbance { share, culprit: most.1 }
    }
}

fn others(own: &[u32]) -> HashMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let stats = pids.filter(|pid| !own.contains(pid)).filter_map(|pid| Some((pid, Stat::read(pid).ok()?)));
    stats.filter(|(_, stat)| !stat.is_kernel).collect()
}

/// Ticks that the host took from this machine.
fn stolen() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse().ok()).unwrap_or(0)
}

/// What machine this is, as its owner would say it.
pub fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:") >> 20;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, {cores} cores, {} GB, Linux {}", model.trim_start_matches(['\t', ' ', ':']), memory + 1, kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let stat = Stat::parse("42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7").unwrap();
        assert_eq!((stat.name.as_str(), stat.ticks, stat.is_kernel), ("a) b (c", 100, false));
    }

    #[test]
    fn this_process_is_seen_and_not_counted() {
        let end = Instant::now() + std::time::Duration::from_millis(60);
        while Instant::now() < end {}
        assert!(usage(std::process::id()).unwrap().cpu_s > 0.0);
        assert!(!others(&[std::process::id()]).contains_key(&std::process::id()));
    }
}
