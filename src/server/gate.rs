//! Who gets in: tokens of devices and of the management, judged by where they come from (Protocol §11).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::protocol::http::head::Head;
use crate::protocol::refusal::{Code, KEYRING_BROKEN, Refusal};
use crate::runtime::clock;
use crate::runtime::current::Current;
use crate::runtime::keyring::Keyring;
use crate::server::network::Network;
use crate::token::{BadToken, Claims, Role};

/// Which devices need a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceAuth {
    /// Those that do not come from a private address.
    Private,
    /// All.
    Token,
    /// None.
    Open,
}

/// Bad tokens of one address in [`STRIKES_WINDOW`] after which its bad ones are answered `rate_limited`.
const STRIKES_MAX: u32 = 10;
const STRIKES_WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered for their bad tokens at once; over it those whose minute is over are forgotten, then all.
const STRIKERS_MAX: usize = 10_000;

/// Headers besides X-Forwarded-For that only proxies write.
const OTHER_PROXY_HEADERS: [&str; 3] = ["forwarded", "x-real-ip", "via"];

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// From where: the client's own address, where a trusted proxy tells it.
    pub address: IpAddr,
    /// What its token allows; none where it needs none and gave none.
    pub claims: Option<Arc<Claims>>,
}

/// By which settings a gate judges. A link is judged when it comes: new terms are for those that come later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateTerms {
    /// `auth.devices`.
    pub devices: DeviceAuth,
    /// `auth.trusted_proxies`.
    pub proxies: Vec<Network>,
}

/// Judges whoever comes, for all ports.
#[derive(Debug)]
pub struct Gate {
    keyring: Arc<Keyring>,
    terms: Current<GateTerms>,
    strikes: Mutex<HashMap<IpAddr, Strikes>>,
    bad_tokens: AtomicU64,
}

#[derive(Debug)]
struct Strikes {
    since: Instant,
    count: u32,
}

impl Gate {
    /// A gate that begins with these terms.
    #[must_use]
    pub fn new(keyring: Arc<Keyring>, terms: GateTerms) -> Gate {
        Gate { keyring, terms: Current::new(terms), strikes: Mutex::default(), bad_tokens: AtomicU64::new(0) }
    }

    /// From now on judges by these terms.
    pub fn reconfigure(&self, terms: GateTerms) {
        self.terms.set(terms);
    }

    /// Tokens that were not valid, and requests to REST without one.
    #[must_use]
    pub fn bad_tokens(&self) -> u64 {
        self.bad_tokens.load(Ordering::Relaxed)
    }

    /// A device's link: its claims, or none where it needs no token.
    ///
    /// # Errors
    /// `bad_token`: one is needed and missing, or the one given is not valid.
    pub fn admit(&self, address: IpAddr, token: Option<&str>, now_s: u64) -> Result<Option<Arc<Claims>>, Refusal> {
        let needed = self.is_token_needed(address, false);
        match token {
            None if needed => Err(Refusal::new(Code::BadToken, "token")),
            None => Ok(None),
            Some(token) => self.check(address, token, now_s).map(Some),
        }
    }

    /// A device's request over HTTP: whose it is, and its claims, or none where it needs no token. It is private only if it came past
    /// no proxy that is not trusted. `needs_token`: it needs one wherever it comes from.
    ///
    /// # Errors
    /// As those of [`Gate::admit`].
    pub fn admit_request(&self, peer: IpAddr, head: &Head, token: Option<&str>, needs_token: bool, now_s: u64) -> Result<Visitor, Refusal> {
        let is_forwarded = OTHER_PROXY_HEADERS.iter().any(|name| head.header(name).is_some());
        let (address, is_foreign) = self.origin(peer, &forwarded_for(head), is_forwarded);
        let needed = needs_token || self.is_token_needed(address, is_foreign);
        match token {
            None if needed => Err(Refusal::new(Code::BadToken, "token")),
            None => Ok(Visitor { address, claims: None }),
            Some(token) => Ok(Visitor { address, claims: Some(self.check(address, token, now_s)?) }),
        }
    }

