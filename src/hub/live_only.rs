//! Messages with time_to_live 0, remembered for a minute so that an acknowledgement still tells others (Protocol §4).

use std::collections::VecDeque;

use crate::hub::aliases::AliasKey;
use crate::hub::hash::NumberMap;
use crate::limits::{LIVE_ONLY_REMEMBERED, LIVE_ONLY_REMEMBERED_MAX};
use crate::names::{Alias, Mid};

/// Receivers of all remembered messages together: a few bytes each, so that a flood costs megabytes.
const RECEIVERS_MAX: usize = 1_000_000;

/// One remembered message.
#[derive(Debug)]
pub(super) struct LiveMessage {
    /// Who got it and has not acknowledged, sorted. Only compared: an alias may be forgotten meanwhile.
    pub receivers: Vec<AliasKey>,
    /// Whether receipts were asked for.
    pub receipt: bool,
    /// Whose alias gets them.
    pub publisher: Option<Alias>,
    /// When it was sent: monotonic, µs.
    pub at: u64,
}

/// All remembered messages.
#[derive(Debug, Default)]
pub(super) struct LiveOnly {
    by_mid: NumberMap<Mid, LiveMessage>,
    order: VecDeque<(u64, Mid)>,
    /// Of all messages.
    receivers: usize,
}

impl LiveOnly {
    pub(super) fn remember(&mut self, mid: Mid, message: LiveMessage) {
        self.order.push_back((message.at, mid));
        self.receivers += message.receivers.len();
        self.by_mid.insert(mid, message);
        while self.order.len() > LIVE_ONLY_REMEMBERED_MAX || (self.receivers > RECEIVERS_MAX && self.order.len() > 1) {
            self.forget_oldest();
        }
    }

    /// The message, if `alias` got it and acknowledges it for the first time.
    pub(super) fn acknowledge(&mut self, mid: Mid, alias: AliasKey) -> Option<&LiveMessage> {
        let message = self.by_mid.get_mut(&mid)?;
        let at = message.receivers.binary_search(&alias).ok()?;
        message.receivers.remove(at);
        self.receivers -= 1;
        Some(message)
    }

    /// Forgets what is older than a minute.
    pub(super) fn prune(&mut self, now: u64) {
        let life = LIVE_ONLY_REMEMBERED.as_micros() as u64;
        while self.order.front().is_some_and(|(at, _)| at + life <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, mid)) = self.order.pop_front() {
            self.receivers -= self.by_mid.remove(&mid).map_or(0, |message| message.receivers.len());
        }
    }
}
