//! What can be wrong with the data folder, in sentences that name the file and say what to do. The few that a person has to settle
//! end the start of the server; all others are a [`crate::hub::storage::Trouble`] to it, and their details are in the log.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::hub::storage::Trouble;
use crate::store::cause::{Cause, cause};

/// Why the data folder can't be used.
#[derive(Debug)]
pub enum Fault {
    /// Another process has locked the folder.
    InUse {
        /// The data folder.
        folder: PathBuf,
    },
    /// The database was written by a newer Porter.
    Newer {
        /// The database.
        database: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The file `mids` holds no block number.
    BadMids {
        /// The file.
        path: PathBuf,
    },
    /// All mids are used up: impossible, unless the file `mids` was edited.
    MidsExhausted {
        /// The file.
        path: PathBuf,
    },
    /// A setting of the database that the promise of Protocol §4 rests on did not take effect.
    Setting {
        /// The database.
        database: PathBuf,
        /// The pragma.
        pragma: &'static str,
        /// What it must be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// The log of an earlier run or of a failed sync can't be moved into the database while another program reads it.
    Held {
        /// The database.
        database: PathBuf,
    },
    /// There is no database to copy.
    NoDatabase {
        /// Where it should be.
        database: PathBuf,
    },
    /// A file is no database of Porter's, or contradicts itself.
    NotWhole {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A backup would replace what is there.
    Exists {
        /// What is there.
        target: PathBuf,
        /// Whether it is a file, which could be replaced.
        is_file: bool,
    },
    /// A backup would lie in the data folder itself.
    BackupInside {
        /// The backup.
        target: PathBuf,
    },
    /// Another process writes a backup to the same file.
    BackupRuns {
        /// The unfinished backup.
        path: PathBuf,
    },
    /// There is too little space for a copy.
    NoSpace {
        /// The copy.
        path: PathBuf,
        /// What must be free, in bytes.
        needed: u64,
        /// What is free, in bytes.
        free: u64,
    },
    /// A restore was interrupted when its database was ready.
    RestorePending {
        /// The data folder.
        folder: PathBuf,
    },
    /// A database can't be copied.
    Copy {
        /// The original.
        from: PathBuf,
        /// The copy.
        to: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The files name a later block of mids than the one that this run, which could not read them at its start, goes by.
    LateMids {
        /// The database.
        path: PathBuf,
    },
    /// A file can't be read or written.
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The database can't be read or written.
    Database {
        /// The database.
        path: PathBuf,
        /// What was tried: `open`, `load`, …
        action: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The system gives no thread.
    Thread {
        /// Why not.
        source: io::Error,
    },
}

impl Fault {
    /// For `map_err`: `action` on the file `path` failed.
    pub(super) fn file(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Fault {
        move |source| Fault::File { path: path.to_owned(), action, source }
    }

    /// For `map_err`: `action` on the database `path` failed.
    pub(super) fn database(path: &Path, action: &'static str) -> impl FnOnce(rusqlite::Error) -> Fault {
        move |source| Fault::Database { path: path.to_owned(), action, source }
    }

    /// For `map_err`: copying the database `from` to `to` failed.
    pub(super) fn copying(from: &Path, to: &Path) -> impl FnOnce(rusqlite::Error) -> Fault {
        move |source| Fault::Copy { from: from.to_owned(), to: to.to_owned(), source }
    }

    /// What the fault means while the server runs.
    pub(super) fn trouble(&self) -> Trouble {
        let full = match self {
            Fault::File { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Fault::Database { source, .. } | Fault::Copy { source, .. } => cause(source) == Cause::Full,
            _ => false,
        };
        if full { Trouble::Full } else { Trouble::Disk }
    }
}

impl Fault {
    /// Whether the database itself is what is wrong: no space and no other disk would help.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            // A step that does not fit may be a mistake in the step: nothing is set aside for that.
            Fault::Database { source, action, .. } => {
                cause(source) == Cause::Damaged && (*action != "migrate" || source.sqlite_error_code() != Some(ErrorCode::Unknown))
            }
            _ => false,
        }
    }

    /// Whether a person has to choose before the server can start; everything else passes, or is survived.
    pub(super) fn ends_start(&self) -> bool {
        matches!(self, Fault::InUse { .. } | Fault::Newer { .. } | Fault::MidsExhausted { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::InUse { folder } => write!(f, "another porter is running on this data folder: {}; stop it first", folder.display()),
            Fault::Newer { database, found, known } => write!(
                f,
                "{} has version {found}, but this porter knows versions up to {known} only: start a newer porter, or \
                 restore a backup made by this one",
                database.display()
            ),
            Fault::BadMids { path } => write!(
                f,
                "{} holds no block number: start porter, which goes on well above all numbers that were used, or bring the file back",
                path.display()
            ),
            Fault::MidsExhausted { path } => {
                write!(f, "{} names a block beyond the last one: no mids are left; restore the file from a backup", path.display())
            }
            Fault::Setting { database, pragma, wanted, found } => write!(
                f,
                "{}: {pragma} is {found}, not {wanted}: the data folder must be on a local file system that supports it",
                database.display()
            ),
            Fault::Held { database } => {
                write!(f, "another program is reading {}: end it, so that the database's log can be written back", database.display())
            }
            Fault::NoDatabase { database } => write!(f, "there is no database {}: is --data-dir right?", database.display()),
            Fault::NotWhole { path, why } => {
                write!(f, "{} is damaged or no database of porter's: {why}", path.display())
            }
            Fault::Exists { target, is_file: true } => {
                write!(f, "{} is already there: choose another name, or replace it with --overwrite", target.display())
            }
            Fault::Exists { target, is_file: false } => write!(f, "{} is no file: name the file to write", target.display()),
            Fault::BackupInside { target } => {
                write!(f, "{} is in the data folder and would be lost with it: name a file on another disk", target.display())
            }
            Fault::BackupRuns { path } => write!(f, "another backup to this file is running: it writes {}", path.display()),
            Fault::NoSpace { path, needed, free } => write!(
                f,
                "too little space for {}: {} MB must be free, {} MB are; free some, or name a file on another disk",
                path.display(),
                needed.div_ceil(1 << 20),
                free >> 20
            ),
            Fault::RestorePending { folder } => write!(
                f,
                "a restore of {} was interrupted when its database was ready: start porter, which puts it in place, or restore again",
                folder.display()
            ),
            Fault::Copy { from, to, source } => {
                write!(f, "can't copy {} to {}", from.display(), to.display())?;
                because(f, "the original", source)
            }
            Fault::LateMids { path } => {
                write!(f, "{}: messages in it have higher numbers than this run gives out; restart porter", path.display())
            }
            Fault::File { path, action, .. } => write!(f, "can't {action} {}", path.display()),
            Fault::Database { path, action, source } => {
                write!(f, "can't {action} {}", path.display())?;
                because(f, "it", source)
            }
            Fault::Thread { .. } => f.write_str("the system gives no thread for the store"),
        }
    }
}

/// Adds what people can do something about.
fn because(f: &mut fmt::Formatter<'_>, what: &str, source: &rusqlite::Error) -> fmt::Result {
    match cause(source) {
        Cause::Damaged => write!(f, ": {what} is damaged"),
        Cause::Full => f.write_str(": the disk is full. Free some space"),
        Cause::Value | Cause::Disk => Ok(()),
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Fault::File { source, .. } | Fault::Thread { source } => Some(source),
            Fault::Database { source, .. } | Fault::Copy { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A fault with all its causes on one line, for the log and the command line.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}