    /// Whether a device at that address needs a token; `is_foreign`: the address may not be its own.
    fn is_token_needed(&self, address: IpAddr, is_foreign: bool) -> bool {
        match self.terms.get().devices {
            DeviceAuth::Private => is_foreign || !is_private(address),
            DeviceAuth::Token => true,
            DeviceAuth::Open => false,
        }
    }

    /// A request to REST: the claims of its `manage` token.
    ///
    /// # Errors
    /// `bad_token`, `rate_limited` after ten of them in a minute, `forbidden` for a device's token.
    pub fn manage(&self, address: IpAddr, token: &str, now_s: u64) -> Result<Arc<Claims>, Refusal> {
        let claims = self.check(address, token, now_s)?;
        if claims.role != Role::Manage {
            return Err(Refusal::new(Code::Forbidden, "token"));
        }
        Ok(claims)
    }

    /// Whether claims that were good a moment ago still are.
    ///
    /// # Errors
    /// `bad_token`: they have ended meanwhile. It is nobody's attempt and not counted.
    pub fn recheck(&self, claims: &Claims, now_s: u64) -> Result<(), Refusal> {
        self.keyring
            .recheck(claims, now_s)
            .map_err(|why| Refusal::new(Code::BadToken, if why == BadToken::NoKey { KEYRING_BROKEN } else { "token" }))
    }

    /// While the keyring is broken nothing is counted against anybody.
    fn check(&self, address: IpAddr, token: &str, now_s: u64) -> Result<Arc<Claims>, Refusal> {
        self.keyring.check(token, now_s).map_err(|why| {
            if why == BadToken::NoKey {
                // Nobody's fault who asks: a genuine token is refused as well, and must be good again as soon as the files are.
                return Refusal::new(Code::BadToken, KEYRING_BROKEN);
            }
            self.bad_tokens.fetch_add(1, Ordering::Relaxed);
            if self.strike(address) {
                Refusal::new(Code::RateLimited, "token")
            } else {
                log::debug!("bad_token address={address} reason={why}");
                Refusal::new(Code::BadToken, "token")
            }
        })
    }

    /// Counts a bad token. True: there were too many within the minute. One log line a minute, for fail2ban.
    fn strike(&self, address: IpAddr) -> bool {
        let now = clock::mono();
        let mut strikes = self.strikes.lock().unwrap_or_else(PoisonError::into_inner);
        if strikes.len() >= STRIKERS_MAX && !strikes.contains_key(&address) {
            strikes.retain(|_, striker| now - striker.since < STRIKES_WINDOW);
            if strikes.len() >= STRIKERS_MAX {
                strikes.clear();
            }
        }
        let striker = strikes.entry(address).or_insert(Strikes { since: now, count: 0 });
        if now - striker.since >= STRIKES_WINDOW {
            *striker = Strikes { since: now, count: 0 };
        }
        striker.count = striker.count.saturating_add(1);
        if striker.count == STRIKES_MAX {
            log::warn!("bad_tokens address={address} count={STRIKES_MAX} window_s={}", STRIKES_WINDOW.as_secs());
        }
        striker.count > STRIKES_MAX
    }

    /// Whose request it is: the peer, unless that is a trusted proxy; then the last X-Forwarded-For entry that is none.
    /// `forwarded_for` are those headers in their order. The flag tells whether it came past a proxy that is not trusted, or from
    /// where none can tell: then it is not private, whatever its address.
    #[must_use]
    pub fn origin(&self, peer: IpAddr, forwarded_for: &[&str], other_proxy_headers: bool) -> (IpAddr, bool) {
        let terms = self.terms.get();
        let is_proxy = |address: IpAddr| terms.proxies.iter().any(|proxy| proxy.contains(address));
        if !is_proxy(peer) {
            return (peer, !forwarded_for.is_empty() || other_proxy_headers);
        }
        // From the end, where the proxies write: what stands before their entries is the client's own invention.
        for entry in forwarded_for.iter().rev().flat_map(|header| header.rsplit(',')) {
            match entry.trim().parse().map(|address: IpAddr| address.to_canonical()) {
                Ok(address) if is_proxy(address) => {}
                Ok(address) => return (address, false),
                // The proxy knows whose it is, but not how to say so: anybody's.
                Err(_) => return (peer, true),
            }
        }
        (peer, false)
    }
}

