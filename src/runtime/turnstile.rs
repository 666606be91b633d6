//! How many may read between two turns of the hub: the others wait in a row, so that the task of a door's link, which need not wait,
//! stands behind few (Design §6). All tasks are in one queue: thousands of links that may read at the same moment would be ahead of it.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Reads between two turns: a third of a millisecond. With 32 and half the writes a fan-out to 10,000 took half as long again.
const READS_PER_TURN_MAX: usize = 128;
/// Places in the row that are kept while nobody waits: what a storm made of it is given back.
const ROW_KEPT: usize = 4 * READS_PER_TURN_MAX;

/// The turnstile. Who waits is let in by the turns, in order; so long as the hub takes turns while anybody does, nobody waits for ever.
#[derive(Debug, Default)]
pub struct Turnstile {
    /// Who has gone through since the last turn, and who has tried in vain.
    tried: AtomicUsize,
    /// The last ticket that was let in.
    let_in: AtomicU64,
    row: Mutex<Row>,
}

/// Who waits: at most one a link. Whoever has gone meanwhile takes its place in the row and is woken for nothing.
#[derive(Debug, Default)]
struct Row {
    waiting: VecDeque<Waker>,
    /// The last ticket that was given.
    given: u64,
}

/// The number of a place in the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(NonZeroU64);

/// Whether one may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayRead {
    /// Yes.
    Now,
    /// It waits, and nobody waits before it: a turn must follow.
    WaitsFirst,
    /// It waits.
    Waits,
}

impl Turnstile {
    fn row(&self) -> MutexGuard<'_, Row> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more may read now. Otherwise it has a ticket, with which it is to ask again when `waker` is woken.
    pub fn may_read(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> MayRead {
        if let Some(Ticket(number)) = *ticket {
            if number.get() > self.let_in.load(Ordering::Acquire) {
                return MayRead::Waits;
            }
            *ticket = None;
            return MayRead::Now;
        }
        // While anybody waits, as many have tried: nobody is overtaken.
        if self.tried.fetch_add(1, Ordering::AcqRel) < READS_PER_TURN_MAX {
            return MayRead::Now;
        }
        let mut row = self.row();
        row.given += 1;
        *ticket = NonZeroU64::new(row.given).map(Ticket);
        row.waiting.push_back(waker.clone());
        if row.waiting.len() == 1 { MayRead::WaitsFirst } else { MayRead::Waits }
    }

    /// A turn has ended: lets in the next. Returns whether anybody still waits.
    pub(super) fn turn(&self) -> bool {
        let mut row = self.row();
        let next = row.waiting.len().min(READS_PER_TURN_MAX);
        self.tried.store(next, Ordering::Release);
        self.let_in.fetch_add(next as u64, Ordering::Release);
        row.waiting.drain(..next).for_each(Waker::wake);
        if row.waiting.is_empty() {
            row.waiting.shrink_to(ROW_KEPT);
        }
        !row.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    /// Notes that it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A link that asks.
    #[derive(Default)]
    struct Link {
        ticket: Option<Ticket>,
        woken: Arc<Woken>,
    }

    impl Link {
        fn ask(&mut self, turnstile: &Turnstile) -> MayRead {
            turnstile.may_read(&mut self.ticket, &Waker::from(Arc::clone(&self.woken)))
        }

        fn is_woken(&self) -> bool {
            self.woken.0.load(Ordering::Relaxed) > 0
        }
    }

    fn links(count: usize) -> Vec<Link> {
        std::iter::repeat_with(Link::default).take(count).collect()
    }

    #[test]
    fn so_many_read_between_two_turns_and_the_next_follow_in_order() {
        let turnstile = Turnstile::default();
        let mut links = links(3 * READS_PER_TURN_MAX + 1);
        let answers: Vec<MayRead> = links.iter_mut().map(|link| link.ask(&turnstile)).collect();
        for (index, answer) in answers.iter().enumerate() {
            let expected = match index.cmp(&READS_PER_TURN_MAX) {
                std::cmp::Ordering::Less => MayRead::Now,
                std::cmp::Ordering::Equal => MayRead::WaitsFirst,
                std::cmp::Ordering::Greater => MayRead::Waits,
            };
            assert_eq!(*answer, expected, "{index}");
        }
        for turn in 2..=4 {
            assert_eq!(turnstile.turn(), turn < 4);
            let let_in = links.len().min(turn * READS_PER_TURN_MAX);
            for (index, link) in links.iter_mut().enumerate().skip((turn - 1) * READS_PER_TURN_MAX) {
                assert_eq!(link.is_woken(), index < let_in, "{index}");
                assert_eq!(link.ask(&turnstile), if index < let_in { MayRead::Now } else { MayRead::Waits }, "{index}");
            }
        }
        assert!(!turnstile.turn());
        assert_eq!(links[0].ask(&turnstile), MayRead::Now, "all is as it was");
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let turnstile = Turnstile::default();
        let mut links = links(2 * READS_PER_TURN_MAX + 2);
        let mut late = links.split_off(2 * READS_PER_TURN_MAX + 1);
        for link in &mut links {
            link.ask(&turnstile);
        }
        assert!(turnstile.turn(), "one still waits");
        assert_eq!(late[0].ask(&turnstile), MayRead::Waits);
        assert!(!turnstile.turn());
        assert_eq!(links.last_mut().map(|link| link.ask(&turnstile)), Some(MayRead::Now));
        assert_eq!(late[0].ask(&turnstile), MayRead::Now);
    }

    #[test]
    fn who_goes_while_it_waits_holds_up_nobody() {
        let turnstile = Turnstile::default();
        let mut links = links(2 * READS_PER_TURN_MAX);
        for link in &mut links {
            link.ask(&turnstile);
        }
        drop(links);
        let mut last = Link::default();
        assert_eq!(last.ask(&turnstile), MayRead::Waits);
        assert!(turnstile.turn());
        assert!(!turnstile.turn());
        assert_eq!(last.ask(&turnstile), MayRead::Now);
        assert_eq!(turnstile.row().waiting.len(), 0);
    }
}
