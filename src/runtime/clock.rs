//! The only place that asks the system what time it is: everybody else is told, so that tests can tell them.
//!
//! The monotonic clock rules deadlines, the wall clock what people see, and service time how long things live. A box with no
//! battery starts in 1970; a clock that is set steps. Neither may end what lives or keep what is over (Protocol §4). While the
//! machine is suspended the monotonic clock stands still, so service time does too: when it wakes, that is a step like any other.

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

/// A wall clock that moved by this much more or less than the monotonic one was stepped.
const STEP_MS: u64 = 1_000;
/// The first step within this time after the start is the clock being set: the box has no battery for it.
const SETTING_MS: u64 = 10 * 60 * 1_000;
/// Service time is advanced by no more than this at once.
const ADVANCE_MAX_MS: u64 = 30 * DAY_MS;
/// Steps that the log tells of in [`LOGGED_EVERY_MS`]: a clock that jumps to and fro must not fill the disk.
const LOGGED_MAX: u32 = 10;
const LOGGED_EVERY_MS: u64 = 10 * 60 * 1_000;
/// A wall clock that is behind the newest stored time by more than this is worth a warning: tokens end by that time, not by it.
const BEHIND_MS: u64 = DAY_MS;

/// The clocks of a server: reads them together, and keeps service time, which goes on through restarts and never back,
/// whatever the wall clock does (Protocol §4).
#[derive(Debug)]
pub struct Clock {
    /// The highest wall time ever committed, ms.
    newest_stored: AtomicU64,
    /// Of the wall clock, since the start.
    steps: AtomicU64,
    state: Mutex<ServiceTime>,
}

impl Clock {
    /// Goes on from the pair stored with the last commit. `newest_wall`: the highest wall time of any commit, ms.
    #[must_use]
    pub fn new(stored: Stamp, newest_wall: u64) -> Clock {
        let (mono, wall) = (mono_us() / 1_000, wall_ms());
        warn_if_behind(wall, newest_wall);
        Clock {
            newest_stored: AtomicU64::new(newest_wall.max(stored.wall)),
            steps: AtomicU64::new(0),
            state: Mutex::new(ServiceTime::start(stored, wall, mono)),
        }
    }

    /// All three clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        // Read under the lock: read before it, an earlier look could come in behind a later one.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut mono, mut wall) = (mono_us(), wall_ms());
        if state.is_step(wall, mono / 1_000) {
            // Perhaps this thread only lost the processor between the two looks.
            (mono, wall) = (mono_us(), wall_ms());
        }
        let (service, step) = state.advance(wall, mono / 1_000);
        drop(state);
        if let Some(step) = step {
            self.stepped(&step);
        }
        Now { mono, wall, service }
    }

    /// Goes on from the pair stored with the last commit, which could not be read at the start. Service time never goes back.
    pub fn restore(&self, stored: Stamp, newest_wall: u64) {
        let (mono, wall) = (mono_us() / 1_000, wall_ms());
        self.newest_stored.fetch_max(newest_wall.max(stored.wall), Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.offset;
        *state = ServiceTime::start(stored, wall, mono);
        state.offset = state.offset.max(before);
        drop(state);
        warn_if_behind(wall, newest_wall);
    }

    /// How often the wall clock was stepped, by a second or more, since the start.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
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

    fn stepped(&self, step: &Step) {
        let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if step.is_logged {
            let (from, to, advanced_s) = (utc_text(step.from), utc_text(step.to), step.advanced / 1_000);
            log::warn!("clock_step from={from} to={to} service_time_advanced_s={advanced_s} steps={steps}");
            warn_if_behind(step.to, self.newest_stored.load(Ordering::Relaxed));
        }
    }
}

/// Who sets the clock right hears nothing of this again; who stored a wrong time once must know what it does, and how it is mended.
fn warn_if_behind(wall: u64, newest_stored: u64) {
    if wall.saturating_add(BEHIND_MS) < newest_stored {
        let (now, newest) = (utc_text(wall), utc_text(newest_stored));
        log::warn!(
            "clock_behind now={now} newest_stored={newest} effect=tokens_are_judged_by_the_newest_stored action=\"set the clock; if it is \
             right, stop porter and run: sqlite3 porter.db 'UPDATE meta SET newest_wall = 0, wall = 0, crc = NULL'\""
        );
    }
}

/// Service time from what the two clocks say. Pure: it is told both.
#[derive(Debug)]
struct ServiceTime {
    /// The pair stored with the last commit before this start.
    stored: Stamp,
    /// Service time minus monotonic time, ms.
    offset: u64,
    /// The wall clock and the monotonic clock as last read together, ms.
    last_wall: u64,
    last_mono: u64,
    /// The first step has come.
    stepped: bool,
    /// Since when (monotonic, ms) so many steps were logged.
    logged_since: u64,
    logged: u32,
}

/// The wall clock moved by itself.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// Where it would have stood, ms.
    from: u64,
    /// Where it stands, ms.
    to: u64,
    /// By how much service time went on with it, ms.
    advanced: u64,
    /// Not too many were logged just before.
    is_logged: bool,
}

impl ServiceTime {
    fn start(stored: Stamp, wall: u64, mono: u64) -> ServiceTime {
        let service = stored.service + elapsed(stored, wall);
        ServiceTime {
            stored,
            offset: service.saturating_sub(mono),
            last_wall: wall,
            last_mono: mono,
            stepped: false,
            logged_since: mono,
            logged: 0,
        }
    }

    /// What the wall clock should say at that monotonic time, ms.
    fn expected(&self, mono: u64) -> u64 {
        self.last_wall.saturating_add(mono.saturating_sub(self.last_mono))
    }

