//! The jobs and the floors of their figures, as data. Whoever adds a transport adds rows here, a [`crate::driver::Driver`], and the
//! kinds of work that are new in `measure.rs`.

use serde::{Deserialize, Serialize};

use crate::server::Kind::{self, Axum, Mosquitto, Redis, SocketIo2, Socketioxide, TokioTungstenite, Ws};
use crate::server::{By, Settings};

/// What is measured of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Messages, deliveries, heartbeats, connections or requests a second: the job's unit.
    PerS,
    /// Half of the answers, pictures or openings came within, µs.
    P50Us,
    /// 99 of 100 of them came within, µs.
    P99Us,
    /// The server's processor time a unit, µs.
    CpuUs,
    /// Bytes written to the disk an operation.
    WrittenBytes,
    /// Resident memory of one link, bytes.
    LinkBytes,
    /// Resident memory of the process, MB; the highest so far where it has just started.
    ResidentMb,
    /// Resident memory that the process gained by the work, MB.
    GrownMb,
    /// Size of the program, MB.
    BinaryMb,
    /// From the start of the process to the first answer over a connection, s.
    StartS,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Messages to receivers that are there and acknowledge.
    Direct { publishers: u32, outstanding: u32, receivers: u32 },
    /// Messages to a topic whose subscribers are there and acknowledge; its unit is a delivery.
    FanOut { outstanding: u32, subscribers: u32 },
    /// The same to listeners, who acknowledge nothing.
    Announce { outstanding: u32, listeners: u32 },
    /// Messages to receivers that are away, after `before` others.
    Enqueue { publishers: u32, outstanding: u32, receivers: u32, before: u64 },
    /// Messages to a topic whose subscribers are away; its unit is a delivery.
    EnqueueTopic { outstanding: u32, subscribers: u32 },
    /// What waits for receivers that come; its operations are the deliveries.
    Drain { receivers: u32 },
    /// Receivers come all at once, and so many messages wait for each; its operations are the receivers, its unit a delivery.
    Storm { waiting: u32 },
    /// Heartbeats.
    Heartbeat { clients: u32, outstanding: u32 },
    /// Connections that are accepted and bound; they stay.
    Connect { at_once: u32 },
    /// Links that are bound and have sent one heartbeat; its operations are the links.
    Idle,
    /// Pictures to viewers that see every one of them, and beside them to some that read nothing; its unit is a picture that one
    /// viewer has seen.
    Pictures { outstanding: u32, viewers: u32, stalled: u32 },
    /// Messages between two in a room, who say them again; one at a time in each room. Its unit is a round trip.
    Echo { rooms: u32 },
    /// Openings, each 2 ms after the one before, from link to door. If there are subscribers, they get one message
    /// after the other meanwhile, and so many others are stored that the log is written back into the database.
    Openings { subscribers: u32 },
    /// Pushes over HTTP to one receiver that is there.
    Push { clients: u32 },
    /// The start with so much waiting as there are operations.
    Start { receivers: u32 },
    /// A server that nobody uses.
    Rest,
}

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Floor {
    /// At least so many times the peer's.
    AtLeast(Figure, Kind, f64),
    /// At most so many times the peer's.
    AtMost(Figure, Kind, f64),
    /// At most so much.
    Below(Figure, f64),
    /// At least so many times what Porter itself does in that other job.
    AtLeastOf(Figure, &'static str, f64),
    /// At most so many times what Porter itself does in that other job.
    AtMostOf(Figure, &'static str, f64),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    pub id: &'static str,
    /// In English and in Chinese.
    pub title: [&'static str; 2],
    pub work: Work,
    pub by: By,
    pub operations: u64,
    pub settings: Settings,
    pub floors: &'static [Floor],
}

/// The same work at growing size: what one operation costs must not grow with it.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    pub id: &'static str,
    pub title: [&'static str; 2],
    /// The size, the work and its operations.
    pub steps: &'static [(u64, Work, u64)],
    pub settings: Settings,
}

/// Messages that wait before few are timed one by one, on any server: by then each receiver is known, and Porter's log has had its
/// full size once. A box runs for months; what only its first second is like is not what a message takes.
const IN_USE: u64 = 100_000;

/// The processor time of an operation may be so many times that of the smallest size.
pub const GROWTH_MAX: f64 = 1.5;

const LIVE: Settings = Settings { durable: false, raised: false };
const DURABLE: Settings = Settings { durable: true, raised: false };
const RAISED: Settings = Settings { durable: true, raised: true };

use Figure::{BinaryMb, GrownMb, LinkBytes, P50Us, P99Us, PerS, ResidentMb, StartS};
use Floor::{AtLeast, AtLeastOf, AtMost, AtMostOf, Below};

pub const JOBS: &[Job] = &[
    Job {
        id: "direct-4x64",
        title: ["publish_to_alias, 4 × 64 outstanding, 64 receivers", "publish_to_alias，4 × 64 条未答，64 个接收者"],
        work: Work::Direct { publishers: 4, outstanding: 64, receivers: 64 },
        by: By::Own,
        operations: 600_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Mosquitto, 3.0), AtMost(P50Us, Mosquitto, 0.35)],
    },
    Job {
        id: "direct-64x1",
        title: ["the same, 64 × 1 outstanding", "同上，64 × 1 条未答"],
        work: Work::Direct { publishers: 64, outstanding: 1, receivers: 64 },
        by: By::Own,
        operations: 200_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Mosquitto, 1.0)],
    },
    Job {
        id: "fanout-100",
        title: ["fan-out to 100 subscribers", "扇出到 100 个订阅者"],
        work: Work::FanOut { outstanding: 16, subscribers: 100 },
        by: By::Own,
        operations: 20_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Mosquitto, 5.0)],
    },
    Job {
        id: "fanout-1000",
        title: ["fan-out to 1,000 subscribers", "扇出到 1,000 个订阅者"],
        work: Work::FanOut { outstanding: 16, subscribers: 1_000 },
        by: By::Own,
        operations: 1_500,
        settings: LIVE,
        floors: &[AtLeast(PerS, Mosquitto, 5.0)],
    },
    Job {
        id: "enqueue-4x256",
        title: ["stored for offline aliases, 4 × 256 outstanding", "为离线别名存储，4 × 256 条未答"],
        work: Work::Enqueue { publishers: 4, outstanding: 256, receivers: 1_000, before: 0 },
        by: By::Own,
        // So many that Mosquitto, which writes every 5 s, does it at least once; no more may wait by default.
        operations: 1_000_000,
        settings: DURABLE,
        floors: &[AtLeast(PerS, Redis, 1.0), AtLeast(PerS, Mosquitto, 2.5)],
    },
    Job {
        id: "enqueue-64x1",
        title: ["the same, 64 × 1 outstanding", "同上，64 × 1 条未答"],
        work: Work::Enqueue { publishers: 64, outstanding: 1, receivers: 1_000, before: IN_USE },
        by: By::Own,
        operations: 100_000,
        settings: DURABLE,
        floors: &[AtLeast(PerS, Redis, 0.95)],
    },
    Job {
        id: "enqueue-1x1",
        title: ["the same, 1 × 1 outstanding", "同上，1 × 1 条未答"],
        work: Work::Enqueue { publishers: 1, outstanding: 1, receivers: 1_000, before: IN_USE },
        by: By::Own,
        operations: 10_000,
        settings: DURABLE,
        floors: &[AtLeast(PerS, Redis, 0.95), AtMost(P50Us, Redis, 1.15)],
    },
    Job {
        id: "enqueue-topic-1000",
        title: ["stored for a topic with 1,000 offline subscribers", "为有 1,000 个离线订阅者的频道存储"],
        work: Work::EnqueueTopic { outstanding: 64, subscribers: 1_000 },
        by: By::Own,
        operations: 5_000,
        settings: RAISED,
        floors: &[AtLeast(PerS, Mosquitto, 20.0)],
    },
    Job {
        id: "drain",
        title: ["what waited for 1,000 aliases, as they connect", "1,000 个别名上线时送出积存的消息"],
        work: Work::Drain { receivers: 1_000 },
        by: By::Own,
        operations: 500_000,
        settings: DURABLE,
        floors: &[AtLeast(PerS, Mosquitto, 4.0)],
    },
    Job {
        id: "heartbeat-64x16",
        title: ["heartbeats, 64 × 16 outstanding", "心跳，64 × 16 条未答"],
        work: Work::Heartbeat { clients: 64, outstanding: 16 },
        by: By::Own,
        operations: 2_000_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Mosquitto, 6.0)],
    },
    Job {
        // For the sizing table: what a heartbeat costs that comes alone.
        id: "heartbeat-64x1",
        title: ["heartbeats, 64 × 1 outstanding", "心跳，64 × 1 条未答"],
        work: Work::Heartbeat { clients: 64, outstanding: 1 },
        by: By::Own,
        operations: 200_000,
        settings: LIVE,
        floors: &[],
    },
    Job {
        id: "idle-10000",
        title: ["an idle controller, of 10,000", "10,000 个空闲控制器，每个"],
        work: Work::Idle,
        by: By::Own,
        operations: 10_000,
        settings: LIVE,
        floors: &[Below(LinkBytes, 1_638.4)],
    },
    Job {
        id: "connect",
        title: ["connections accepted and bound", "接受并绑定的连接"],
        work: Work::Connect { at_once: 64 },
        by: By::Own,
        operations: 10_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Mosquitto, 0.6)],
    },
    Job {
        id: "push-64",
        title: [
            "REST push to a live receiver, 64 connections (axum: parse and reply)",
            "REST 推送给在线接收者，64 个连接（axum 只解析并应答）",
        ],
        work: Work::Push { clients: 64 },
        by: By::Own,
        operations: 200_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Axum, 0.7)],
    },
    Job {
        id: "phones-fanout-100",
        title: ["Socket.IO: fan-out to 100 clients on WebSockets", "Socket.IO：扇出到 100 个 WebSocket 客户端"],
        work: Work::FanOut { outstanding: 16, subscribers: 100 },
        by: By::Websocket,
        operations: 10_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Socketioxide, 2.5), AtLeast(PerS, SocketIo2, 6.0)],
    },
    Job {
        id: "phones-fanout-1000",
        title: ["Socket.IO: fan-out to 1,000 clients on WebSockets", "Socket.IO：扇出到 1,000 个 WebSocket 客户端"],
        work: Work::FanOut { outstanding: 16, subscribers: 1_000 },
        by: By::Websocket,
        operations: 1_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Socketioxide, 2.5), AtLeast(PerS, SocketIo2, 6.0)],
    },
    Job {
        id: "phones-announce-100",
        title: ["Socket.IO: fan-out to 100, nothing acknowledged", "Socket.IO：扇出到 100 个客户端，不确认"],
        work: Work::Announce { outstanding: 16, listeners: 100 },
        by: By::Websocket,
        operations: 30_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Socketioxide, 1.2)],
    },
    Job {
        id: "phones-polling-200",
        title: ["Socket.IO: fan-out to 200 clients that poll", "Socket.IO：扇出到 200 个轮询客户端"],
        work: Work::FanOut { outstanding: 16, subscribers: 200 },
        by: By::Polling,
        operations: 1_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, SocketIo2, 3.0)],
    },
    Job {
        id: "phones-heartbeat-64x4",
        title: ["Socket.IO: heartbeats, 64 × 4 outstanding", "Socket.IO：心跳，64 × 4 条未答"],
        work: Work::Heartbeat { clients: 64, outstanding: 4 },
        by: By::Websocket,
        operations: 1_000_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Socketioxide, 2.0)],
    },
    Job {
        id: "phones-heartbeat-64x1",
        title: ["Socket.IO: heartbeats, 64 × 1 outstanding", "Socket.IO：心跳，64 × 1 条未答"],
        work: Work::Heartbeat { clients: 64, outstanding: 1 },
        by: By::Websocket,
        operations: 200_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Socketioxide, 1.1)],
    },
    Job {
        id: "phones-idle-10000",
        title: ["Socket.IO: an idle client, of 10,000", "Socket.IO：10,000 个空闲客户端，每个"],
        work: Work::Idle,
        by: By::Websocket,
        operations: 10_000,
        settings: LIVE,
        floors: &[AtMost(LinkBytes, Socketioxide, 0.1), Below(LinkBytes, 4_096.0)],
    },
    Job {
        id: "phones-storm-1000",
        title: [
            "Socket.IO: 1,000 clients come back at once by polling, then upgrade; 20 messages waited for each",
            "Socket.IO：1,000 个客户端同时以轮询重连再升级，每个有 20 条积存消息",
        ],
        work: Work::Storm { waiting: 20 },
        by: By::Upgrade,
        operations: 1_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, SocketIo2, 2.0)],
    },
    Job {
        id: "rooms-pictures-16",
        title: ["rooms: pictures of 50 KB to 16 viewers", "房间：50 KB 的画面发给 16 个观看者"],
        work: Work::Pictures { outstanding: 2, viewers: 16, stalled: 0 },
        by: By::Rooms,
        operations: 40_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Ws, 1.0), AtLeast(PerS, TokioTungstenite, 2.0), AtMost(P99Us, Ws, 1.0)],
    },
    Job {
        id: "rooms-pictures-100",
        title: ["rooms: pictures of 50 KB to 100 viewers", "房间：50 KB 的画面发给 100 个观看者"],
        work: Work::Pictures { outstanding: 2, viewers: 100, stalled: 0 },
        by: By::Rooms,
        operations: 6_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Ws, 1.0), AtLeast(PerS, TokioTungstenite, 2.0), AtMost(P99Us, Ws, 1.0)],
    },
    Job {
        id: "rooms-stalled-10",
        title: ["rooms: the same, 10 of the 100 read nothing", "房间：同上，100 个中有 10 个什么也不读"],
        work: Work::Pictures { outstanding: 2, viewers: 90, stalled: 10 },
        by: By::Rooms,
        operations: 6_000,
        settings: LIVE,
        floors: &[AtLeastOf(PerS, "rooms-pictures-100", 0.9), Below(GrownMb, 20.0)],
    },
    Job {
        id: "rooms-echo-64x1",
        title: ["rooms: 200 bytes there and back, 64 pairs, 1 outstanding each", "房间：200 字节往返，64 对，每对 1 条未答"],
        work: Work::Echo { rooms: 64 },
        by: By::Rooms,
        operations: 400_000,
        settings: LIVE,
        floors: &[AtLeast(PerS, Ws, 1.5)],
    },
    Job {
        id: "rooms-idle-10000",
        title: ["rooms: an idle member, of 10,000", "房间：10,000 个空闲成员，每个"],
        work: Work::Idle,
        by: By::Rooms,
        operations: 10_000,
        settings: LIVE,
        floors: &[Below(LinkBytes, 6_144.0)],
    },
    Job {
        id: "opening",
        title: ["an opening, from link to door", "开门指令，从连接到门"],
        work: Work::Openings { subscribers: 0 },
        by: By::Own,
        operations: 4_000,
        settings: RAISED,
        floors: &[],
    },
    Job {
        id: "opening-busy",
        title: [
            "an opening while messages fan out to 10,000 and checkpoints run",
            "开门指令，同时有消息扇出到 10,000 个接收者并执行检查点",
        ],
        work: Work::Openings { subscribers: 10_000 },
        by: By::Own,
        operations: 4_000,
        settings: RAISED,
        floors: &[AtMostOf(P99Us, "opening", 3.0)],
    },
    Job {
        id: "start-1000000",
        title: ["start with 1,000,000 deliveries waiting", "有 1,000,000 条待送时启动"],
        work: Work::Start { receivers: 1_000 },
        by: By::Own,
        operations: 1_000_000,
        settings: DURABLE,
        floors: &[Below(StartS, 3.0), Below(ResidentMb, 150.0)],
    },
    Job {
        id: "rest",
        title: ["idle process; release binary", "空闲进程；程序文件"],
        work: Work::Rest,
        by: By::Own,
        operations: 1,
        settings: LIVE,
        floors: &[Below(ResidentMb, 12.0), Below(BinaryMb, 10.0)],
    },
];

