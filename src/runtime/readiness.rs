//! Whether messages can be stored: the judgement behind `/health/ready` and the metrics (Protocol §10). Pure: it is told all.

use std::time::Duration;

use crate::hub::gather::Health;
use crate::hub::status::StoreState;
use crate::limits::{COMMIT_WAIT_MAX, DISK_FREE_MIN, PROOF_AGE_MAX};
use crate::protocol::refusal::Language;

/// Why messages can't be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// There is no space.
    DiskFull,
    /// The disk or the database refuses writes.
    DiskFailing,
    /// No transaction comes to its end: the disk hangs.
    NoCommit,
}

impl Problem {
    /// All of them.
    pub const ALL: [Problem; 3] = [Problem::DiskFull, Problem::DiskFailing, Problem::NoCommit];

    /// The name that health and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Problem::DiskFull => "disk_full",
            Problem::DiskFailing => "disk_failing",
            Problem::NoCommit => "no_commit",
        }
    }

    /// What whoever is called can do about it.
    #[must_use]
    pub const fn hint(self, language: Language) -> &'static str {
        match (self, language) {
            (Problem::DiskFull, Language::En) => "free space on the disk of the data folder; storing goes on by itself",
            (Problem::DiskFull, Language::Zh) => "请清理数据目录所在磁盘的空间；之后存储自动恢复",
            (Problem::DiskFailing, Language::En) => "the disk refuses writes: look at dmesg and run `porter check`; doors go on",
            (Problem::DiskFailing, Language::Zh) => "磁盘拒绝写入：请查看 dmesg 并运行 `porter check`；开门不受影响",
            (Problem::NoCommit, Language::En) => "the disk does not answer: look at dmesg and run `porter check`; doors go on",
            (Problem::NoCommit, Language::Zh) => "磁盘无响应：请查看 dmesg 并运行 `porter check`；开门不受影响",
        }
    }
}

/// Why messages can't be stored, `None` if they can. `free`: bytes free on the disk, as far as is known.
#[must_use]
pub fn problem(store: StoreState, free: Option<u64>) -> Option<Problem> {
    match store.health {
        Health::Full => return Some(Problem::DiskFull),
        Health::Failing => return Some(Problem::DiskFailing),
        // The store hears of a full disk when it next needs a new block of it, which may be long after it is full.
        Health::Storing if free.is_some_and(|free| free < DISK_FREE_MIN) => return Some(Problem::DiskFull),
        Health::Storing => {}
    }
    let is_proved = store.proved.is_some_and(|age| age <= PROOF_AGE_MAX);
    let is_stuck = store.in_flight.is_some_and(|took: Duration| took >= COMMIT_WAIT_MAX);
    (!is_proved || is_stuck).then_some(Problem::NoCommit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_can_be_stored_while_commits_work_and_there_is_space() {
        let state = |health, proved, in_flight| StoreState {
            health,
            proved: Some(Duration::from_millis(proved)),
            in_flight: Some(Duration::from_millis(in_flight)).filter(|took| !took.is_zero()),
        };
        let storing = |proved, in_flight| state(Health::Storing, proved, in_flight);
        for (store, free, expected) in [
            (storing(0, 0), Some(u64::MAX), None),
            (storing(60_000, 4_999), Some(DISK_FREE_MIN), None),
            (storing(0, 0), None, None),
            (storing(60_001, 0), None, Some(Problem::NoCommit)),
            (storing(0, 5_000), None, Some(Problem::NoCommit)),
            (storing(0, 0), Some(DISK_FREE_MIN - 1), Some(Problem::DiskFull)),
            (state(Health::Full, 0, 0), Some(u64::MAX), Some(Problem::DiskFull)),
            (state(Health::Failing, 0, 0), Some(0), Some(Problem::DiskFailing)),
            (StoreState { proved: None, ..storing(0, 0) }, None, Some(Problem::NoCommit)),
        ] {
            assert_eq!(problem(store, free), expected, "{store:?} {free:?}");
        }
    }
}
