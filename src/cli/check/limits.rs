//! The limits against what the machine has: open files, and memory.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::server::Server;
use super::settings::set;
use super::{Findings, Mend};
use crate::config::Effective;
use crate::limits::UNCOMMITTED_BYTES_MAX;

/// Files that are open beside the connections: the database, ports, the log, and some room.
const OTHER_FILES: u64 = 64;
/// Bytes of memory that one waiting delivery takes: a mid in its alias's list, and its message's entry (Design §6).
const DELIVERY_BYTES: u64 = 40;

pub(super) fn look(settings: &Effective, server: Option<&Server>, findings: &mut Findings) {
    files(settings, server, findings);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemTotal:"));
    if let Some(kilobytes) = memory {
        self::memory(settings, kilobytes << 10, findings);
    }
}

fn files(settings: &Effective, server: Option<&Server>, findings: &mut Findings) {
    let needed = settings.config.limits.connections as u64 + OTHER_FILES;
    let of_server = server.and_then(|server| Some((server.pid, open_files(server.pid)?)));
    let allowed = of_server.map_or_else(|| getrlimit(Resource::Nofile).maximum, |(_, allowed)| allowed);
    let Some(allowed) = allowed.filter(|allowed| *allowed < needed) else {
        return findings.ok("open files", format!("limits.connections {} fits", settings.config.limits.connections));
    };
    let text = format!("{allowed} may be open, but limits.connections needs {needed}: connections would be refused");
    match of_server {
        Some((pid, _)) => {
            let text = format!("{text}. For good: LimitNOFILE={needed} in its unit; until its next start");
            findings.warning("open files", text, Mend::Run(format!("sudo prlimit --pid {pid} --nofile={needed}:{needed}")));
        }
        None => {
            let text = format!("{text}. Under systemd set LimitNOFILE={needed} in the unit; or lower the setting");
            let fits = allowed.saturating_sub(OTHER_FILES).max(1);
            findings.warning("open files", text, set(settings, "limits.connections", &fits.to_string()));
        }
    }
}

/// How many files a process may open: `Some(None)`: any number; `None`: this account may not know.
fn open_files(pid: u32) -> Option<Option<u64>> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    Some(line.split_whitespace().nth(4)?.parse().ok())
}

fn memory(settings: &Effective, memory: u64, findings: &mut Findings) {
    let limits = &settings.config.limits;
    let deliveries = (limits.deliveries as u64).saturating_mul(DELIVERY_BYTES);
    let needed = (limits.outbox_total as u64).saturating_add(deliveries).saturating_add(UNCOMMITTED_BYTES_MAX as u64);
    let text = format!("the limits allow {} MB, the machine has {} MB", needed >> 20, memory >> 20);
    if needed <= memory / 4 * 3 {
        return findings.ok("memory", text);
    }
    let fits = (memory / 4).max(limits.outbox as u64);
    findings.warning(
        "memory",
        format!("{text}: at its limits Porter would be ended"),
        set(settings, "limits.outbox_total", &fits.to_string()),
    );
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::config::Layers;

    #[test]
    fn limits_beyond_the_memory_are_found() {
        let settings = Effective::new(&Layers::default()).unwrap();
        for (megabytes, grade) in [(256, Grade::Warning), (512, Grade::Ok), (8_192, Grade::Ok)] {
            let mut findings = Findings::default();
            memory(&settings, megabytes << 20, &mut findings);
            assert_eq!(findings.0[0].grade, grade, "{megabytes} MB");
        }
    }

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(kilobytes("MemTotal:       24684092 kB\nMemFree: 1 kB\n", "MemFree:"), Some(1));
        assert!(open_files(std::process::id()).is_some());
        assert_eq!(open_files(0), None);
    }
}
