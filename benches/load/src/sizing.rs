//! The sizing table: what a site of so many residents needs, reckoned from the figures that were measured.

use crate::jobs::Figure;
use crate::results::Results;
use crate::server::Kind;
use crate::table::ENGLISH;

/// Sizes of sites, in residents.
const SITES: [u64; 4] = [200, 1_000, 5_000, 15_000];
/// Residents that share a door with a controller.
const RESIDENTS_PER_DOOR: u64 = 20;
/// A controller's heartbeats a day: one a minute.
const HEARTBEATS_PER_DAY: f64 = 1_440.0;
/// Messages a day for each resident, and how many of them find the receiver away and are stored.
const MESSAGES_PER_DAY: f64 = 20.0;
const STORED_PER_DAY: f64 = 5.0;
/// A stored message is a transaction when it comes and another when it is acknowledged; both are reckoned like the first.
const TRANSACTIONS_EACH: f64 = 2.0;
/// Of a day's messages, what falls into its busiest hour.
const BUSIEST_HOUR: f64 = 0.2;
/// Messages that wait for each resident at one time.
const WAITING_EACH: f64 = 10.0;
/// Messages that wait in the job that `per_waiting` comes from.
const WAITING_MEASURED: f64 = 1e6;

/// What one of each costs, as measured.
struct Costs {
    process_mb: f64,
    link_bytes: f64,
    waiting_bytes: f64,
    heartbeat_us: f64,
    message_us: f64,
    stored_us: f64,
    stored_bytes: f64,
}

impl Costs {
    fn of(results: &Results) -> Option<Costs> {
        let figure = |job, figure| results.figure(job, Kind::Porter, figure);
        let process_mb = figure("rest", Figure::ResidentMb)?;
        Some(Costs {
            process_mb,
            link_bytes: figure("idle-10000", Figure::LinkBytes)?,
            waiting_bytes: (figure("start-1000000", Figure::ResidentMb)? - process_mb) * f64::from(1 << 20) / WAITING_MEASURED,
            heartbeat_us: figure("heartbeat-64x1", Figure::CpuUs)?,
            message_us: figure("direct-64x1", Figure::CpuUs)?,
            stored_us: figure("enqueue-1x1", Figure::CpuUs)?,
            stored_bytes: figure("enqueue-1x1", Figure::WrittenBytes)?,
        })
    }
}

/// The table in Markdown; nothing if some figure is missing.
pub fn markdown(results: &Results, language: usize) -> Option<String> {
    let costs = Costs::of(results)?;
    let head = [
        "| residents | doors | links | memory | CPU in the busiest hour | written to disk |\n|---|---|---|---|---|---|\n",
        "| 住户 | 门 | 连接 | 内存 | 最忙一小时的 CPU | 写盘 |\n|---|---|---|---|---|---|\n",
    ];
    let mut text = assumptions(&costs, language) + "\n\n" + head[language];
    for residents in SITES {
        text += &line(&costs, residents, language);
    }
    Some(text)
}

fn line(costs: &Costs, residents: u64, language: usize) -> String {
    let doors = residents / RESIDENTS_PER_DOOR;
    let (people, links) = (residents as f64, (doors + residents) as f64);
    let memory_mb = costs.process_mb + (links * costs.link_bytes + people * WAITING_EACH * costs.waiting_bytes) / f64::from(1 << 20);
    let hour_us = doors as f64 * HEARTBEATS_PER_DAY / 24.0 * costs.heartbeat_us
        + people * BUSIEST_HOUR * (MESSAGES_PER_DAY * costs.message_us + STORED_PER_DAY * TRANSACTIONS_EACH * costs.stored_us);
    let cpu_percent = hour_us / 3_600e6 * 100.0;
    let written_mb = people * STORED_PER_DAY * TRANSACTIONS_EACH * costs.stored_bytes / f64::from(1 << 20);
    let day = [" a day", "/天"][language];
    let year = [" GB a year", " GB/年"][language];
    let written_gb = written_mb * 365.0 / 1024.0;
    format!(
        "| {residents} | {doors} | {links} | {memory_mb:.0} MB | {cpu_percent:.2} % | {written_mb:.0} MB{day}, {written_gb:.0}{year} |\n"
    )
}

fn assumptions(costs: &Costs, language: usize) -> String {
    let Costs { link_bytes, waiting_bytes, message_us, stored_us, .. } = costs;
    let kb = costs.stored_bytes / 1024.0;
    if language == ENGLISH {
        format!(
            "Reckoned from what was measured (a link {link_bytes:.0} bytes of memory, a waiting delivery {waiting_bytes:.0}; a message {message_us:.0} µs of \
             one core when nothing else happens at that moment, storing one {stored_us:.0} µs and {kb:.1} KB written, and \
             deleting it later as much again), for a door per \
             {RESIDENTS_PER_DOOR} residents with a heartbeat a minute, one phone a resident that stays connected, {MESSAGES_PER_DAY:.0} messages a day each, \
             {STORED_PER_DAY:.0} of which find it away and are stored, {:.0} % of them in one hour. SD cards wear out by what is written: compare \
             the last column with your card's endurance.",
            BUSIEST_HOUR * 100.0
        )
    } else {
        format!(
            "由实测推算（一个连接占内存 {link_bytes:.0} 字节，一条待送 {waiting_bytes:.0} 字节；闲时一条消息用单核 {message_us:.0} µs，存储一条 \
             {stored_us:.0} µs、写盘 {kb:.1} KB，之后删除按同样计）。假定每 {RESIDENTS_PER_DOOR} 户一个门，每分钟一次心跳；每户一部常连的手机，每天 {MESSAGES_PER_DAY:.0} 条消息，\
             其中 {STORED_PER_DAY:.0} 条因不在线而存储；{:.0}% 集中在一小时内。SD 卡的寿命取决于写入量：请把最后一列与卡的耐久度相比。",
            BUSIEST_HOUR * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reckoned_from_figures_that_are_missing() {
        assert_eq!(markdown(&Results::default(), ENGLISH), None);
    }

    #[test]
    fn memory_and_writes_grow_with_the_site() {
        let costs = Costs {
            process_mb: 8.0,
            link_bytes: 1_024.0,
            waiting_bytes: 102.4,
            heartbeat_us: 10.0,
            message_us: 10.0,
            stored_us: 10_000.0,
            stored_bytes: 10_240.0,
        };
        let line = line(&costs, 1_000, ENGLISH);
        assert_eq!(line, "| 1000 | 50 | 1050 | 10 MB | 0.56 % | 98 MB a day, 35 GB a year |\n");
    }
}
