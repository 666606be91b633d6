//! Every bound that is not a setting, each with its unit and its reason, and the shape of those that are.
//!
//! The defaults of the settings stand in `config.toml` and nowhere else.

use std::time::Duration;

/// Bytes of an alias, a topic, a room, a user or a label (Protocol §1).
pub const NAME_BYTES_MAX: usize = 128;
/// Names that one frame may list in `topic` or `alias` (Protocol §4).
pub const NAMES_PER_FRAME_MAX: usize = 1_000;
/// Bytes of the JSON text of `info` (Protocol §2).
pub const INFO_BYTES_MAX: usize = 1 << 10;
/// Bytes of `opts.id` (Protocol §4).
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 64;
/// Bytes of the JSON text of `num`. The protocol names no bound; a correlation value is a number or a time stamp.
pub const NUM_BYTES_MAX: usize = 1 << 10;
/// Bytes of `reason` in a door's result: it is shown to a person and kept in the door log.
pub const REASON_BYTES_MAX: usize = 1 << 10;
/// Longest `time_to_live`, in seconds: 30 days (Protocol §4).
pub const TIME_TO_LIVE_MAX_S: u32 = 2_592_000;
/// `time_to_live` where none is given, in seconds: 5 days (Protocol §4).
pub const TIME_TO_LIVE_DEFAULT_S: u32 = 432_000;
/// Frames in one batch of a link: so links take turns in the hub (Design §6).
pub const BATCH_FRAMES_MAX: usize = 64;
/// Door frames in one batch of a link: their lane goes first, so that a flood of one link must not fill it (Design §6).
pub const BATCH_DOOR_FRAMES_MAX: usize = 8;
/// Bytes of the frames of one batch, or one larger frame (Design §6).
pub const BATCH_BYTES_MAX: usize = 64 << 10;
/// Deliveries after which a turn of the hub ends, so that a large fan-out does not hold up a door (Design §6).
pub const DELIVERIES_PER_TURN_MAX: usize = 1_024;
/// Publishes of one link without an answer; over it the link is not read (Design §6).
pub const UNANSWERED_PER_LINK_MAX: usize = 1_024;
/// Deliveries in one page of a pull or of a catch-up (Protocol §5).
pub const PAGE_DELIVERIES_MAX: usize = 100;
/// Bytes of bodies in one page, or one larger body (Protocol §5).
pub const PAGE_BYTES_MAX: usize = 256 << 10;
/// Pages that are being read from the store at once (Design §6).
pub const PAGES_IN_FLIGHT_MAX: usize = 16;
/// Sessions that one alias may have at once: a family's phones (Protocol §1).
pub const SESSIONS_PER_ALIAS_MAX: usize = 8;
/// Door rooms that one link may join (Protocol §7).
pub const ROOMS_PER_LINK_MAX: usize = 64;
/// Door frames that may wait for one link (Protocol §5).
pub const DOOR_FRAMES_QUEUED_MAX: usize = 64;
/// Openings waiting for a result at once; over it the oldest is answered `no_answer`. Each lives at most 3 s.
pub const OPENINGS_PENDING_MAX: usize = 10_000;
/// Bytes that may wait for one member of a room before its senders are held, or for a phone in texts before it is closed (Design §6).
/// What passes it is taken whole: it holds at most the rest of one batch more, below `BATCH_BYTES_MAX` and one frame.
pub const ROOM_OUTBOX_BYTES: usize = 1 << 20;
/// Frames of rooms in one turn of the hub, after all else (Design §6).
pub const ROOM_FRAMES_PER_TURN_MAX: usize = 64;
/// Bytes that the frames of rooms in one turn come to over all who get them: a millisecond of copying, so that a door does not
/// wait for longer.
pub const ROOM_BYTES_PER_TURN_MAX: usize = 4 << 20;
/// Frames that are kept of a member of a one-to-one room until it meets the other (Protocol §9).
pub const ROOM_EARLY_FRAMES_MAX: usize = 64;
/// Bytes of those frames (Protocol §9).
pub const ROOM_EARLY_BYTES_MAX: usize = 1 << 20;
/// Bytes of those frames in all rooms together; over it none are kept.
pub const ROOM_EARLY_BYTES_TOTAL_MAX: usize = 64 << 20;
/// Newcomers that may wait for one place of a one-to-one room; those beyond are told at once that it is busy.
pub const ROOM_NEWCOMERS_MAX: usize = 8;
/// Bytes of the newest pictures of all one-to-many rooms; over it those without a member are forgotten first, then none is kept.
pub const PICTURES_BYTES_MAX: usize = 256 << 20;
/// One-to-many rooms without a member whose picture is kept; over it the oldest is forgotten.
pub const PICTURES_UNATTENDED_MAX: usize = 10_000;
/// Bytes of a text frame that may be a door's result (Protocol §7).
pub const DOOR_ANSWER_BYTES_MAX: usize = 4 << 10;
/// Pictures of openings that wait to be written to files; over it an opening is logged without one.
pub const DOOR_PICTURES_QUEUED_MAX: usize = 64;
/// Openings of one user in one room waiting for a result at once, likewise: a door's answer is for all of them.
pub const OPENINGS_ALIKE_MAX: usize = 64;
/// Entries of the door log that wait in memory while the disk is down (Protocol §7).
pub const DOOR_LOG_WAITING_MAX: usize = 10_000;
/// Entries of the door log on disk, about 200 MB; over it the oldest are forgotten. One site needs half a year for so many, a flood
/// of openings seconds.
pub const DOOR_LOG_MAX: u64 = 1_000_000;
/// Rows in one transaction (Design §6).
pub const TRANSACTION_ROWS_MAX: usize = 4_096;
/// Bytes of bodies in one transaction (Design §6).
pub const TRANSACTION_BYTES_MAX: usize = 8 << 20;
/// Bytes of bodies that may wait for their commit; over it a publish is `unavailable` at once (Design §6).
pub const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
/// Size of the file `reserve`: what lets deletions be written on a full disk (Design §6).
pub const RESERVE_BYTES: u64 = 64 << 20;
/// Hits of `opts.id` that are remembered, the oldest forgotten first (Protocol §4).
pub const IDEMPOTENCY_KEYS_MAX: usize = 1_000_000;
/// Messages whose delivery report is kept (Protocol §10).
pub const REPORTS_MAX: usize = 100_000;
/// Messages with time_to_live 0 that are remembered for their acknowledgements (Protocol §4 bounds their time, this their number).
pub const LIVE_ONLY_REMEMBERED_MAX: usize = 100_000;
/// Names in one page of a list over REST where the request does not say how many (Protocol §10).
pub const LIST_PAGE_DEFAULT: usize = 100;
/// Names that one page of a list over REST may have (Protocol §10).
pub const LIST_PAGE_MAX: usize = 1_000;
/// Bytes of an HTTP head (G1).
pub const HTTP_HEAD_BYTES_MAX: usize = 8 << 10;
/// Headers of an HTTP head (G1).
pub const HTTP_HEADERS_MAX: usize = 64;
/// Bytes of a chunk's size line, extensions included, its line end not (G4).
pub const HTTP_CHUNK_LINE_BYTES_MAX: usize = 256;
/// Hex digits of a chunk's size: enough for 4 GiB, too few to overflow (G4).
pub const HTTP_CHUNK_DIGITS_MAX: usize = 8;
/// Lines of the trailer of a chunked body (G4).
pub const HTTP_TRAILER_LINES_MAX: usize = 32;
/// Bytes that are read and dropped after the last answer of an HTTP connection, so that the peer sees it and no reset (G8).
pub const HTTP_DRAIN_BYTES_MAX: usize = 64 << 10;
/// Bytes that a client may send ahead while its long poll waits; over it the socket is not read until the poll is answered (G11).
pub const HTTP_AHEAD_BYTES_MAX: usize = 16 << 10;
/// Packets in the answer to one poll: Python's clients take a body with more for an attack and hang up (Protocol §8).
pub const POLL_PACKETS_MAX: usize = 16;
/// Bytes in the answer to one poll, or one larger packet (Protocol §8).
pub const POLL_BYTES_MAX: usize = 1 << 20;
/// Bytes in the body of a POST or in a WebSocket message to SocketIoServer, as with the stock server: one body may hold thousands of
/// small packets (Protocol §8).
pub const SOCKETIO_BODY_BYTES_MAX: usize = 1 << 20;
/// Digits of a packet's length in a polling body: more than any body has bytes, too few to overflow.
pub const PACKET_LENGTH_DIGITS_MAX: usize = 10;
/// Binary attachments that one Socket.IO packet may announce.
pub const ATTACHMENTS_MAX: u8 = 10;
/// Bytes of a Socket.IO namespace, its query not counted: it is carried back in the refusal.
pub const NAMESPACE_BYTES_MAX: usize = 256;
/// How deep the JSON of a Socket.IO packet may nest: receivers read it with parsers that recurse.
pub const JSON_DEPTH_MAX: usize = 1_024;
/// Connections that may wait to be accepted: a whole community dials in again after a power cut (G12).
pub const LISTEN_BACKLOG: u32 = 4_096;
/// Bytes that the kernel holds for a peer that does not read; it doubles the figure for its own use.
pub const SEND_BUFFER_BYTES: usize = 128 << 10;
/// Bytes that the kernel holds of a peer that is not read, for it takes no more than its outbox holds already; left alone, the kernel
/// lets it grow to megabytes, and a few hundred such peers take all memory there is for TCP.
pub const RECEIVE_BUFFER_BYTES: usize = 128 << 10;
/// Keep-alive probes without an answer after which a peer is gone.
pub const KEEPALIVE_PROBES: u32 = 3;

