//! What was measured: kept in `benches/results.json`, from which the tables of the documents are written.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fleet::Bad;
use crate::fleet::Outcome;
use crate::jobs::Figure;
use crate::measure::Figures;
use crate::server::Kind;

/// All of one run of the benchmarks.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// UTC.
    pub date: String,
    pub machine: String,
    pub versions: BTreeMap<Kind, String>,
    /// Measurements of which each figure is the median.
    pub rounds: usize,
    pub jobs: BTreeMap<String, BTreeMap<Kind, Cell>>,
}

/// A job on one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub figures: Figures,
    /// Others were busy in every attempt of some round: don't trust it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disturbed: bool,
    /// Something was lost, refused, closed or late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<String>,
}

impl Results {
    pub fn read(path: &Path) -> Outcome<Results> {
        serde_json::from_slice(&std::fs::read(path)?).map_err(|error| Bad(format!("{}: {error}", path.display())))
    }

    pub fn write(&self, path: &Path) -> Outcome<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(|error| Bad(error.to_string()))?;
        text.push('\n');
        Ok(std::fs::write(path, text)?)
    }

    pub fn cell(&self, job: &str, kind: Kind) -> Option<&Cell> {
        self.jobs.get(job)?.get(&kind)
    }

    pub fn figure(&self, job: &str, kind: Kind, figure: Figure) -> Option<f64> {
        self.cell(job, kind)?.figures.get(&figure).copied()
    }
}

/// Each figure's median, its value in the middle of those measured.
pub fn medians(rounds: &[Figures]) -> Figures {
    let mut values: BTreeMap<Figure, Vec<f64>> = BTreeMap::new();
    for (figure, value) in rounds.iter().flatten() {
        values.entry(*figure).or_default().push(*value);
    }
    let middle = |mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    values.into_iter().map(|(figure, values)| (figure, middle(values))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_of_what_was_measured() {
        let rounds = [3.0, 1.0, 2.0].map(|value| Figures::from([(Figure::PerS, value)]));
        assert_eq!(medians(&rounds), Figures::from([(Figure::PerS, 2.0)]));
    }
}
