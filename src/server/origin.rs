//! From which web pages a browser may speak to rooms, Socket.IO and the console (Protocol §11).
//!
//! A browser sends whatever page it shows anywhere with its user's network behind it, and says in `Origin` whose page it was. A
//! native client has no such header. The Host header as such is never believed: a page can give its own host any address. Only an
//! address in it counts, for that is what the browser really connected to.

use std::net::IpAddr;

use crate::protocol::http::head::Head;
use crate::server::gate::is_private;

/// By which settings pages are judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginRule {
    /// `advertise_host`: the server's own name.
    pub advertise_host: Option<String>,
    /// `origins`: `*`, `null`, `file://` or `scheme://host[:port]`, in lower case.
    pub origins: Vec<String>,
}

/// From where a request says it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// From a page that may.
    Allowed,
    /// It does not say: a native client, or for JSONP anybody.
    Unsaid,
    /// From a page that may not: 403.
    Refused,
}

impl OriginRule {
    /// Judges a request by its `Origin`.
    #[must_use]
    pub fn judge(&self, head: &Head) -> Verdict {
        self.judge_all(head, "origin", |origin| origin)
    }

    /// Judges a JSONP poll, which browsers send without an `Origin`, by its Referer then. [`Verdict::Unsaid`]: it has neither, and
    /// needs a token.
    #[must_use]
    pub fn judge_jsonp(&self, head: &Head) -> Verdict {
        match self.judge(head) {
            Verdict::Unsaid => self.judge_all(head, "referer", origin_of_url),
            said => said,
        }
    }

    /// Every header of that name must name a page that may.
    fn judge_all(&self, head: &Head, name: &str, origin: fn(&str) -> &str) -> Verdict {
        let reached = head.header("host").map(host_of);
        let mut named = head.headers().filter(|(other, _)| other.eq_ignore_ascii_case(name)).peekable();
        if named.peek().is_none() {
            Verdict::Unsaid
        } else if named.all(|(_, value)| self.allows(&origin(value).to_ascii_lowercase(), reached)) {
            Verdict::Allowed
        } else {
            Verdict::Refused
        }
    }

    /// `reached`: the host that the client connected to, as it says.
    fn allows(&self, origin: &str, reached: Option<&str>) -> bool {
        if self.origins.iter().any(|listed| listed == origin) {
            return true;
        }
        let Some((_, authority)) = origin.split_once("://").filter(|(_, authority)| !authority.is_empty()) else { return false };
        let host = host_of(authority);
        if self.origins.iter().any(|listed| listed == "*") || host == "localhost" {
            return true;
        }
        if self.advertise_host.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(host)) {
            return true;
        }
        let Ok(address) = host.parse::<IpAddr>() else { return false };
        is_private(address) || reached.is_some_and(|own| own.parse() == Ok(address))
    }
}

/// The host of `host[:port]`, an IPv6 address without its brackets.
fn host_of(authority: &str) -> &str {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

/// `scheme://host[:port]` of a URL.
fn origin_of_url(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    url[after_scheme..].find(['/', '?', '#']).map_or(url, |end| &url[..after_scheme + end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::Decoder;

    fn head(lines: &str) -> Head {
        let mut decoder = Decoder::new();
        decoder.push(format!("GET /x HTTP/1.1\r\n{lines}\r\n\r\n").as_bytes());
        decoder.next_head().unwrap().unwrap()
    }

    fn rule(own: Option<&str>, origins: &[&str]) -> OriginRule {
        OriginRule { advertise_host: own.map(str::to_owned), origins: origins.iter().map(|origin| (*origin).to_owned()).collect() }
    }

    #[test]
    fn pages_of_the_server_itself_of_private_addresses_and_those_listed_may() {
        use Verdict::{Allowed, Refused};
        let own = rule(Some("push.example.org"), &["https://admin.example.org", "null"]);
        for (host, origin, verdict) in [
            ("a", "http://push.example.org", Allowed),
            ("a", "https://Push.Example.org:8443", Allowed),
            ("a", "http://localhost:3000", Allowed),
            ("a", "http://127.0.0.1", Allowed),
            ("a", "http://192.168.1.9:8080", Allowed),
            ("a", "http://[fd00::1]:8080", Allowed),
            ("a", "https://admin.example.org", Allowed),
            ("a", "null", Allowed),
            ("a", "https://admin.example.org:8443", Refused),
            ("a", "http://admin.example.org", Refused),
            ("a", "file://", Refused),
            ("a", "http://203.0.113.9", Refused),
            ("203.0.113.9:9000", "http://203.0.113.9", Allowed),
            ("[2001:db8::1]:9000", "http://[2001:db8::1]", Allowed),
            ("203.0.113.8:9000", "http://203.0.113.9", Refused),
            ("evil.example", "http://evil.example", Refused),
            ("a", "http://push.example.org.evil.example", Refused),
            ("a", "http://localhost.evil.example", Refused),
            ("a", "http://127.0.0.1.evil.example", Refused),
            ("a", "http://", Refused),
            ("a", "", Refused),
            ("a", "nonsense", Refused),
        ] {
            assert_eq!(own.judge(&head(&format!("Host: {host}\r\nOrigin: {origin}"))), verdict, "{host} {origin}");
        }
        assert_eq!(own.judge(&head("Host: a")), Verdict::Unsaid);
        assert_eq!(own.judge(&head("Host: a\r\nOrigin: http://localhost\r\nOrigin: http://evil.example")), Refused);
    }

    #[test]
    fn a_star_is_any_page_but_those_that_have_no_host() {
        let any = rule(None, &["*"]);
        for (origin, verdict) in [("http://evil.example", Verdict::Allowed), ("null", Verdict::Refused), ("file://", Verdict::Refused)] {
            assert_eq!(any.judge(&head(&format!("Host: a\r\nOrigin: {origin}"))), verdict, "{origin}");
        }
    }

    #[test]
    fn jsonp_is_judged_by_its_referer() {
        let own = rule(Some("push.example.org"), &["https://admin.example.org"]);
        for (lines, verdict) in [
            ("Referer: http://push.example.org/page?x=http://evil.example", Verdict::Allowed),
            ("Referer: https://admin.example.org", Verdict::Allowed),
            ("Referer: http://evil.example/?http://push.example.org", Verdict::Refused),
            ("Referer: http://evil.example#http://push.example.org", Verdict::Refused),
            ("Origin: http://evil.example\r\nReferer: http://push.example.org/", Verdict::Refused),
            ("X: y", Verdict::Unsaid),
        ] {
            assert_eq!(own.judge_jsonp(&head(&format!("Host: a\r\n{lines}"))), verdict, "{lines}");
        }
    }
}
