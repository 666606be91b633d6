//! Flow: links that bind, subscribe and leave (Protocol §2, §3).

use std::sync::Arc;

use crate::hub::Hub;
use crate::hub::access::may_bind;
use crate::hub::aliases::AliasKey;
use crate::hub::effects::{Closing, Effects};
use crate::hub::links::{Flow, Hold, HoldKind};
use crate::hub::storage::Change;
use crate::limits::{DISK_HOLD_MAX, SESSIONS_PER_ALIAS_MAX};
use crate::names::{Alias, LinkId, Mid, Topic};
use crate::protocol::frame::{BindKind, Num, Reply};
use crate::protocol::refusal::{Code, Refusal};
use crate::token::Claims;

/// An alias's last time seen is written when it has moved by this much: a phone that comes and goes wears no flash.
const SEEN_SAVED_EVERY_MS: u64 = 3_600_000;

impl Hub {
    /// 1, 11, 14.
    pub(super) fn bind_frame(
        &mut self,
        id: LinkId,
        kind: BindKind,
        named: Option<&Alias>,
        extended: bool,
        num: Option<Num>,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let (key, fresh) = self.bind(id, named, fx)?;
        let alias = self.aliases.get(key).name.clone();
        let wall = self.now.wall;
        let Some(link) = self.links.find_mut(id) else { return Ok(()) };
        link.extended |= extended;
        let ts = (kind == BindKind::Heartbeat && link.extended).then_some(wall);
        fx.reply(id, Reply::Bound { kind, alias, ts, num });
        if fresh || kind != BindKind::Heartbeat {
            self.resend(id);
        }
        Ok(())
    }

    /// The alias that the link has or now gets, and whether it is new to it.
    pub(super) fn bind(&mut self, id: LinkId, named: Option<&Alias>, fx: &mut Effects) -> Result<(AliasKey, bool), Refusal> {
        let Some(link) = self.links.find(id) else { return Err(Refusal::new(Code::NoAlias, "")) };
        if let Some(key) = link.alias {
            self.check_named(key, named)?;
            return Ok((key, false));
        }
        let Some(named) = named else { return Err(Refusal::new(Code::NoAlias, "alias")) };
        may_bind(link.claims.as_deref(), named)?;
        let key = self.known_or_new(named)?;
        self.make_room(key, fx);
        let now = self.now;
        let Some(link) = self.links.find_mut(id) else { return Err(Refusal::new(Code::NoAlias, "")) };
        link.alias = Some(key);
        link.settled = true;
        link.flow = Flow::Pulling;
        let transport = link.transport;
        let entry = self.aliases.get_mut(key);
        entry.sessions.push(id);
        entry.transport = Some(transport);
        entry.last_seen = now.wall;
        entry.last_seen_service = now.service;
        let name = entry.name.clone();
        self.presence.join(transport, &name);
        self.counters.binds += 1;
        Ok((key, true))
    }

    fn check_named(&self, key: AliasKey, named: Option<&Alias>) -> Result<(), Refusal> {
        match named {
            Some(named) if *named != self.aliases.get(key).name => Err(Refusal::new(Code::AliasMismatch, "alias")),
            _ => Ok(()),
        }
    }

    fn known_or_new(&mut self, name: &Alias) -> Result<AliasKey, Refusal> {
        if let Some(key) = self.aliases.find(name.as_str()) {
            return Ok(key);
        }
        if self.aliases.count() >= self.options.limits.aliases {
            return Err(Refusal::new(Code::Quota, "alias"));
        }
        Ok(self.aliases.add(name, self.now.wall, self.now.service))
    }

    /// With eight sessions, ends the one heard from longest ago.
    fn make_room(&mut self, key: AliasKey, fx: &mut Effects) {
        let sessions = &self.aliases.get(key).sessions;
        if sessions.len() < SESSIONS_PER_ALIAS_MAX {
            return;
        }
        let quietest = sessions.iter().copied().min_by_key(|id| self.links.find(*id).map_or(0, |link| link.heard));
        if let Some(quietest) = quietest {
            self.close(quietest, Closing::Replaced, fx);
        }
    }