pub const GROWTHS: &[Growth] = &[
    Growth {
        id: "growth-direct",
        title: ["direct, CPU a message at 100 … 10,000 sessions", "直发：100 … 10,000 个会话时每条消息的 CPU"],
        steps: &[(100, direct(100), 200_000), (1_000, direct(1_000), 200_000), (10_000, direct(10_000), 200_000)],
        settings: LIVE,
    },
    Growth {
        id: "growth-fanout",
        title: ["fan-out, CPU a delivery at 10 … 10,000 subscribers", "扇出：10 … 10,000 个订阅者时每次送达的 CPU"],
        steps: &[(10, fan_out(10), 100_000), (100, fan_out(100), 10_000), (1_000, fan_out(1_000), 1_000), (10_000, fan_out(10_000), 100)],
        settings: LIVE,
    },
    Growth {
        id: "growth-enqueue",
        title: ["enqueue, CPU a message with 10³ … 10⁶ waiting", "存储：已有 10³ … 10⁶ 条时每条消息的 CPU"],
        steps: &[
            (1_000, enqueue(1_000), 200_000),
            (10_000, enqueue(10_000), 200_000),
            (100_000, enqueue(100_000), 200_000),
            (1_000_000, enqueue(1_000_000), 200_000),
        ],
        settings: RAISED,
    },
];

