//! The only place that asks the system what time it is: everybody else is told, so that tests can tell them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::hub::Now;
use crate::hub::storage::Stamp;

/// The wall clock: milliseconds since 1970, 0 if it stands before that. It may step either way.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The monotonic clock, for deadlines and intervals.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
#[must_use]
pub fn mono() -> Instant {
    Instant::now()
}

/// The monotonic clock in µs since this was first asked.
#[must_use]
pub fn mono_us() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let begin = *BEGIN.get_or_init(mono);
    u64::try_from(mono().saturating_duration_since(begin).as_micros()).unwrap_or(u64::MAX)
}

/// Service time: goes on through restarts, never back, whatever the wall clock does (Protocol §4).
#[derive(Debug)]
pub struct Clock {
    /// The pair stored with the last commit before this start.
    stored: Stamp,
    /// The highest wall time ever committed, ms.
    newest_stored: AtomicU64,
    state: Mutex<ServiceTime>,
}

#[derive(Debug)]
struct ServiceTime {
    /// Service time minus monotonic time, ms.
    offset: u64,
    /// The wall clock and the monotonic clock as last read together, ms.
    last_wall: u64,
    last_mono: u64,
    stepped: bool,
}

/// A wall clock that moved by this much more or less than the monotonic one was stepped.
const STEP_MS: u64 = 1_000;
/// The first step within this time after the start is the clock being set: the box has no battery for it.
const SETTING_MS: u64 = 10 * 60 * 1_000;
/// Service time is advanced by no more than this at once.
const ADVANCE_MAX_MS: u64 = 30 * DAY_MS;

impl Clock {
    /// Goes on from the pair stored with the last commit.
    #[must_use]
    pub fn new(stored: Stamp) -> Clock {
        Clock::started(stored, wall_ms(), mono_us() / 1_000)
    }

    fn started(stored: Stamp, wall: u64, mono: u64) -> Clock {
        let service = stored.service + elapsed(stored, wall);
        let state = ServiceTime { offset: service.saturating_sub(mono), last_wall: wall, last_mono: mono, stepped: false };
        Clock { stored, newest_stored: AtomicU64::new(stored.wall), state: Mutex::new(state) }
    }

    /// All three clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let mono = mono_us();
        let wall = wall_ms();
        Now { mono, wall, service: self.service(wall, mono / 1_000) }
    }

    fn service(&self, wall: u64, mono: u64) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = state.last_wall + mono.saturating_sub(state.last_mono);
        if wall.abs_diff(expected) >= STEP_MS {
            log::warn!("clock_step from={} to={}", utc_text(expected), utc_text(wall));
            if !state.stepped && mono <= SETTING_MS {
                let since_stored = self.stored.service + elapsed(self.stored, wall);
                state.offset = state.offset.max(since_stored.saturating_sub(mono));
            }
            state.stepped = true;
        }
        state.last_wall = wall;
        state.last_mono = mono;
        state.offset + mono
    }

    /// The wall clock for tokens: never below the newest stored, so that a clock set back revives none (Protocol §4).
    #[must_use]
    pub fn token_time_s(&self) -> u64 {
        wall_ms().max(self.newest_stored.load(Ordering::Relaxed)) / 1_000
    }

    /// A commit carried that wall time, ms.
    pub fn committed(&self, wall: u64) {
        self.newest_stored.fetch_max(wall, Ordering::Relaxed);
    }
}

/// How long the process was down by the wall clock; nothing if that can't be.
fn elapsed(stored: Stamp, wall: u64) -> u64 {
    match wall.checked_sub(stored.wall) {
        Some(elapsed) if stored.wall > 0 && elapsed <= ADVANCE_MAX_MS => elapsed,
        _ => 0,
    }
}

/// A wall time, in milliseconds since 1970, as people and log readers want it: `2026-11-23T23:01:21.042Z`.
#[must_use]
pub fn utc_text(wall_ms: u64) -> String {
    let (days, ms) = (wall_ms / DAY_MS, wall_ms % DAY_MS);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

const DAY_MS: u64 = 86_400_000;

/// Year, month and day of so many days since 1970. Years are counted from March, so that the leap day is the last of its year,
/// in eras of 400 years, which all have the same number of days.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    let days = days_since_1970 + 719_468; // since March 1 of the year 0
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / (ERA_DAYS - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = DAY_MS;

    #[test]
    fn service_time_goes_on_by_the_time_that_passed_while_down() {
        let stored = Stamp { service: 1_000_000, wall: 100 * DAY };
        for (wall, expected) in [
            (100 * DAY, 1_000_000),
            (101 * DAY, 1_000_000 + DAY),
            (130 * DAY, 1_000_000 + 30 * DAY),
            (130 * DAY + 1, 1_000_000),
            (99 * DAY, 1_000_000),
            (0, 1_000_000),
        ] {
            assert_eq!(Clock::started(stored, wall, 5).service(wall, 5), expected, "{wall}");
        }
    }

    #[test]
    fn the_first_step_of_a_clock_that_began_in_1970_counts_what_passed_while_down() {
        let stored = Stamp { service: 1_000_000, wall: 20_000 * DAY };
        let clock = Clock::started(stored, 0, 0);
        assert_eq!(clock.service(60_000, 60_000), 1_060_000);
        assert_eq!(clock.service(20_002 * DAY, 61_000), 1_000_000 + 2 * DAY);
        assert_eq!(clock.service(20_012 * DAY, 62_000), 1_000_000 + 2 * DAY + 1_000, "a second step is none of its business");
    }

    #[test]
    fn steps_move_service_time_neither_back_nor_on() {
        let clock = Clock::started(Stamp { service: 5 * DAY, wall: 100 * DAY }, 100 * DAY, 0);
        assert_eq!(clock.service(90 * DAY, 1_000), 5 * DAY + 1_000);
        assert_eq!(clock.service(100 * DAY, 2_000), 5 * DAY + 2_000);
        let late = Clock::started(Stamp { service: 5 * DAY, wall: 100 * DAY }, 100 * DAY, 0);
        assert_eq!(late.service(100 * DAY + SETTING_MS + 1, SETTING_MS + 1), 5 * DAY + SETTING_MS + 1);
        assert_eq!(late.service(110 * DAY, SETTING_MS + 2), 5 * DAY + SETTING_MS + 2, "more than 10 minutes after the start");
    }

    #[test]
    fn wall_times_read_as_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_800_000_000_042, "2027-01-15T08:00:00.042Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(utc_text(ms), text);
        }
        assert!(!utc_text(u64::MAX).is_empty());
    }
}