/// An opening that is older than this is never handed on (Protocol §7).
pub const OPENING_AGE_MAX: Duration = Duration::from_secs(5);
/// The same in ms, as the kernel takes it: what it holds for a door dies with the connection then (Protocol §7).
pub const DOOR_USER_TIMEOUT_MS: u32 = OPENING_AGE_MAX.as_millis() as u32;
/// Bytes that the kernel holds for a door, which it doubles as well: nothing there can be dropped, and on a slow line what is ahead of
/// an opening makes it late. A line that carries 10 KB a second takes that much in about 3 s.
pub const DOOR_SEND_BUFFER_BYTES: usize = 16 << 10;
/// How long a door may take to answer an opening (Protocol §7).
pub const DOOR_ANSWER_WAIT: Duration = Duration::from_secs(3);
/// How long the incumbent of a place in a one-to-one room has to answer a ping before a newcomer gets it (Protocol §9).
pub const ROOM_TAKEOVER_WAIT: Duration = Duration::from_secs(2);
/// A receiver in a one-to-one or group room that takes nothing for so long is closed (Protocol §9).
pub const ROOM_STALL_MAX: Duration = Duration::from_secs(10);
/// How often a member of a room is pinged (Protocol §9).
pub const ROOM_PING_EVERY: Duration = Duration::from_secs(25);
/// A member of a room of which nothing was heard for so long is gone (Protocol §9).
pub const ROOM_GONE_AFTER: Duration = Duration::from_secs(60);
/// How long a picture is kept after the last member or POST (Protocol §9).
pub const PICTURE_LIFE: Duration = Duration::from_secs(600);
/// How long a register, unregister or pull may hold its link while it waits for the disk (Protocol §6).
pub const DISK_HOLD_MAX: Duration = Duration::from_secs(1);
/// How long a publish waits for its commit before it is answered `unavailable` (Protocol §4).
pub const COMMIT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Without a commit for so long, whoever asks for readiness has an empty one written: half of [`PROOF_AGE_MAX`], so that an idle
/// server that is asked now and then stays ready.
pub const PROOF_AFTER: Duration = Duration::from_secs(30);
/// Without a commit for so long the server is not ready (`/health/ready`).
pub const PROOF_AGE_MAX: Duration = Duration::from_secs(60);
/// How long a request for health waits for the hub or for that commit before it is answered by what is known.
pub const HEALTH_WAIT: Duration = Duration::from_secs(1);
/// Bytes that must be free for the disk not to count as full: the largest transaction.
pub const DISK_FREE_MIN: u64 = TRANSACTION_BYTES_MAX as u64;
/// How often the free space and the size of the log are looked at.
pub const DISK_LOOKED_AT_EVERY: Duration = Duration::from_millis(500);
/// What was seen of the disk longer ago is not shown: it has not answered since.
pub const DISK_LOOK_AGE_MAX: Duration = Duration::from_secs(10);
/// Shortest grace before a message whose receivers are all online goes to the store (Design §6).
pub const GRACE_MIN: Duration = Duration::from_millis(2);
/// Longest grace (Design §6).
pub const GRACE_MAX: Duration = Duration::from_millis(50);
/// How long a message with time_to_live 0 is remembered (Protocol §4).
pub const LIVE_ONLY_REMEMBERED: Duration = Duration::from_secs(60);
/// How long `opts.id` is remembered (Protocol §4).
pub const IDEMPOTENCY_KEY_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a delivery report is kept (Protocol §10).
pub const REPORT_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long entries of the door log are kept (Protocol §7).
pub const DOOR_LOG_LIFE: Duration = Duration::from_secs(180 * 24 * 3600);
/// A TCP connection must bind, publish or join a door room within this time (Protocol §3).
pub const BIND_WAIT: Duration = Duration::from_secs(30);
/// How often the hub is told that a peer without frames is there: often enough for any idle time that makes sense.
pub const HEARD_EVERY: Duration = Duration::from_millis(500);
/// From the first byte of an HTTP head to its last (G1).
pub const HTTP_HEAD_WAIT: Duration = Duration::from_secs(10);
/// How long an HTTP connection may be silent between requests (G1).
pub const HTTP_IDLE_WAIT: Duration = Duration::from_secs(75);
/// From an HTTP head to the end of its body (G1).
pub const HTTP_BODY_WAIT: Duration = Duration::from_secs(30);
/// How long a single write may wait for a peer that does not read (G1).
pub const HTTP_WRITE_WAIT: Duration = Duration::from_secs(20);
/// How long the drain after the last answer may take (G8).
pub const HTTP_DRAIN_WAIT: Duration = Duration::from_secs(2);
/// How often a Socket.IO client pings (Protocol §3).
pub const ENGINE_PING_INTERVAL: Duration = Duration::from_secs(25);
/// How long after a missing ping a Socket.IO session ends (Protocol §3).
pub const ENGINE_PING_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an upgrade from polling to WebSocket may take before it is given up and polling goes on.
pub const ENGINE_UPGRADE_WAIT: Duration = Duration::from_secs(10);
/// How long a polling session that the server closes is kept for the poll that tells its client so.
pub const ENGINE_CLOSE_WAIT: Duration = Duration::from_secs(30);
/// Silence after which the kernel asks whether the peer is still there: with the next two, within 60 s (Protocol §3).
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Between two keep-alive probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long data may stay unacknowledged before the kernel gives the peer up; kept in whole milliseconds.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after accept failed for want of descriptors or memory: retrying at once would burn the processor (G12).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the key, the revoked labels and the imported strings are looked at (Protocol §11).
pub const TOKENS_LOOKED_AT_EVERY: Duration = Duration::from_millis(500);
/// From accepting SIGTERM to the end of the process (G14, and the command line's promise).
pub const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

