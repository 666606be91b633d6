//! Whether a server runs on the data folder, and which process it is: the one that has locked it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

use super::Findings;

/// The server that runs on the data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    /// Its process; 0: one of another container, which this one can't see.
    pub(super) pid: u32,
}

/// Finds it by its lock, without touching the lock: a server that starts at this moment must not find it taken.
pub(super) fn find(folder: &Path) -> Option<Server> {
    let lock = fs::metadata(folder.join("lock")).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder(&locks, lock.dev(), lock.ino()).map(|pid| Server { pid })
}

pub(super) fn look(server: Option<&Server>, findings: &mut Findings) {
    findings.ok("server", server.map_or("none runs on this data folder".to_owned(), |server| format!("runs, process {}", server.pid)));
}

/// The process that has locked a file, in the list of the kernel: `1: FLOCK  ADVISORY  WRITE 4711 fe:01:131078 0 EOF`.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let named = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = words[..] else { return None };
        // Where a file system has devices of its own making, the list names another one.
        let is_it = file == named || (major(device) == 0 && file.ends_with(&format!(":{inode}")));
        pid.parse().ok().filter(|_| is_it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_read_from_the_kernels_list() {
        let locks = "1: POSIX  ADVISORY  WRITE 1 fe:00:7 0 EOF\n2: FLOCK  ADVISORY  READ 2 fe:00:7 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 3 fe:00:7 0 EOF\n4: FLOCK  ADVISORY  WRITE 4 fe:00:17 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 5 fe:00:7 0 EOF\n";
        let device = rustix::fs::makedev(0xfe, 0);
        assert_eq!(holder(locks, device, 7), Some(5));
        assert_eq!(holder(locks, device, 8), None);
        assert_eq!(holder(locks, rustix::fs::makedev(0xfd, 0), 7), None);
        assert_eq!(holder(locks, rustix::fs::makedev(0, 40), 17), Some(4));
    }
}
