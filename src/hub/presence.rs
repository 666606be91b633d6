//! Who is online over which transport, in the order of the pages that show it.

use std::collections::BTreeMap;

use crate::names::{Alias, Transport};

/// The aliases with a live session, kept sorted so that no request has to sort (Design §6).
#[derive(Debug, Default)]
pub(super) struct Presence {
    tcp: Online,
    socket_io: Online,
}

/// The aliases online over one transport, each with its number of sessions.
#[derive(Debug, Default)]
pub(super) struct Online {
    aliases: BTreeMap<Alias, u8>,
    sessions: usize,
}

impl Presence {
    pub(super) fn over(&self, transport: Transport) -> Option<&Online> {
        match transport {
            Transport::Tcp => Some(&self.tcp),
            Transport::SocketIo => Some(&self.socket_io),
            Transport::Rest | Transport::WebSocket => None,
        }
    }

    fn over_mut(&mut self, transport: Transport) -> Option<&mut Online> {
        match transport {
            Transport::Tcp => Some(&mut self.tcp),
            Transport::SocketIo => Some(&mut self.socket_io),
            Transport::Rest | Transport::WebSocket => None,
        }
    }

    /// Aliases online over any transport, each once.
    pub(super) fn online_all(&self) -> usize {
        let (more, less) = (&self.tcp.aliases, &self.socket_io.aliases);
        let (more, less) = if more.len() >= less.len() { (more, less) } else { (less, more) };
        more.len() + less.keys().filter(|alias| !more.contains_key(*alias)).count()
    }

    pub(super) fn join(&mut self, transport: Transport, alias: &Alias) {
        if let Some(online) = self.over_mut(transport) {
            *online.aliases.entry(alias.clone()).or_insert(0) += 1;
            online.sessions += 1;
        }
    }

    pub(super) fn leave(&mut self, transport: Transport, alias: &Alias) {
        let Some(online) = self.over_mut(transport) else { return };
        let Some(sessions) = online.aliases.get_mut(alias) else { return };
        *sessions -= 1;
        if *sessions == 0 {
            online.aliases.remove(alias);
        }
        online.sessions -= 1;
    }
}

impl Online {
    /// Bound sessions.
    pub(super) fn sessions(&self) -> usize {
        self.sessions
    }

    /// How many aliases, and `size` of them from the one numbered `from` on, sorted by UTF-8 bytes.
    pub(super) fn page(&self, from: usize, size: usize) -> (usize, Vec<Alias>) {
        (self.aliases.len(), self.aliases.keys().skip(from).take(size).cloned().collect())
    }
}
