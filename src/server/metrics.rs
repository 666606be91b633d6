//! The metrics as Prometheus reads them (Protocol §10): figures in, text out. Pure.
//!
//! Names begin with `porter_`; what only grows ends in `_total`; times are in seconds, sizes in bytes. Labels take their values from
//! words of this program alone: no alias, address or token is ever in one. A name that was released is not changed:
//! `examples/` and the boards of others go by it.

use std::fmt::{Display, Write};

use crate::runtime::readiness::Problem;
use crate::server::watch::{Figures, HttpFigures};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Room for the usual text: all that grows in it are the digits.
const TEXT_BYTES: usize = 16 << 10;

/// The text for these figures.
#[must_use]
pub fn text(figures: &Figures) -> Vec<u8> {
    let mut page = Page(String::with_capacity(TEXT_BYTES));
    page.server(figures);
    page.peers(figures);
    page.messages(figures);
    page.doors(figures);
    page.store(figures);
    page.queues(figures);
    page.requests(figures);
    page.0.into_bytes()
}

/// The text so far.
struct Page(String);

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Page {
    /// Begins a family; its samples follow.
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a String takes every write");
    }

    /// A family of one sample.
    fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, Kind::Counter, help, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.one(name, Kind::Gauge, help, value);
    }

    /// A family with one label.
    fn by<V: Display>(&mut self, name: &str, kind: Kind, help: &str, label: &str, samples: impl IntoIterator<Item = (&'static str, V)>) {
        self.family(name, kind, help);
        for (word, value) in samples {
            self.line(format_args!("{name}{{{label}=\"{word}\"}} {value}"));
        }
    }

    fn server(&mut self, figures: &Figures) {
        let version = [(env!("CARGO_PKG_VERSION"), 1)];
        self.by("porter_build_info", Kind::Gauge, "The version that runs.", "version", version);
        self.gauge("porter_uptime_seconds", "Since the process began.", figures.hub.uptime.as_secs_f64());
        self.gauge("porter_ready", "1 while messages can be stored, as /health/ready says.", u8::from(figures.problem.is_none()));
        let problems = Problem::ALL.map(|problem| (problem.as_str(), u8::from(figures.problem == Some(problem))));
        self.by("porter_problem", Kind::Gauge, "Why messages can't be stored: 1 at the reason.", "reason", problems);
        let alarms = figures.alarms.iter().map(|(name, is_raised)| (*name, u8::from(*is_raised)));
        self.by("porter_alarm", Kind::Gauge, "1 while somebody must act; the log says on what.", "kind", alarms);
        self.counter("porter_clock_steps_total", "Steps of the wall clock by a second or more.", figures.hub.clock_steps);
    }

    fn peers(&mut self, figures: &Figures) {
        let sizes = &figures.hub.sizes;
        let sessions = [("tcp", sizes.channel), ("socketio", sizes.socket_io)];
        self.by("porter_sessions", Kind::Gauge, "Connections on which an alias is bound.", "transport", sessions);
        self.gauge("porter_room_members", "Members of WebSocket rooms.", sizes.web_socket);
        let rooms = &figures.hub.rooms;
        let kinds = [("one_to_one", rooms.one_to_one), ("one_to_many", rooms.one_to_many), ("many_to_many", rooms.many_to_many)];
        self.by("porter_rooms", Kind::Gauge, "WebSocket rooms with at least one member.", "kind", kinds);
        self.gauge("porter_aliases_online", "Aliases with at least one session.", sizes.online_all);
        self.gauge("porter_aliases", "Aliases that are known.", figures.hub.load.aliases);
        self.gauge("porter_links", "Connections and requests that the hub knows.", figures.hub.load.links);
        self.counter("porter_binds_total", "Connections that bound an alias.", figures.hub.counters.binds);
        self.gauge("porter_connections", "Connections that are open, on all ports.", figures.connections);
        self.counter("porter_connections_accepted_total", "Connections that got in.", figures.accepted);
        let refused = [("limit", figures.refused), ("limit_per_address", figures.refused_of_address), ("http_on_tcp", figures.http_on_tcp)];
        self.by("porter_connections_refused_total", Kind::Counter, "Connections closed at once.", "reason", refused);
        self.counter("porter_accept_errors_total", "Connections that the system could not give.", figures.accept_errors);
        self.counter("porter_bad_tokens_total", "Tokens that were not valid.", figures.bad_tokens);
        let errors = figures.errors.iter().copied();
        self.by("porter_errors_total", Kind::Counter, "Error frames sent, by their code.", "code", errors);
    }

    fn messages(&mut self, figures: &Figures) {
        let (load, count) = (&figures.hub.load, &figures.hub.counters);
        self.counter("porter_publishes_total", "Publishes accepted.", count.publishes);
        self.counter("porter_deliveries_total", "Deliveries made, one for each receiver of a publish.", count.deliveries);
        self.counter("porter_acknowledged_total", "Deliveries that were acknowledged.", count.acknowledged);
        self.counter("porter_expired_total", "Deliveries whose time to live was over.", count.expired);
        let dropped = [("cap", count.dropped), ("recalled", count.recalled), ("row_missing", count.lost), ("not_stored", count.not_stored)];
        self.by("porter_dropped_total", Kind::Counter, "Deliveries that ended otherwise.", "reason", dropped);
        self.gauge("porter_deliveries_waiting", "Deliveries that have not ended.", load.deliveries);
        self.gauge("porter_waiting_bytes", "Bytes of the messages that wait.", load.bodies);
        self.gauge("porter_messages_stored", "Messages in the store that somebody is still owed.", load.messages);
        let oldest = figures.hub.oldest_waits.as_secs();
        self.gauge("porter_oldest_delivery_age_seconds", "Since the oldest of those was published; 0: there is none.", oldest);
        self.counter("porter_congested_total", "Times that a session read too slowly and went to catch-up.", count.congested);
        self.counter(
            "porter_notices_dropped_total",
            "Frames without a promise for which a slow session had no room.",
            figures.hub.outboxes.dropped,
        );
    }

    fn doors(&mut self, figures: &Figures) {
        let count = &figures.hub.counters;
        self.counter("porter_openings_total", "Openings handed on to doors.", count.openings);
        let stale = count.stale_door_frames + figures.hub.outboxes.stale;
        self.counter("porter_stale_door_frames_total", "Openings that were too old to hand on.", stale);
        let lost = count.door_entries_dropped;
        self.counter("porter_door_log_dropped_total", "Entries of the door log for which there was no room while the disk was down.", lost);
    }

    fn store(&mut self, figures: &Figures) {
        let count = &figures.hub.counters;
        self.family("porter_commit_seconds", Kind::Histogram, "From a transaction's being handed to the store to its outcome.");
        for (bound, total) in count.commit_time.up_to() {
            self.line(format_args!("porter_commit_seconds_bucket{{le=\"{bound}\"}} {total}"));
        }
        let total = count.commit_time.count();
        self.line(format_args!("porter_commit_seconds_bucket{{le=\"+Inf\"}} {total}"));
        self.line(format_args!("porter_commit_seconds_sum {}", seconds(count.commit_time.sum_us())));
        self.line(format_args!("porter_commit_seconds_count {total}"));
        self.counter("porter_failed_commits_total", "Transactions that failed.", count.failed_commits);
        let in_flight = figures.hub.store.in_flight.unwrap_or_default().as_secs_f64();
        self.gauge("porter_commit_in_flight_seconds", "How long the transaction under way has taken; 0: there is none.", in_flight);
        if let Some(age) = figures.hub.store.proved {
            self.gauge("porter_last_commit_age_seconds", "Since messages could last be stored.", age.as_secs_f64());
        }
        if let Some(disk) = figures.disk {
            self.gauge("porter_database_bytes", "The database's file.", disk.database);
            self.gauge("porter_wal_bytes", "Its log's file, the WAL.", disk.log);
            self.gauge("porter_disk_free_bytes", "Free on the disk of the data folder.", disk.free);
            self.gauge("porter_disk_size_bytes", "That disk's size.", disk.size);
        }
    }

    fn queues(&mut self, figures: &Figures) {
        let queues = &figures.hub.queues;
        let depths = [
            ("door_inputs", figures.hub.door_inputs),
            ("inputs", figures.hub.inputs),
            ("publishes", queues.publishes),
            ("commit_messages", queues.commit_messages),
            ("commit_changes", queues.commit_changes),
            ("door_log", queues.door_log),
            ("pages", queues.pages),
            ("deferred_links", queues.deferred_links),
            ("openings", queues.openings),
        ];
        self.by("porter_queue_depth", Kind::Gauge, "What is under way in each queue of the server.", "queue", depths);
        self.gauge("porter_outbox_bytes", "Bytes that sockets have not taken.", figures.hub.outboxes.held);
    }

    fn requests(&mut self, figures: &Figures) {
        let name = "porter_http_requests_total";
        self.family(name, Kind::Counter, "Requests to RestServer that were answered.");
        for (endpoint, class, count) in &figures.answers {
            self.line(format_args!("{name}{{endpoint=\"{endpoint}\",status=\"{class}\"}} {count}"));
        }
        self.by_port("porter_http_heads_total", "Heads of requests that were read.", &figures.http, |port| port.requests);
        let help = "Requests refused for their framing, a deadline or a panic.";
        self.by_port("porter_http_refused_total", help, &figures.http, |port| port.refused);
        self.by_port("porter_http_panics_total", "Panics among them.", &figures.http, |port| port.panics);
        let help = "Requests whose client left before their answer.";
        self.by_port("porter_http_abandoned_total", help, &figures.http, |port| port.abandoned);
    }

    fn by_port(&mut self, name: &str, help: &str, ports: &[HttpFigures], read: fn(&HttpFigures) -> u64) {
        self.by(name, Kind::Counter, help, "port", ports.iter().map(|port| (port.port, read(port))));
    }
}

