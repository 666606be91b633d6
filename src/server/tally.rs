//! Counts of what an HTTP port answers: requests by endpoint and class of status, and the refusals that the hub never hears of.
//! Nothing that a client sent is kept, so the counts are as many as the program has words.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::refusal::Code;

/// The classes of status that are told apart.
const CLASSES: [(u16, &str); 3] = [(2, "2xx"), (4, "4xx"), (5, "5xx")];

/// What one port has answered.
#[derive(Debug)]
pub struct Tally {
    endpoints: &'static [&'static str],
    /// For each endpoint, by class.
    answers: Vec<[AtomicU64; CLASSES.len()]>,
    refusals: [AtomicU64; Code::ALL.len()],
}

impl Tally {
    /// Nothing was answered yet. `endpoints`: their names.
    #[must_use]
    pub fn new(endpoints: &'static [&'static str]) -> Tally {
        let answers = endpoints.iter().map(|_| Default::default()).collect();
        Tally { endpoints, answers, refusals: Default::default() }
    }

    /// An answer with that status by the endpoint with that place among the names.
    pub fn answered(&self, endpoint: usize, status: u16) {
        let class = CLASSES.iter().position(|(first, _)| *first == status / 100);
        if let (Some(answers), Some(class)) = (self.answers.get(endpoint), class) {
            answers[class].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A refusal that did not come from the hub.
    pub fn refused(&self, code: Code) {
        self.refusals[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Endpoint, class of status and number of all answers, also where there were none.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.endpoints.iter().zip(&self.answers).flat_map(|(endpoint, answers)| {
            CLASSES.iter().zip(answers).map(|((_, class), count)| (*endpoint, *class, count.load(Ordering::Relaxed)))
        })
    }

    /// How often that code was answered without the hub.
    #[must_use]
    pub fn refusals(&self, code: Code) -> u64 {
        self.refusals[code as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_endpoint_and_class() {
        let tally = Tally::new(&["a", "b"]);
        for (endpoint, status) in [(0, 200), (0, 204), (1, 404), (1, 503), (1, 100), (2, 200)] {
            tally.answered(endpoint, status);
        }
        let counted: Vec<_> = tally.answers().filter(|(_, _, count)| *count > 0).collect();
        assert_eq!(counted, [("a", "2xx", 2), ("b", "4xx", 1), ("b", "5xx", 1)]);
        tally.refused(Code::Internal);
        assert_eq!(Code::ALL.map(|code| tally.refusals(code)).iter().sum::<u64>(), 1);
    }
}