/// Never more messages on their way than the fewest receivers: else those of one receiver travel together, and with more receivers
/// fewer do, which is the kernel's cost and not that of sessions.
const fn direct(receivers: u32) -> Work {
    Work::Direct { publishers: 4, outstanding: 16, receivers }
}

const fn fan_out(subscribers: u32) -> Work {
    Work::FanOut { outstanding: 16, subscribers }
}

const fn enqueue(before: u64) -> Work {
    Work::Enqueue { publishers: 4, outstanding: 256, receivers: 1_000, before }
}

impl Job {
    /// The servers that it is measured on beside Porter.
    pub fn peers(&self) -> Vec<Kind> {
        let of = |floor: &Floor| match floor {
            Floor::AtLeast(_, kind, _) | Floor::AtMost(_, kind, _) => Some(*kind),
            Floor::Below(..) | Floor::AtLeastOf(..) | Floor::AtMostOf(..) => None,
        };
        let mut peers: Vec<Kind> = self.floors.iter().filter_map(of).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}

impl Growth {
    /// Its steps as jobs without floors, with their names in the results.
    pub fn jobs(&self) -> impl Iterator<Item = (String, Job)> {
        self.steps.iter().map(|(size, work, operations)| {
            let job = Job {
                id: self.id,
                title: self.title,
                work: *work,
                by: By::Own,
                operations: *operations,
                settings: self.settings,
                floors: &[],
            };
            (format!("{}-{size}", self.id), job)
        })
    }
}