/// The bounds that are settings: the keys below `limits.` and a few beside them. Defaults: `config.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Wire bytes of one frame, escapes included.
    pub frame: usize,
    /// Bytes that may wait for one link before its session goes to catch-up.
    pub outbox: usize,
    /// Bytes that may wait for all links together.
    pub outbox_total: usize,
    /// Deliveries waiting for one alias; over it the oldest is dropped.
    pub deliveries_per_alias: usize,
    /// Deliveries waiting in all; over it a publish with an offline receiver is refused.
    pub deliveries: usize,
    /// Bytes of the bodies waiting in all.
    pub bodies: u64,
    /// Known aliases.
    pub aliases: usize,
    /// Topics of one alias.
    pub topics_per_alias: usize,
    /// An alias without a session for so long is forgotten with its subscriptions.
    pub alias_life: Duration,
    /// Publishes a second of one publisher; 0: any number.
    pub publish_rate: u32,
    /// Connections on all ports together.
    pub connections: usize,
    /// Connections of one address, loopback exempt.
    pub connections_per_address: usize,
    /// A TCP connection silent for so long is closed.
    pub tcp_idle: Duration,
}

const _: () = assert!(BATCH_BYTES_MAX <= PAGE_BYTES_MAX);
const _: () = assert!(DOOR_SEND_BUFFER_BYTES < SEND_BUFFER_BYTES);
const _: () = assert!(TRANSACTION_BYTES_MAX < UNCOMMITTED_BYTES_MAX);
const _: () = assert!(GRACE_MIN.as_millis() < GRACE_MAX.as_millis());
const _: () = assert!(HTTP_HEAD_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(HTTP_DRAIN_WAIT.as_secs() < SHUTDOWN_WAIT.as_secs());
const _: () = assert!(KEEPALIVE_IDLE.as_secs() + KEEPALIVE_PROBES as u64 * KEEPALIVE_INTERVAL.as_secs() <= 60);
const _: () = assert!(ROOM_PING_EVERY.as_secs() * 2 < ROOM_GONE_AFTER.as_secs());
const _: () = assert!(2 * PROOF_AFTER.as_secs() <= PROOF_AGE_MAX.as_secs());
const _: () = assert!(DOOR_ANSWER_WAIT.as_secs() < OPENING_AGE_MAX.as_secs());
