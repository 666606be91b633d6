//! The disk that the data folder lies on, looked at every half second by a thread of its own: a disk that hangs holds up nobody
//! who asks. It reads sizes and nothing else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::limits::{DISK_LOOK_AGE_MAX, DISK_LOOKED_AT_EVERY};
use crate::runtime::clock;

/// What one look found. All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskFigures {
    /// The disk's size.
    pub size: u64,
    /// What of it an ordinary user's process can still take.
    pub free: u64,
    /// The database's file.
    pub database: u64,
    /// Its log's, the WAL.
    pub log: u64,
}

/// The latest look. It goes on as long as the process.
#[derive(Debug)]
pub struct Disk {
    latest: Mutex<Option<(Instant, DiskFigures)>>,
}

impl Disk {
    /// Looks once, and from then on every [`DISK_LOOKED_AT_EVERY`]. `database` and `log` are files in `folder`.
    #[must_use]
    pub fn watch(folder: &Path, database: PathBuf, log: PathBuf) -> Arc<Disk> {
        let disk = Arc::new(Disk { latest: Mutex::new(None) });
        let (watched, folder) = (Arc::clone(&disk), folder.to_owned());
        let look = move || {
            // Nothing is said of a folder that can't be looked at: the store says what it can't do with it.
            if let Ok(figures) = look(&folder, &database, &log) {
                *watched.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((clock::mono(), figures));
            }
        };
        look();
        let looking = move || {
            loop {
                thread::sleep(DISK_LOOKED_AT_EVERY);
                look();
            }
        };
        if let Err(error) = thread::Builder::new().name("disk".into()).spawn(looking) {
            log::error!("disk_not_watched reason=\"{error}\" effect=free_space_is_unknown_until_restart");
        }
        disk
    }

    /// What the latest look found; nothing if that was too long ago to be true still.
    #[must_use]
    pub fn figures(&self) -> Option<DiskFigures> {
        let (at, figures) = (*self.latest.lock().unwrap_or_else(PoisonError::into_inner))?;
        is_recent(clock::mono().saturating_duration_since(at)).then_some(figures)
    }
}

fn is_recent(age: Duration) -> bool {
    age <= DISK_LOOK_AGE_MAX
}

fn look(folder: &Path, database: &Path, log: &Path) -> io::Result<DiskFigures> {
    let system = rustix::fs::statvfs(folder)?;
    // A file that is not there has no bytes.
    let bytes = |file: &Path| std::fs::metadata(file).map_or(0, |found| found.len());
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    Ok(DiskFigures { size: system.f_blocks.saturating_mul(system.f_frsize), free, database: bytes(database), log: bytes(log) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_finds_the_sizes_and_old_ones_are_not_shown() {
        let file = std::env::temp_dir().join(format!("porter-disk-{}", std::process::id()));
        std::fs::write(&file, "12345").unwrap();
        let disk = Disk::watch(&std::env::temp_dir(), file.clone(), file.with_extension("none"));
        let found = disk.figures().unwrap();
        assert_eq!((found.database, found.log), (5, 0));
        assert!(found.size >= found.free && found.free > 0, "{found:?}");
        std::fs::remove_file(&file).unwrap();
        let nowhere = Disk::watch(&file, file.clone(), file.clone());
        assert_eq!(nowhere.figures(), None);
        assert!(is_recent(DISK_LOOK_AGE_MAX) && !is_recent(DISK_LOOK_AGE_MAX + Duration::from_millis(1)));
    }
}