    fn is_step(&self, wall: u64, mono: u64) -> bool {
        wall.abs_diff(self.expected(mono)) >= STEP_MS
    }

    /// Service time at that time of the two clocks, ms, and the step that the wall clock made.
    fn advance(&mut self, wall: u64, mono: u64) -> (u64, Option<Step>) {
        let step = self.is_step(wall, mono).then(|| self.step(wall, mono));
        self.last_wall = wall;
        self.last_mono = mono;
        (self.offset + mono, step)
    }

    fn step(&mut self, wall: u64, mono: u64) -> Step {
        let before = self.offset;
        if !std::mem::replace(&mut self.stepped, true) && mono <= SETTING_MS {
            // From the pair before the start: what was committed since has the wrong wall time beside it.
            let since_stored = self.stored.service + elapsed(self.stored, wall);
            self.offset = self.offset.max(since_stored.saturating_sub(mono));
        }
        if mono.saturating_sub(self.logged_since) >= LOGGED_EVERY_MS {
            (self.logged_since, self.logged) = (mono, 0);
        }
        self.logged = self.logged.saturating_add(1);
        Step { from: self.expected(mono), to: wall, advanced: self.offset - before, is_logged: self.logged <= LOGGED_MAX }
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

/// A wall time, in milliseconds since 1970, as HTTP wants it: `Wed, 25 Nov 2026 23:01:21 GMT`.
#[must_use]
pub fn http_date(wall_ms: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, ms) = (wall_ms / DAY_MS, wall_ms % DAY_MS);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[(month - 1) as usize]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
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

    #[test]
    fn http_dates_are_those_of_the_standard() {
        for (ms, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777_999, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (1_709_164_800_000, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (1_795_647_681_042, "Wed, 25 Nov 2026 23:01:21 GMT"),
        ] {
            assert_eq!(http_date(ms), text);
        }
    }

    const DAY: u64 = DAY_MS;

    /// Service time alone.
    fn service(time: &mut ServiceTime, wall: u64, mono: u64) -> u64 {
        time.advance(wall, mono).0
    }

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
            assert_eq!(ServiceTime::start(stored, wall, 5).advance(wall, 5), (expected, None), "{wall}");
        }
    }

    #[test]
    fn the_first_step_of_a_clock_that_began_in_1970_counts_what_passed_while_down() {
        let stored = Stamp { service: 1_000_000, wall: 20_000 * DAY };
        let mut time = ServiceTime::start(stored, 0, 0);
        assert_eq!(service(&mut time, 60_000, 60_000), 1_060_000);
        let step = Step { from: 61_000, to: 20_002 * DAY, advanced: 2 * DAY - 61_000, is_logged: true };
        assert_eq!(time.advance(20_002 * DAY, 61_000), (1_000_000 + 2 * DAY, Some(step)));
        assert_eq!(service(&mut time, 20_012 * DAY, 62_000), 1_000_000 + 2 * DAY + 1_000, "a second step is none of its business");
    }

    #[test]
    fn steps_move_service_time_neither_back_nor_on() {
        let mut time = ServiceTime::start(Stamp { service: 5 * DAY, wall: 100 * DAY }, 100 * DAY, 0);
        assert_eq!(service(&mut time, 90 * DAY, 1_000), 5 * DAY + 1_000);
        assert_eq!(service(&mut time, 100 * DAY, 2_000), 5 * DAY + 2_000);
        let mut late = ServiceTime::start(Stamp { service: 5 * DAY, wall: 100 * DAY }, 100 * DAY, 0);
        assert_eq!(service(&mut late, 100 * DAY + SETTING_MS + 1, SETTING_MS + 1), 5 * DAY + SETTING_MS + 1);
        assert_eq!(service(&mut late, 110 * DAY, SETTING_MS + 2), 5 * DAY + SETTING_MS + 2, "more than 10 minutes after the start");
    }

    /// Less than a second between two looks is no step: an hour of it, all in one direction, is how a clock is slewed.
    #[test]
    fn a_clock_that_is_slewed_does_not_step() {
        let mut time = ServiceTime::start(Stamp::default(), DAY, 0);
        for second in 1..=3_600 {
            let (service, step) = time.advance(DAY + second * 1_000 + second / 2, second * 1_000);
            assert_eq!((service, step), (second * 1_000, None));
        }
    }

    #[test]
    fn a_clock_that_jumps_to_and_fro_is_counted_and_does_not_fill_the_log() {
        let clock = Clock::new(Stamp::default(), 0);
        let mut time = ServiceTime::start(Stamp::default(), DAY, 0);
        let mut logged = 0;
        for look in 1..=LOGGED_EVERY_MS {
            let wall = DAY + look + if look % 2 == 0 { 0 } else { 2 * STEP_MS };
            let (service, step) = time.advance(wall, look);
            assert_eq!(service, look);
            let step = step.unwrap();
            logged += u32::from(step.is_logged);
            clock.stepped(&step);
        }
        assert_eq!(logged, LOGGED_MAX + 1, "so many, and one when the time is over");
        assert_eq!(clock.steps(), LOGGED_EVERY_MS);
    }

    #[test]
    fn tokens_are_judged_by_the_newest_time_ever_stored() {
        let ahead = wall_ms() + 100 * DAY;
        assert_eq!(Clock::new(Stamp { service: 1, wall: 1 }, ahead).token_time_s(), ahead / 1_000);
        let clock = Clock::new(Stamp::default(), 0);
        assert!(clock.token_time_s() < ahead / 1_000);
        clock.committed(ahead);
        clock.committed(1);
        assert_eq!(clock.token_time_s(), ahead / 1_000);
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
