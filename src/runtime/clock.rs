//! The only place that asks the system what time it is: everybody else is told, so that tests can tell them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
