//! What the store has found wrong with its files, for the log at once and for whoever asks later: a person must look, though doors
//! and live traffic go on. It knows neither files nor rows.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Result;

use crate::store::cause::{Cause, cause};

/// Findings of one kind that are logged one by one; the rest is only counted, or a dying disk would be filled by its own log: it has
/// many rows, and is tried every second.
const LOGGED_MAX: u64 = 20;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The database was damaged, is kept under another name, and a new one was begun.
    DatabaseSetAside,
    /// Something that was answered with `-6` is gone, and it is not known what.
    DataLost,
    /// Rows were not as they were written and were left out: their deliveries end.
    RowsDamaged,
    /// The database can't be used for now: nothing is stored, everything live goes on. Passes by itself.
    DatabaseNotOpen,
    /// The file `mids` was damaged; numbers go on well above all that can have been used.
    MidsDamaged,
}

impl Kind {
    /// Its name in logs, alarms and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::DatabaseSetAside => "database_set_aside",
            Kind::DataLost => "data_lost",
            Kind::RowsDamaged => "rows_damaged",
            Kind::DatabaseNotOpen => "database_not_open",
            Kind::MidsDamaged => "mids_damaged",
        }
    }
}

/// One thing that was found in this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// How often it was found.
    pub count: u64,
    /// Where and why, and what to do, in one sentence: of the first time.
    pub text: String,
}

impl Finding {
    /// Its name in logs, alarms and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.kind.name()
    }
}

/// All that was found in this run, shared with the store's threads: at most one of each kind. Cheap to clone and to ask.
#[derive(Debug, Clone, Default)]
pub struct Findings(Arc<Mutex<Vec<Finding>>>);

impl Findings {
    /// What was found so far and has not passed.
    #[must_use]
    pub fn list(&self) -> Vec<Finding> {
        self.lock().clone()
    }

    /// Adds one and puts it into the log, if there are not too many of its kind.
    pub(super) fn note(&self, kind: Kind, text: String) {
        if self.count(kind, text.clone()) <= LOGGED_MAX {
            log::error!("{} reason=\"{text}\"", kind.name());
        }
    }

    /// It has passed.
    pub(super) fn clear(&self, kind: Kind) {
        self.lock().retain(|finding| finding.kind != kind);
    }

    /// Whether there is one of that kind.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        self.lock().iter().any(|finding| finding.kind == kind)
    }

    /// A row, if it can be read. If it is at fault itself, that is noted, and the others go on.
    pub(super) fn readable<T>(&self, table: &str, key: impl Display, row: Result<T>) -> Result<Option<T>> {
        let error = match row {
            Ok(row) => return Ok(Some(row)),
            Err(error) if cause(&error) == Cause::Value => error,
            Err(error) => return Err(error),
        };
        let text = format!("table {table}, key {key}: {error}; it is left out and stays in the database for people to look at");
        self.note(Kind::RowsDamaged, text);
        Ok(None)
    }

    fn count(&self, kind: Kind, text: String) -> u64 {
        let mut list = self.lock();
        match list.iter_mut().find(|finding| finding.kind == kind) {
            Some(finding) => {
                finding.count += 1;
                finding.count
            }
            None => {
                list.push(Finding { kind, count: 1, text });
                1
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Finding>> {
        // The list is whole between any two of its changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::columns::{altered, damaged};

    #[test]
    fn each_kind_stands_once_with_its_count_until_it_passes() {
        let findings = Findings::default();
        findings.note(Kind::DataLost, "a".into());
        findings.note(Kind::DataLost, "b".into());
        findings.note(Kind::DatabaseNotOpen, "c".into());
        let found: Vec<(&str, u64, String)> = findings.list().into_iter().map(|one| (one.name(), one.count, one.text)).collect();
        assert_eq!(found, [("data_lost", 2, "a".into()), ("database_not_open", 1, "c".into())]);
        findings.clear(Kind::DatabaseNotOpen);
        assert!(findings.has(Kind::DataLost) && !findings.has(Kind::DatabaseNotOpen));
    }

    #[test]
    fn a_row_at_fault_is_left_out_and_a_damaged_file_is_an_error() {
        let findings = Findings::default();
        assert_eq!(findings.readable("segment", 1, Ok(7)).unwrap(), Some(7));
        assert_eq!(findings.readable("segment", 2, Err::<u32, _>(altered(0))).unwrap(), None);
        assert!(findings.readable("segment", 3, Err::<u32, _>(damaged("x"))).is_err());
        let [found] = &findings.list()[..] else { panic!("{findings:?}") };
        assert!(found.kind == Kind::RowsDamaged && found.text.starts_with("table segment, key 2"), "{found:?}");
    }
}