    /// Everything unacknowledged goes to the session again, from the oldest on.
    pub(super) fn resend(&mut self, id: LinkId) {
        if let Some(link) = self.links.find_mut(id) {
            link.cursor = Mid::ZERO;
            if link.flow != Flow::Congested {
                link.flow = Flow::Waiting;
                self.pages.make_ready(link);
            }
        }
    }

    /// The bound alias of a link, for the frames that need one and never bind.
    fn bound(&self, id: LinkId, named: Option<&Alias>) -> Result<AliasKey, Refusal> {
        let key = self.link(id).and_then(|link| link.alias).ok_or(Refusal::new(Code::NoAlias, "alias"))?;
        self.check_named(key, named)?;
        Ok(key)
    }

    /// 3.
    pub(super) fn topics(&mut self, id: LinkId, named: Option<&Alias>, num: Option<Num>, fx: &mut Effects) -> Result<(), Refusal> {
        let key = self.bound(id, named)?;
        if self.uninformed {
            return Err(Refusal::new(Code::Unavailable, ""));
        }
        fx.reply(id, Reply::Topics { num, topics: self.aliases.topics(key) });
        Ok(())
    }

    /// Whether an alias is online, for any that asks; one never seen is offline.
    pub(super) fn tell_status(&mut self, id: LinkId, named: Option<Alias>, num: Option<Num>, fx: &mut Effects) -> Result<(), Refusal> {
        let bound = self.link(id).and_then(|link| link.alias).map(|key| self.aliases.get(key).name.clone());
        let alias = named.or(bound).ok_or(Refusal::new(Code::MissingField, "alias"))?;
        let (topics, online) = self.alias_status(&alias);
        fx.reply(id, Reply::Status { alias, topics, online, num });
        Ok(())
    }

    /// Binds a link by what came before its first frame, such as `?alias=` (Protocol §8): as a connect does, without its answer.
    ///
    /// # Errors
    /// As those of a connect; the link then stays as it is.
    pub fn bind_at_opening(&mut self, now: super::Now, id: LinkId, alias: &Alias, fx: &mut Effects) -> Result<(), Refusal> {
        self.now = now;
        self.bind(id, Some(alias), fx).inspect_err(|refusal| self.counters.count_refusal(refusal.code))?;
        self.resend(id);
        Ok(())
    }

    /// The link gets the frames marked (ext).
    pub fn extend(&mut self, id: LinkId) {
        if let Some(link) = self.links.find_mut(id) {
            link.extended = true;
        }
    }

    /// The bound alias of a link, for the frames that change what is stored of it.
    fn changeable(&self, id: LinkId, named: Option<&Alias>) -> Result<AliasKey, Refusal> {
        let key = self.bound(id, named)?;
        if self.gather.has_room() { Ok(key) } else { Err(Refusal::new(Code::Unavailable, "")) }
    }

    /// 2.
    pub(super) fn register(
        &mut self,
        id: LinkId,
        named: Option<&Alias>,
        topics: &[Topic],
        info: Option<Box<str>>,
        num: Option<Num>,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let key = self.changeable(id, named)?;
        let new = topics.iter().filter(|topic| !self.aliases.is_subscribed(key, topic)).count();
        if new > 0 && self.aliases.get(key).topics.len() + new > self.options.limits.topics_per_alias {
            return Err(Refusal::new(Code::Quota, "topic"));
        }
        let entry = self.aliases.get_mut(key);
        let informed = info.is_some() && info != entry.info;
        if informed {
            entry.info = info;
        }
        if informed || !entry.saved {
            self.save_alias(key);
        }
        let alias = self.aliases.id(key);
        for topic in topics {
            if self.aliases.subscribe(key, topic) {
                self.gather.queue(Change::Subscribe(alias, topic.clone()));
            }
        }
        self.hold_for_disk(id, HoldKind::Register(self.gather.last_queued()), num, fx);
        Ok(())
    }

