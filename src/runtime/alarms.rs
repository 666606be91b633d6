//! What is wrong and stays wrong until somebody acts, while the server goes on: shown by `/health/ready` and the metrics.
//!
//! An alarm says only that; what happened and what to do is one line of the log, written where it was found out.

use std::sync::atomic::{AtomicBool, Ordering};

/// The kinds. Each has a row in `docs/installer.md` under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// The database was damaged at the start: it was set aside, and a new one was begun.
    DatabaseSetAside,
    /// The database can't be used for now: everything live goes on, nothing is stored.
    DatabaseNotOpen,
    /// The database is older than the last run: messages that were answered with `-6` are gone.
    DataLost,
    /// Rows were not as they were written, and were left out.
    RowsDamaged,
    /// The file `mids` was damaged; numbers go on well above all that were used.
    MidsDamaged,
    /// `master.key`, `revoked` or `imported` can't be read or is damaged: no token is valid.
    KeyringBroken,
}

impl Alarm {
    /// All kinds.
    pub const ALL: [Alarm; 6] =
        [Alarm::DatabaseSetAside, Alarm::DatabaseNotOpen, Alarm::DataLost, Alarm::RowsDamaged, Alarm::MidsDamaged, Alarm::KeyringBroken];

    /// The name that the log, the metrics and the health use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Alarm::DatabaseSetAside => "database_set_aside",
            Alarm::DatabaseNotOpen => "database_not_open",
            Alarm::DataLost => "data_lost",
            Alarm::RowsDamaged => "rows_damaged",
            Alarm::MidsDamaged => "mids_damaged",
            Alarm::KeyringBroken => "keyring_broken",
        }
    }
}

/// Which alarms are raised. Shared by whoever finds something out and whoever shows it; it never waits.
#[derive(Debug, Default)]
pub struct Alarms([AtomicBool; Alarm::ALL.len()]);

impl Alarms {
    /// Raises an alarm, or clears it.
    pub fn set(&self, alarm: Alarm, is_raised: bool) {
        self.0[alarm as usize].store(is_raised, Ordering::Relaxed);
    }

    /// Whether it is raised.
    #[must_use]
    pub fn is_raised(&self, alarm: Alarm) -> bool {
        self.0[alarm as usize].load(Ordering::Relaxed)
    }

    /// The names of those that are raised, in the order of [`Alarm::ALL`].
    #[must_use]
    pub fn raised(&self) -> Vec<&'static str> {
        Alarm::ALL.iter().filter(|alarm| self.is_raised(**alarm)).map(|alarm| alarm.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alarm_is_raised_and_cleared_by_itself() {
        let alarms = Alarms::default();
        for alarm in Alarm::ALL {
            alarms.set(alarm, true);
            assert_eq!(alarms.raised(), [alarm.as_str()]);
            alarms.set(alarm, false);
        }
        assert!(alarms.raised().is_empty());
        alarms.set(Alarm::KeyringBroken, true);
        alarms.set(Alarm::DataLost, true);
        assert_eq!(alarms.raised(), ["data_lost", "keyring_broken"]);
    }
}
