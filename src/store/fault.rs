//! What can be wrong with the data folder, in sentences that name the file and say what to do. Faults end the start of
//! the server; once it runs, a failing disk is a [`crate::hub::storage::Trouble`] and its details are in the log.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

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
    /// The folder was in use before (it has `mids`), but holds no data now.
    DataLost {
        /// Where the database should be.
        database: PathBuf,
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

    /// What the fault means while the server runs.
    pub(super) fn trouble(&self) -> Trouble {
        let full = match self {
            Fault::File { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Fault::Database { source, .. } => cause(source) == Cause::Full,
            _ => false,
        };
        if full { Trouble::Full } else { Trouble::Disk }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::InUse { folder } => write!(f, "another porter is running on this data folder: {}", folder.display()),
            Fault::DataLost { database } => write!(
                f,
                "{} is missing or empty, but the file mids beside it says that this folder held data: restore a backup, \
                 or start with --accept-data-loss to go on with an empty database",
                database.display()
            ),
            Fault::Newer { database, found, known } => write!(
                f,
                "{} has version {found}, but this porter knows versions up to {known} only: start a newer porter, or \
                 restore a backup made by this one",
                database.display()
            ),
            Fault::BadMids { path } => write!(
                f,
                "{} holds no block number: restore it, or delete it and mids go on well above those that the database knows",
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
            Fault::File { path, action, .. } => write!(f, "can't {action} {}", path.display()),
            Fault::Database { path, action, source } => {
                write!(f, "can't {action} {}", path.display())?;
                match cause(source) {
                    Cause::Damaged => f.write_str(
                        ": it is damaged. Restore a backup, or move it away with its -wal and -shm and start with --accept-data-loss",
                    ),
                    Cause::Full => f.write_str(": the disk is full. Free some space"),
                    Cause::Value | Cause::Disk => Ok(()),
                }
            }
            Fault::Thread { .. } => f.write_str("the system gives no thread for the store"),
        }
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Fault::File { source, .. } | Fault::Thread { source } => Some(source),
            Fault::Database { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A fault with all its causes on one line, for the log.
pub(super) struct Chain<'a>(pub(super) &'a dyn Error);

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
