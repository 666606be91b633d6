//! The log: one line an event on the standard error, with the time, the level and the message.
//!
//! Writing must not hold up the server when nobody reads the pipe, so a thread of its own writes, behind a bounded queue;
//! what does not fit is counted and the count is logged. It knows no module's messages.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::clock;

/// Lines that may wait for the thread: some seconds of a busy log.
const LINES_WAITING_MAX: usize = 1_024;
/// Bytes of one message; what is longer was written by a peer.
const MESSAGE_BYTES_MAX: usize = 4_096;
/// Lines of one level in a second, but errors and what is logged for debugging: a peer that makes the server say something with each
/// frame must not fill the disk.
const LINES_PER_SECOND_MAX: u64 = 200;
/// How long [`Log::flush`] waits for a reader that does not read.
const FLUSH_WAIT: Duration = Duration::from_millis(500);

/// Sends the log to the standard error from `level` on. Call it once, early. Before the process ends, `log::logger().flush()`.
pub fn install(level: LevelFilter) -> Result<(), io::Error> {
    let (queue, lines) = sync_channel(LINES_WAITING_MAX);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&lines))?;
    log::set_boxed_logger(Box::new(Logger::new(queue))).map_err(io::Error::other)?;
    log::set_max_level(level);
    Ok(())
}

/// A text whose control characters can't steer a terminal or begin a line: they are written as JSON escapes, which also leaves
/// JSON what it was. So are the characters that break lines or reverse the reading direction.
pub struct Harmless<'a>(pub &'a str);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                _ if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => write!(f, "\\u{:04x}", c as u32)?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

enum Line {
    Text(String),
    /// Everything before it is to be written, then the sender is told.
    Flush(SyncSender<()>),
}

struct Logger {
    queue: SyncSender<Line>,
    /// Lines that found no place since the last that did.
    dropped: AtomicU64,
    /// Warnings and infos of this second.
    warnings: Rate,
    infos: Rate,
}

/// Lines of the current second.
#[derive(Default)]
struct Rate {
    second: AtomicU64,
    lines: AtomicU64,
}

impl Rate {
    /// Whether one more line is fine. With the first of a new second, how many too many the last had.
    fn admit(&self, second: u64) -> (bool, u64) {
        let is_new = self.second.swap(second, Ordering::Relaxed) != second;
        let before = if is_new { self.lines.swap(0, Ordering::Relaxed) } else { 0 };
        let is_fine = self.lines.fetch_add(1, Ordering::Relaxed) < LINES_PER_SECOND_MAX;
        (is_fine, before.saturating_sub(LINES_PER_SECOND_MAX))
    }
}

impl Logger {
    fn new(queue: SyncSender<Line>) -> Logger {
        Logger { queue, dropped: AtomicU64::new(0), warnings: Rate::default(), infos: Rate::default() }
    }

    /// Whether a line of that level may be written now.
    fn admits(&self, level: Level) -> bool {
        let rate = match level {
            Level::Warn => &self.warnings,
            Level::Info => &self.infos,
            Level::Error | Level::Debug | Level::Trace => return true,
        };
        let (is_fine, left_out) = rate.admit(clock::mono_us() / 1_000_000);
        if left_out > 0 {
            self.say(Level::Warn, &format!("log_lines_dropped lines={left_out} level={level} reason=too_many"));
        }
        is_fine
    }

    /// Queues a line. False: there is no place.
    fn say(&self, level: Level, message: &str) -> bool {
        self.queue.try_send(Line::Text(line(clock::wall_ms(), level, message))).is_ok()
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Other crates log their own insides, some without a word of text.
        metadata.level() <= log::max_level() && metadata.target().starts_with(env!("CARGO_PKG_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || !self.admits(record.level()) {
            return;
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 && !self.say(Level::Warn, &format!("log_lines_dropped lines={dropped} reason=not_read")) {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        if !self.say(record.level(), &record.args().to_string()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (written, done) = sync_channel(1);
        if self.queue.try_send(Line::Flush(written)).is_ok() {
            // Late or never: then nobody reads the standard error, and there is nothing to be done about it.
            let _ = done.recv_timeout(FLUSH_WAIT);
        }
    }
}

/// One line of the log with its line feed.
fn line(wall_ms: u64, level: Level, message: &str) -> String {
    let cut = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    let more = if cut < message.len() { "…" } else { "" };
    format!("{} {level:<5} {}{more}\n", clock::utc_text(wall_ms), Harmless(&message[..cut]))
}

/// The thread: until the logger is gone. A standard error that is closed or full is no reason to stop serving doors.
fn write_lines(lines: &Receiver<Line>) {
    for line in lines {
        match line {
            Line::Text(text) => {
                let _ = io::stderr().write_all(text.as_bytes());
            }
            Line::Flush(written) => {
                let _ = written.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_level_and_a_message_that_stays_on_it() {
        assert_eq!(
            line(1_800_000_000_042, Level::Warn, "a\r\nb\tc\u{1b}[2J \u{9b}31m \u{7f} 门 \u{202e}x\u{2028}"),
            "2027-01-15T08:00:00.042Z WARN  a\\r\\nb\\tc\\u001b[2J \\u009b31m \\u007f 门 \\u202ex\\u2028\n"
        );
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let text = line(0, Level::Error, &"门".repeat(MESSAGE_BYTES_MAX));
        assert!(text.ends_with("门…\n"));
        assert!(text.len() < MESSAGE_BYTES_MAX + 64);
    }

    #[test]
    fn what_is_too_much_in_a_second_is_left_out_and_counted() {
        let rate = Rate::default();
        for _ in 0..LINES_PER_SECOND_MAX {
            assert_eq!(rate.admit(7), (true, 0));
        }
        assert_eq!(rate.admit(7), (false, 0));
        assert_eq!(rate.admit(7), (false, 0));
        assert_eq!(rate.admit(8), (true, 2));
        assert_eq!(rate.admit(9), (true, 0));
    }

    #[test]
    fn what_finds_no_place_is_counted_and_reported() {
        let (queue, lines) = sync_channel(1);
        let logger = Logger::new(queue);
        log::set_max_level(LevelFilter::Info);
        let from = |target: &str, text: &str| {
            logger.log(&Record::builder().level(Level::Info).target(target).args(format_args!("{text}")).build());
        };
        let say = |text: &str| from("porter::app", text);
        let taken = || match lines.try_recv() {
            Ok(Line::Text(text)) => text,
            _ => String::new(),
        };
        from("async_executor", "none of ours");
        (0..3).for_each(|_| say("event"));
        assert!(taken().ends_with("INFO  event\n"));
        say("event");
        assert!(taken().ends_with("log_lines_dropped lines=2 reason=not_read\n"));
    }
}