/// Microseconds as seconds, to the last digit.
fn seconds(us: u64) -> impl Display {
    struct Seconds(u64);
    impl Display for Seconds {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
        }
    }
    Seconds(us)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use super::*;
    use crate::hub::gather::Health;
    use crate::hub::status::{Counters, Load, Queues, Sizes, StoreState};
    use crate::protocol::frame::RoomCounts;
    use crate::protocol::refusal::Code;
    use crate::runtime::alarms::Alarm;
    use crate::runtime::disk::DiskFigures;
    use crate::runtime::handle::{self, OutboxCounts};

    /// Figures in which every number is another one.
    fn figures() -> Figures {
        let mut next = 100;
        let mut number = || {
            next += 1;
            next
        };
        let load = Load {
            links: number() as usize,
            aliases: number() as usize,
            deliveries: number() as usize,
            bodies: 7,
            messages: number() as usize,
            health: Health::Storing,
        };
        let sizes = Sizes {
            channel: number() as usize,
            online_all: number() as usize,
            socket_io: number() as usize,
            web_socket: number() as usize,
        };
        let rooms =
            RoomCounts { one_to_one: number() as usize, one_to_many: number() as usize, many_to_many: number() as usize, channels: 0 };
        let queues = Queues {
            publishes: number() as usize,
            commit_messages: number() as usize,
            commit_changes: number() as usize,
            door_log: number() as usize,
            pages: number() as usize,
            deferred_links: number() as usize,
            openings: number() as usize,
        };
        let mut counters = Counters::default();
        (counters.publishes, counters.stale_door_frames) = (number(), 2);
        let hub = handle::Figures {
            uptime: Duration::from_millis(1_500),
            load,
            sizes,
            rooms,
            counters,
            queues,
            door_inputs: 0,
            inputs: 1,
            store: StoreState { health: Health::Storing, proved: Some(Duration::from_secs(2)), in_flight: None },
            oldest_waits: Duration::from_secs(90),
            outboxes: OutboxCounts { held: 5, stale: 3, dropped: 4 },
            clock_steps: 6,
        };
        Figures {
            hub,
            disk: Some(DiskFigures { size: number(), free: number(), database: number(), log: number() }),
            problem: Some(Problem::NoCommit),
            alarms: Alarm::ALL.map(|alarm| (alarm.as_str(), alarm == Alarm::DataLost)).into(),
            connections: 8,
            accepted: number(),
            refused: number(),
            refused_of_address: number(),
            accept_errors: number(),
            http_on_tcp: number(),
            http: ["rest", "socketio", "websocket"]
                .map(|port| HttpFigures { port, requests: number(), refused: number(), panics: number(), abandoned: number() })
                .into(),
            answers: vec![("push", "2xx", number()), ("push", "4xx", number())],
            errors: Code::ALL.map(|code| (code.as_str(), number())).into(),
            bad_tokens: number(),
        }
    }

    fn is_name(text: &str) -> bool {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    }

    /// Reads a text by the rules of the exposition format; the value of each sample under its name and labels.
    fn samples(text: &str) -> BTreeMap<String, f64> {
        assert!(text.ends_with('\n'));
        let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
        let (mut family, mut kind) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(is_name(name) && families.insert(name.to_owned()), "{line}");
                assert!(help.ends_with('.') && !help.contains('\\'), "{line}");
                family = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, what) = rest.split_once(' ').unwrap();
                assert_eq!(name, family, "{line}");
                assert_eq!(name.ends_with("_total"), what == "counter", "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&what), "{line}");
                kind = what.to_owned();
            } else {
                let (key, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = key.split_once('{').unwrap_or((key, ""));
                let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is in the family {family}"));
                let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.contains(&suffix), "{line}");
                if !labels.is_empty() {
                    for label in labels.strip_suffix('}').unwrap().split(',') {
                        let (label, value) = label.split_once('=').unwrap();
                        let value = value.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
                        assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
                    }
                }
                let value = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(samples.insert(key.to_owned(), value), None, "{line} is there twice");
            }
        }
        for family in families {
            assert!(samples.keys().any(|key| key.starts_with(&family)), "{family} has no sample");
        }
        samples
    }

    #[test]
    fn the_text_keeps_to_the_format_and_each_figure_is_in_its_place() {
        let samples = samples(&String::from_utf8(text(&figures())).unwrap());
        for (key, value) in [
            ("porter_uptime_seconds", 1.5),
            ("porter_ready", 0.0),
            ("porter_problem{reason=\"no_commit\"}", 1.0),
            ("porter_problem{reason=\"disk_full\"}", 0.0),
            ("porter_alarm{kind=\"data_lost\"}", 1.0),
            ("porter_alarm{kind=\"keyring_broken\"}", 0.0),
            ("porter_waiting_bytes", 7.0),
            ("porter_oldest_delivery_age_seconds", 90.0),
            ("porter_stale_door_frames_total", 5.0),
            ("porter_notices_dropped_total", 4.0),
            ("porter_commit_seconds_bucket{le=\"+Inf\"}", 0.0),
            ("porter_last_commit_age_seconds", 2.0),
            ("porter_clock_steps_total", 6.0),
        ] {
            assert_eq!(samples.get(key), Some(&value), "{key}");
        }
        let mut counts: Vec<f64> = samples.values().copied().filter(|value| *value > 100.0).collect();
        counts.sort_by(f64::total_cmp);
        assert!(counts.len() > 30 && counts.windows(2).all(|pair| pair[0] < pair[1]), "a figure is shown twice: {counts:?}");
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let mut figures = figures();
        figures.disk = None;
        figures.hub.store.proved = None;
        let samples = samples(&String::from_utf8(text(&figures)).unwrap());
        for name in ["porter_wal_bytes", "porter_disk_free_bytes", "porter_last_commit_age_seconds"] {
            assert!(!samples.contains_key(name), "{name}");
        }
    }

    #[test]
    fn microseconds_read_as_seconds() {
        for (us, text) in [(0, "0.000000"), (1, "0.000001"), (1_000_000, "1.000000"), (123_456_789, "123.456789")] {
            assert_eq!(seconds(us).to_string(), text);
        }
    }
}
