//! The clock: sane, set by the network, and not behind what the database has seen.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Findings, Mend, quoted};
use crate::runtime::clock;

/// Before this Porter did not exist: 2026-01-01, ms since 1970.
const EARLIEST_MS: u64 = 1_767_225_600_000;
/// And by then, 2100-01-01, it will have been replaced.
const LATEST_MS: u64 = 4_102_444_800_000;
/// A clock may be behind the newest stored time by this much: it was corrected a little, or this took a while.
const BEHIND_MS: u64 = 60_000;
/// From here on tokens live or die by it: the server warns too.
const FAR_BEHIND_MS: u64 = 86_400_000;
/// How long the system may take to tell whether its clock is synchronised.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How often to look whether it has.
const ANSWER_LOOK: Duration = Duration::from_millis(10);
/// What systemd-timesyncd leaves when the clock is set.
const SYNCHRONISED_MARK: &str = "/run/systemd/timesync/synchronized";

/// `newest_stored`: the highest wall time that the database has seen, ms since 1970, if that is known.
pub(super) fn look(folder: &Path, newest_stored: Option<u64>, findings: &mut Findings) {
    let now = clock::wall_ms();
    let set = || Mend::Run("timedatectl set-ntp true".to_owned());
    if !(EARLIEST_MS..LATEST_MS).contains(&now) {
        let text = format!("it stands at {}: messages live on, but times are wrong and tokens expire early or late", clock::utc_text(now));
        return findings.wrong("clock", text, set());
    }
    match is_synchronised() {
        Some(true) => findings.ok("clock", format!("{}, set by the network", clock::utc_text(now))),
        Some(false) => findings.warning("clock", format!("{}, but not set by the network", clock::utc_text(now)), set()),
        None => findings.ok("clock", format!("{}; whether the network sets it can't be known here", clock::utc_text(now))),
    }
    if let Some(newest) = newest_stored {
        stored(folder, newest, now, findings);
    }
}

/// The newest time in the database, below which tokens' time never goes.
fn stored(folder: &Path, newest: u64, now: u64, findings: &mut Findings) {
    if newest <= now + BEHIND_MS {
        return;
    }
    let text = format!(
        "the database has seen {}, and it is {}: tokens are judged by the later. If the clock is right, stop porter and set it back",
        clock::utc_text(newest),
        clock::utc_text(now)
    );
    let mend = format!("sqlite3 {} 'UPDATE meta SET newest_wall = 0, wall = 0, crc = NULL'", quoted(&folder.join("porter.db")));
    if newest > now + FAR_BEHIND_MS {
        findings.wrong("clock", text, Mend::Run(mend));
    } else {
        findings.warning("clock", text, Mend::Run(mend));
    }
}

/// Whether the system says that a time server sets its clock; `None`: nobody here can tell.
fn is_synchronised() -> Option<bool> {
    let answer = ask("timedatectl", &["show", "--property=NTPSynchronized", "--value"]);
    match answer.as_deref().map(str::trim) {
        Some("yes") => Some(true),
        Some("no") => Some(false),
        _ => Path::new(SYNCHRONISED_MARK).exists().then_some(true),
    }
}

/// What a program prints, if it ends well and in time.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let command = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = command.ok()?;
    let end = clock::mono() + ANSWER_WAIT;
    while child.try_wait().ok()?.is_none() {
        if clock::mono() >= end {
            // Not waited for any longer; what it still does is read by nobody.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(ANSWER_LOOK);
    }
    let output = child.wait_with_output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_answer_is_not_waited_for() {
        assert_eq!(ask("echo", &["yes"]).as_deref(), Some("yes\n"));
        assert_eq!(ask("false", &[]), None);
        assert_eq!(ask("no-such-program", &[]), None);
        assert_eq!(ask("sleep", &["600"]), None);
    }
}
