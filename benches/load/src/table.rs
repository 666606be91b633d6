//! The table of ratios, from the results and the floors.

use crate::jobs::{Figure, Floor, GROWTH_MAX, GROWTHS, Growth, JOBS, Job};
use crate::results::Results;
use crate::server::Kind;

/// Index of a language in a pair of texts.
pub const ENGLISH: usize = 0;
pub const CHINESE: usize = 1;

/// Whether a row's claim is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Holds,
    Misses,
    /// Something was lost, refused, closed or late.
    Bad,
    /// One of the two was not measured.
    Open,
}

/// One line of the table.
struct Row {
    title: String,
    ours: String,
    theirs: String,
    ratio: String,
    floor: String,
    verdict: Verdict,
    disturbed: bool,
}

/// The table in Markdown, with a line before it on what it is.
pub fn markdown(results: &Results, language: usize) -> String {
    let head = [
        "| job | Porter | against | ratio | claim | holds |\n|---|---|---|---|---|---|\n",
        "| 工作 | Porter | 对照 | 比值 | 要求 | 达到 |\n|---|---|---|---|---|---|\n",
    ];
    let mut text = preface(results, language) + "\n\n" + head[language];
    for row in rows(results, language) {
        let verdict = match row.verdict {
            Verdict::Holds => ["yes", "是"][language],
            Verdict::Misses => ["**no**", "**否**"][language],
            Verdict::Bad => ["**BAD: something was lost**", "**坏：有丢失**"][language],
            Verdict::Open => ["not measured", "未测"][language],
        };
        let disturbed = if row.disturbed { [", disturbed", "，受干扰"][language] } else { "" };
        text += &format!("| {} | {} | {} | {} | {} | {verdict}{disturbed} |\n", row.title, row.ours, row.theirs, row.ratio, row.floor);
    }
    text
}

/// How many rows have each verdict, for a last line.
pub fn summary(results: &Results) -> String {
    let rows = rows(results, ENGLISH);
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let disturbed = rows.iter().filter(|row| row.disturbed).count();
    let (holds, misses, bad) = (count(Verdict::Holds), count(Verdict::Misses), count(Verdict::Bad));
    format!("{holds} hold, {misses} miss, {bad} bad, {} not measured; {disturbed} disturbed", count(Verdict::Open))
}

fn preface(results: &Results, language: usize) -> String {
    let mut versions: Vec<String> = results.versions.iter().map(|(kind, version)| format!("{} {version}", kind.name())).collect();
    versions.sort();
    let (versions, date, machine, rounds) = (versions.join(", "), &results.date, &results.machine, results.rounds);
    if language == ENGLISH {
        format!(
            "Measured {date} by `PEERS=1 make bench` on {machine}, server on one core and load on the other, medians of {rounds}: {versions}. \
             Ratios travel, absolute figures don't."
        )
    } else {
        format!(
            "{date} 用 `PEERS=1 make bench` 测得：{machine}，服务器与负载各占一核，取 {rounds} 次的中位数；{versions}。可比的是比值，不是绝对值。"
        )
    }
}

fn rows(results: &Results, language: usize) -> Vec<Row> {
    let measured = JOBS.iter().filter(|job| results.jobs.contains_key(job.id));
    let floors = measured.flat_map(|job| job.floors.iter().map(move |floor| (job, floor)));
    let mut rows: Vec<Row> = floors.map(|(job, floor)| row(results, job, floor, language)).collect();
    let grown = GROWTHS.iter().filter(|growth| growth.jobs().any(|(name, _)| results.jobs.contains_key(&name)));
    rows.extend(grown.map(|growth| growth_row(results, growth, language)));
    rows
}

fn row(results: &Results, job: &Job, floor: &Floor, language: usize) -> Row {
    let (figure, against) = match floor {
        Floor::AtLeast(figure, peer, _) | Floor::AtMost(figure, peer, _) => (*figure, Some((job.id, *peer))),
        Floor::AtLeastOf(figure, other, _) | Floor::AtMostOf(figure, other, _) => (*figure, Some((*other, Kind::Porter))),
        Floor::Below(figure, _) => (*figure, None),
    };
    let ours = results.figure(job.id, Kind::Porter, figure);
    let theirs = against.and_then(|(job, kind)| results.figure(job, kind, figure));
    let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
    let holds = match floor {
        Floor::AtLeast(_, _, least) | Floor::AtLeastOf(_, _, least) => ratio.map(|ratio| ratio >= *least),
        Floor::AtMost(_, _, most) | Floor::AtMostOf(_, _, most) => ratio.map(|ratio| ratio <= *most),
        Floor::Below(_, most) => ours.map(|ours| ours <= *most),
    };
    let cells = || [Some((job.id, Kind::Porter)), against].into_iter().flatten().filter_map(|(job, kind)| results.cell(job, kind));
    let name = |(job, kind): (&str, Kind)| match kind {
        Kind::Porter => format!("{} `{job}`", ["itself in", "自身于"][language]),
        peer => peer.name().to_owned(),
    };
    let what = describe(figure)[language];
    Row {
        title: if what.is_empty() {
            job.title[language].to_owned()
        } else {
            format!("{}{}{what}", job.title[language], [": ", "："][language])
        },
        ours: show(ours, figure),
        theirs: against.map_or("–".to_owned(), |against| format!("{} {}", name(against), show(theirs, figure))),
        ratio: ratio.map_or("–".to_owned(), plain),
        floor: match floor {
            Floor::AtLeast(_, _, least) | Floor::AtLeastOf(_, _, least) => format!("≥ {}", plain(*least)),
            Floor::AtMost(_, _, most) | Floor::AtMostOf(_, _, most) => format!("≤ {}", plain(*most)),
            Floor::Below(_, most) => format!("≤ {}", show(Some(*most), figure)),
        },
        verdict: if cells().any(|cell| cell.bad.is_some()) { Verdict::Bad } else { verdict(holds) },
        disturbed: cells().any(|cell| cell.disturbed),
    }
}

