//! Who is online over which transport, in the order of the pages that show it.

use std::collections::BTreeMap;

use crate::names::{Alias, Transport};

/// The aliases with a live session, kept sorted so that no request has to sort (Design §6).
#[derive(Debug, Default)]
pub(super) struct Presence {
    tcp: Online,
    socket_io: Online,
    /// Aliases online over any transport, each once.
    online_all: usize,
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

    /// Aliases online over any transport, each once. Kept as a number, since any client may ask as often as it likes.
    pub(super) fn online_all(&self) -> usize {
        self.online_all
    }

    fn is_online(&self, alias: &Alias) -> bool {
        self.tcp.aliases.contains_key(alias) || self.socket_io.aliases.contains_key(alias)
    }

    pub(super) fn join(&mut self, transport: Transport, alias: &Alias) {
        let comes = !self.is_online(alias);
        let Some(online) = self.over_mut(transport) else { return };
        *online.aliases.entry(alias.clone()).or_insert(0) += 1;
        online.sessions += 1;
        self.online_all += usize::from(comes);
    }

    pub(super) fn leave(&mut self, transport: Transport, alias: &Alias) {
        let Some(online) = self.over_mut(transport) else { return };
        let Some(sessions) = online.aliases.get_mut(alias) else { return };
        online.sessions -= 1;
        *sessions -= 1;
        if *sessions == 0 {
            online.aliases.remove(alias);
            self.online_all -= usize::from(!self.is_online(alias));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn an_alias_counts_once_however_it_comes_and_goes() {
        let mut seeded = Seeded(1);
        let (mut presence, mut model) = (Presence::default(), Vec::new());
        let names = ["a", "b", "c", "d"].map(|name| Alias::new(name).unwrap());
        for _ in 0..5_000 {
            if model.len() < 12 && seeded.below(2) == 0 {
                let transport = *seeded.pick(&[Transport::Tcp, Transport::SocketIo]);
                model.push((transport, seeded.below(names.len())));
                presence.join(transport, &names[model[model.len() - 1].1]);
            } else if !model.is_empty() {
                let (transport, name) = model.swap_remove(seeded.below(model.len()));
                presence.leave(transport, &names[name]);
            }
            let online = (0..names.len()).filter(|name| model.iter().any(|(_, of)| of == name)).count();
            assert_eq!(presence.online_all(), online);
        }
    }
}