/// The X-Forwarded-For headers of a request, in their order.
#[must_use]
pub fn forwarded_for(head: &Head) -> Vec<&str> {
    head.headers().filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for")).map(|(_, value)| value).collect()
}

/// Whether devices at that address may come without a token by default (Protocol §11).
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::keyring::Missing;

    #[test]
    fn a_forwarded_request_is_that_of_the_last_address_that_is_no_trusted_proxy() {
        // A folder that is not there: no token is valid, and none is asked for.
        let keyring = Keyring::open(std::path::Path::new("/nonexistent/porter"), Missing::Leave).unwrap();
        let proxies = ["127.0.0.1", "10.9.0.0/16"].map(|network| Network::parse(network).unwrap()).into();
        let gate = Gate::new(Arc::new(keyring), GateTerms { devices: DeviceAuth::Private, proxies });
        for (peer, headers, other, address, is_foreign) in [
            ("192.168.1.5", &[][..], false, "192.168.1.5", false),
            ("192.168.1.5", &["127.0.0.1"], false, "192.168.1.5", true),
            ("192.168.1.5", &[], true, "192.168.1.5", true),
            ("127.0.0.1", &[], false, "127.0.0.1", false),
            ("127.0.0.1", &["203.0.113.9"], true, "203.0.113.9", false),
            ("127.0.0.1", &["192.168.1.5, 203.0.113.9"], false, "203.0.113.9", false),
            ("127.0.0.1", &["192.168.1.5", "203.0.113.9, 10.9.0.1"], false, "203.0.113.9", false),
            ("127.0.0.1", &["::ffff:203.0.113.9"], false, "203.0.113.9", false),
            ("127.0.0.1", &["10.9.0.1"], false, "127.0.0.1", false),
            ("127.0.0.1", &["anything at all, 203.0.113.9"], false, "203.0.113.9", false),
            ("127.0.0.1", &["", "203.0.113.9,10.9.0.1"], false, "203.0.113.9", false),
            ("127.0.0.1", &["192.168.1.5, unknown"], false, "127.0.0.1", true),
            ("127.0.0.1", &[""], false, "127.0.0.1", true),
        ] {
            let origin = gate.origin(peer.parse().unwrap(), headers, other);
            assert_eq!(origin, (address.parse().unwrap(), is_foreign), "{peer} {headers:?} {other}");
        }
    }

    #[test]
    fn bad_tokens_are_counted_unless_it_is_the_keyring_that_is_broken() {
        let folder = std::env::temp_dir().join(format!("porter-gate-{}", std::process::id()));
        let keyring = Arc::new(Keyring::open(&folder, Missing::Create).unwrap());
        let gate = Gate::new(Arc::clone(&keyring), GateTerms { devices: DeviceAuth::Private, proxies: Vec::new() });
        let code = || gate.manage("127.0.0.1".parse().unwrap(), "00", 0).unwrap_err();
        let key = folder.join(crate::runtime::keyring::MASTER_KEY);
        let whole = std::fs::read(&key).unwrap();
        std::fs::write(&key, "damaged").unwrap();
        keyring.reload_if_changed();
        let broken = Refusal::new(Code::BadToken, KEYRING_BROKEN);
        assert!((0..3 * STRIKES_MAX).all(|_| code() == broken));
        std::fs::write(&key, whole).unwrap();
        keyring.reload_if_changed();
        assert!((0..STRIKES_MAX).all(|_| code() == Refusal::new(Code::BadToken, "token")));
        assert_eq!(code().code, Code::RateLimited);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn private_addresses_are_those_of_the_protocol() {
        for (address, private) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("::1", true),
            ("10.1.2.3", true),
            ("172.16.0.1", true),
            ("172.31.255.255", true),
            ("172.32.0.1", false),
            ("192.168.9.9", true),
            ("192.169.0.1", false),
            ("169.254.1.1", true),
            ("fd00::1", true),
            ("fc00::1", true),
            ("fe80::1", true),
            ("fec0::1", false),
            ("2001:db8::1", false),
            ("::ffff:192.168.1.1", true),
            ("::ffff:8.8.8.8", false),
            ("8.8.8.8", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), private, "{address}");
        }
    }
}