fn verdict(holds: Option<bool>) -> Verdict {
    match holds {
        Some(true) => Verdict::Holds,
        Some(false) => Verdict::Misses,
        None => Verdict::Open,
    }
}

/// The dearest step against the smallest one.
fn growth_row(results: &Results, growth: &Growth, language: usize) -> Row {
    let names: Vec<String> = growth.jobs().map(|(name, _)| name).collect();
    let costs: Vec<f64> = names.iter().filter_map(|name| results.figure(name, Kind::Porter, Figure::CpuUs)).collect();
    let cells = || names.iter().filter_map(|name| results.cell(name, Kind::Porter));
    let dearest = costs.iter().copied().fold(0.0, f64::max);
    let ratio = costs.first().filter(|_| costs.len() == names.len()).map(|first| dearest / first);
    Row {
        title: growth.title[language].to_owned(),
        ours: costs.iter().map(|cost| show(Some(*cost), Figure::CpuUs)).collect::<Vec<_>>().join(", "),
        theirs: ["itself, smallest", "自身，最小规模"][language].to_owned(),
        ratio: ratio.map_or("–".to_owned(), plain),
        floor: format!("≤ {}", plain(GROWTH_MAX)),
        verdict: if cells().any(|cell| cell.bad.is_some()) { Verdict::Bad } else { verdict(ratio.map(|ratio| ratio <= GROWTH_MAX)) },
        disturbed: cells().any(|cell| cell.disturbed),
    }
}

/// What a figure is, where the unit does not say it.
fn describe(figure: Figure) -> [&'static str; 2] {
    match figure {
        Figure::P50Us => ["half of the answers within", "半数应答不超过"],
        Figure::P99Us => ["99 % within", "99% 不超过"],
        Figure::StartS => ["first answer after", "首个应答"],
        Figure::ResidentMb => ["resident memory", "常驻内存"],
        Figure::GrownMb => ["memory gained", "内存增长"],
        Figure::BinaryMb => ["binary", "程序大小"],
        Figure::PerS | Figure::CpuUs | Figure::WrittenBytes | Figure::LinkBytes => ["", ""],
    }
}

/// A figure with its unit.
pub fn show(value: Option<f64>, figure: Figure) -> String {
    let Some(value) = value else { return "–".to_owned() };
    match figure {
        Figure::PerS if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
        Figure::PerS if value >= 1e4 => format!("{:.0} k/s", value / 1e3),
        Figure::PerS => format!("{:.1} k/s", value / 1e3),
        Figure::P50Us | Figure::P99Us | Figure::CpuUs if value >= 1e3 => format!("{:.1} ms", value / 1e3),
        Figure::P50Us | Figure::P99Us if value >= 10.0 => format!("{value:.0} µs"),
        Figure::P50Us | Figure::P99Us | Figure::CpuUs => format!("{value:.2} µs"),
        Figure::WrittenBytes | Figure::LinkBytes => format!("{:.2} KB", value / 1024.0),
        Figure::ResidentMb | Figure::GrownMb | Figure::BinaryMb => format!("{value:.1} MB"),
        Figure::StartS => format!("{value:.2} s"),
    }
}

fn plain(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}") } else { format!("{ratio:.2}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::measure::Figures;
    use crate::results::Cell;

    fn results(ours: f64, theirs: f64) -> Results {
        let cell = |value| Cell { figures: Figures::from([(Figure::PerS, value)]), ..Cell::default() };
        let cells = BTreeMap::from([(Kind::Porter, cell(ours)), (Kind::Mosquitto, cell(theirs))]);
        Results { jobs: BTreeMap::from([("direct-4x64".to_owned(), cells)]), ..Results::default() }
    }

    #[test]
    fn a_row_that_misses_its_floor_stays_and_is_marked() {
        for (ours, mark) in
            [(300_000.0, "| 300 k/s | Mosquitto 100 k/s | 3.00 | ≥ 3.00 | yes |"), (290_000.0, "| 2.90 | ≥ 3.00 | **no** |")]
        {
            let text = markdown(&results(ours, 100_000.0), ENGLISH);
            assert!(text.contains(mark), "{text}");
        }
    }

    #[test]
    fn a_row_against_another_job_of_porter_s_names_it() {
        let job = |per_s| BTreeMap::from([(Kind::Porter, Cell { figures: Figures::from([(Figure::PerS, per_s)]), ..Cell::default() })]);
        let jobs = [("rooms-stalled-10", 95_000.0), ("rooms-pictures-100", 100_000.0)].map(|(id, per_s)| (id.to_owned(), job(per_s)));
        let text = markdown(&Results { jobs: BTreeMap::from(jobs), ..Results::default() }, ENGLISH);
        assert!(text.contains("| 95 k/s | itself in `rooms-pictures-100` 100 k/s | 0.95 | ≥ 0.90 | yes |"), "{text}");
    }

    #[test]
    fn what_is_bad_or_disturbed_says_so() {
        let mut results = results(500_000.0, 100_000.0);
        let cells = results.jobs.get_mut("direct-4x64").unwrap();
        cells.get_mut(&Kind::Mosquitto).unwrap().disturbed = true;
        assert!(markdown(&results, ENGLISH).contains("yes, disturbed"));
        results.jobs.get_mut("direct-4x64").unwrap().get_mut(&Kind::Porter).unwrap().bad = Some("late".into());
        assert!(markdown(&results, ENGLISH).contains("**BAD: something was lost**"));
    }
}