    /// 12.
    pub(super) fn unregister(
        &mut self,
        id: LinkId,
        named: Option<&Alias>,
        topics: &[Topic],
        num: Option<Num>,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let key = self.changeable(id, named)?;
        let alias = self.aliases.id(key);
        for topic in topics {
            if self.aliases.unsubscribe(key, topic) {
                self.gather.queue(Change::Unsubscribe(alias, topic.clone()));
            }
        }
        self.hold_for_disk(id, HoldKind::Unregister(self.gather.last_queued()), num, fx);
        Ok(())
    }

    /// Holds the link until what is queued is committed; answers at once if it already is.
    fn hold_for_disk(&mut self, id: LinkId, kind: HoldKind, num: Option<Num>, fx: &mut Effects) {
        self.hold(id, kind, num);
        if !self.release_committed(id, fx) {
            self.timers.unstored.push_back((self.gather.last_queued(), id));
        }
    }

    pub(super) fn hold(&mut self, id: LinkId, kind: HoldKind, num: Option<Num>) {
        let deadline = self.now.mono + DISK_HOLD_MAX.as_micros() as u64;
        if let Some(link) = self.links.find_mut(id) {
            link.hold = Some(Box::new(Hold { kind, num, deadline }));
            self.timers.holding.push_back((deadline, id));
        }
    }

    /// Queues the row of an alias.
    pub(super) fn save_alias(&mut self, key: AliasKey) {
        self.aliases.id(key);
        let entry = self.aliases.get_mut(key);
        entry.saved_seen = entry.last_seen_service;
        if let Some(record) = entry.record() {
            self.gather.queue(Change::SaveAlias(record));
        }
    }

    /// Forgets a link and what hangs on it.
    pub(super) fn end_link(&mut self, id: LinkId, fx: &mut Effects) {
        let Some(link) = self.links.close(id) else { return };
        self.leave_rooms(id, link.rare.as_ref().map_or(&[], |rare| &rare.rooms));
        self.rooms.leave(id, self.now.mono, fx);
        if link.queued {
            let links = &self.links;
            self.pages.forget(|id| links.find(id).is_some());
        }
        let Some(key) = link.alias else { return };
        let now = self.now;
        let entry = self.aliases.get_mut(key);
        entry.sessions.remove(id);
        entry.last_seen = now.wall;
        entry.last_seen_service = now.service;
        let name = entry.name.clone();
        let last = entry.sessions.is_empty();
        let moved = entry.saved && entry.saved_seen + SEEN_SAVED_EVERY_MS <= now.service;
        self.presence.leave(link.transport, &name);
        if last {
            self.end_grace_of(key);
            if moved {
                self.save_alias(key);
            }
            self.forget_if_empty(key);
        }
    }

    /// Forgets an alias of which nothing is known that would be missed. Not during a fan-out, whose list may name it, nor before all
    /// that is stored of it is known: then the walk over all aliases does it.
    pub(super) fn forget_if_empty(&mut self, key: AliasKey) {
        if self.fan_out.is_some() || self.uninformed || self.aliases.try_get(key).is_none_or(|entry| !entry.is_forgettable()) {
            return;
        }
        if let Some(id) = self.aliases.forget(key).and_then(|entry| entry.id) {
            self.gather.forget_alias(id, self.now.mono);
        }
    }

    /// Whose token a link has, since it came or since its first frame (Protocol §11).
    pub fn set_claims(&mut self, id: LinkId, claims: Arc<Claims>) {
        if let Some(link) = self.links.find_mut(id) {
            link.claims = Some(claims);
        }
    }

    /// Ends every link whose claims `is_void` says no longer hold: revoked, or the key is gone.
    pub fn end_void(&mut self, now: super::Now, is_void: impl Fn(&Claims) -> bool, fx: &mut Effects) {
        self.now = now;
        let void: Vec<LinkId> = self.links.iter().filter(|link| link.claims.as_deref().is_some_and(&is_void)).map(|link| link.id).collect();
        for id in void {
            self.refuse(id, Refusal::new(Code::BadToken, "token"), None, fx);
        }
    }
}
