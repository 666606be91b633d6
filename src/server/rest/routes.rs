//! Which paths and methods there are (Protocol §10): the one table that both the look at a head and the router go by.
//!
//! It knows no token and no answer. Paths are matched as they were sent, still percent-encoded, so that a `%2F` stays in its segment.

use tide::http::Method;

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Frames 6 and 8.
    Push,
    /// The counts.
    Info,
    /// Where the ports are.
    Servers,
    /// One alias: its topics, and whether it is online.
    Status,
    /// The aliases online over TCP.
    Channels,
    /// The aliases online over Socket.IO.
    SocketIos,
    /// What became of a message.
    Report,
    /// Ends what a message is still owed to.
    Recall,
    /// Openings of doors.
    DoorLog,
    /// The picture of one.
    DoorPicture,
    /// Whether the server does its work.
    Live,
    /// Whether messages can be stored.
    Ready,
    /// The figures.
    Metrics,
}

/// The endpoints' names in the metrics, in the order of [`Endpoint`]; the last is for requests without a route.
pub const ENDPOINTS: [&str; 14] = [
    "push",
    "info",
    "servers",
    "status",
    "all_channel_alias",
    "all_socketio_alias",
    "report",
    "recall",
    "door_log",
    "door_picture",
    "live",
    "ready",
    "metrics",
    "none",
];
/// The place of requests without a route among [`ENDPOINTS`].
pub(super) const NO_ENDPOINT: usize = ENDPOINTS.len() - 1;
const _: () = assert!(Endpoint::Metrics as usize + 1 == NO_ENDPOINT);

/// One path under one method.
#[derive(Debug)]
pub(super) struct Route {
    /// The method; GET answers HEAD as well.
    pub(super) method: Method,
    /// The segments of the path; one that begins with `:` stands for any that is not empty. The last is the token, unless the route is
    /// open.
    segments: &'static [&'static str],
    /// What is asked.
    pub(super) endpoint: Endpoint,
}

/// Why no route is found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// There is no such path.
    Path,
    /// The path has other methods: the value of `Allow`.
    Method(String),
}

/// All routes.
pub(super) static ROUTES: [Route; 13] = [
    route(Method::Post, &["push", ":token"], Endpoint::Push),
    route(Method::Get, &["info", ":token"], Endpoint::Info),
    route(Method::Get, &["info", "servers", ":token"], Endpoint::Servers),
    route(Method::Get, &["info", "status", ":alias", ":token"], Endpoint::Status),
    route(Method::Get, &["info", "allChannelAlias", ":page", ":token"], Endpoint::Channels),
    route(Method::Get, &["info", "allSocketIOAlias", ":page", ":token"], Endpoint::SocketIos),
    route(Method::Get, &["info", "message", ":mid", ":token"], Endpoint::Report),
    route(Method::Delete, &["info", "message", ":mid", ":token"], Endpoint::Recall),
    route(Method::Get, &["info", "doorLog", ":page", ":token"], Endpoint::DoorLog),
    route(Method::Get, &["info", "doorPicture", ":id", ":token"], Endpoint::DoorPicture),
    route(Method::Get, &["health", "live"], Endpoint::Live),
    route(Method::Get, &["health", "ready"], Endpoint::Ready),
    route(Method::Get, &["metrics", ":token"], Endpoint::Metrics),
];

/// Segments that no route has: what a path is cut into at most.
const TOO_MANY_SEGMENTS: usize = 5;

const fn route(method: Method, segments: &'static [&'static str], endpoint: Endpoint) -> Route {
    assert!(segments.len() < TOO_MANY_SEGMENTS);
    Route { method, segments, endpoint }
}

impl Route {
    /// The path as a pattern.
    pub(super) fn path(&self) -> String {
        self.segments.iter().flat_map(|segment| ["/", segment]).collect()
    }

    /// The path as the router knows it: without the token.
    pub(super) fn pattern(&self) -> String {
        let path = self.path();
        self.routed(&path).to_owned()
    }

    /// What the router is to look at of a path that has this route. It walks a path by the character, so the token is cut off: it has
    /// been judged.
    pub(super) fn routed<'a>(&self, path: &'a str) -> &'a str {
        if self.is_open() { path } else { memchr::memrchr(b'/', path.as_bytes()).map_or(path, |end| &path[..end]) }
    }

    /// The path for the log: its pattern, the token masked. What the client put into the segments is not in it, for a client that
    /// mixes them up puts its token anywhere.
    pub(super) fn masked(&self) -> String {
        self.path().replace(":token", "…")
    }

    /// Whether it is for everybody: it needs no token and shows nothing secret. Its status is all that some watchers look at, so
    /// `rest.error_status` does not touch it.
    pub(super) fn is_open(&self) -> bool {
        self.segments.last() != Some(&":token")
    }

    /// The name of its parameter beside the token; no path has two.
    pub(super) fn subject(&self) -> Option<&'static str> {
        self.segments.iter().filter_map(|segment| segment.strip_prefix(':')).find(|name| *name != "token")
    }

    fn has(&self, segments: &[&str]) -> bool {
        let matches = |(pattern, segment): (&&str, &&str)| if pattern.starts_with(':') { !segment.is_empty() } else { pattern == segment };
        self.segments.len() == segments.len() && self.segments.iter().zip(segments).all(matches)
    }

    /// Its methods as `Allow` lists them.
    fn allowed(&self) -> &str {
        if self.method == Method::Get { "GET, HEAD" } else { self.method.as_ref() }
    }
}

/// The route of a request. Methods are case-sensitive; HEAD is looked up as GET.
pub(super) fn find(method: &str, path: &str) -> Result<&'static Route, Miss> {
    let method = if method == "HEAD" { "GET" } else { method };
    // Cut once: the token in it is long, and there are many routes.
    let mut segments = [""; TOO_MANY_SEGMENTS];
    let mut count = 0;
    let mut rest = Some(path.strip_prefix('/').ok_or(Miss::Path)?);
    while let (Some(text), Some(segment)) = (rest, segments.get_mut(count)) {
        let end = memchr::memchr(b'/', text.as_bytes());
        *segment = end.map_or(text, |end| &text[..end]);
        rest = end.map(|end| &text[end + 1..]);
        count += 1;
    }
    let matching = ROUTES.iter().filter(|route| route.has(&segments[..count]));
    if let Some(route) = matching.clone().find(|route| route.method.as_ref() == method) {
        return Ok(route);
    }
    let allowed: Vec<&str> = matching.map(Route::allowed).collect();
    Err(if allowed.is_empty() { Miss::Path } else { Miss::Method(allowed.join(", ")) })
}

/// The last segment of a path that has a route: its token, as sent.
pub(super) fn token_segment(path: &str) -> &str {
    memchr::memrchr(b'/', path.as_bytes()).map_or(path, |end| &path[end + 1..])
}

#[cfg(test)]
mod tests {
    use tide::http::{Request, Response, StatusCode, Url};

    use super::*;
    use crate::seeded::Seeded;

    /// What the router makes of a path that was looked up: the endpoint's place in the table, and the segments it captured.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Routed(Endpoint, Option<String>);

    fn router() -> tide::Server<()> {
        let mut router = tide::new();
        for route in &ROUTES {
            let endpoint = route.endpoint;
            router.at(&route.pattern()).method(route.method, move |request: tide::Request<()>| async move {
                let subject = ["alias", "page", "mid", "id"].iter().find_map(|name| request.param(name).ok()).map(Into::into);
                let mut response = tide::Response::new(StatusCode::Ok);
                response.insert_ext(Routed(endpoint, subject));
                Ok(response)
            });
        }
        router
    }

    #[test]
    fn the_router_agrees_with_the_table_on_every_path_that_has_a_route() {
        const SEGMENTS: [&str; 28] = [
            "push",
            "health",
            "live",
            "ready",
            "metrics",
            "info",
            "servers",
            "status",
            "message",
            "allChannelAlias",
            "allSocketIOAlias",
            "",
            "-",
            "a%2Fb",
            "%2f",
            "%",
            "|",
            "\"",
            "{}",
            "'",
            ";",
            "a:b",
            ":token",
            "*",
            "%E9%97%A8",
            "~",
            "a%20b",
            "Push",
        ];
        let router = router();
        let mut random = Seeded(7);
        let mut found = 0;
        for _ in 0..20_000 {
            // Mostly the beginning of some route, or nearly nothing would be found.
            let mut path = random.pick(&ROUTES).path().split(':').next().unwrap().trim_end_matches('/').to_owned();
            for _ in 0..random.below(4) {
                path = format!("{path}/{}", random.pick(&SEGMENTS));
            }
            let method = *random.pick(&[Method::Get, Method::Post, Method::Delete, Method::Put]);
            let Ok(route) = find(method.as_ref(), &path) else { continue };
            found += 1;
            let mut url = Url::parse("http://h/").unwrap();
            url.set_path(route.routed(&path));
            let mut response: Response = async_std::task::block_on(router.respond(Request::new(method, url))).unwrap();
            let Some(Routed(endpoint, subject)) = response.ext_mut().remove() else { panic!("{method} {path}") };
            assert_eq!(endpoint, route.endpoint, "{method} {path}");
            let sent = path.rsplit('/').nth(1).filter(|_| route.path().matches(':').count() == 2);
            let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
            assert_eq!(subject.as_deref().map(decoded), sent.map(decoded), "{method} {path}");
        }
        assert!(found > 1_000, "only {found} paths were found");
    }

    #[test]
    fn every_route_finds_itself_and_all_but_health_end_in_a_token() {
        for route in &ROUTES {
            assert_eq!(route.is_open(), route.path().starts_with("/health/"), "{route:?}");
            let path = route.path().replace(':', "");
            assert_eq!(find(route.method.as_ref(), &path).unwrap().endpoint, route.endpoint);
            assert!(route.is_open() || token_segment(&path) == "token");
        }
    }

    #[test]
    fn paths_are_told_apart_by_their_segments() {
        for (path, endpoint) in [
            ("/info/servers", Endpoint::Info),
            ("/info/servers/-", Endpoint::Servers),
            ("/info/status/servers/t", Endpoint::Status),
            ("/info/status/a%2Fb/t", Endpoint::Status),
            ("/info/message/message/message", Endpoint::Report),
            ("/info/allChannelAlias/1/t", Endpoint::Channels),
            ("/info/allSocketIOAlias/1/t", Endpoint::SocketIos),
        ] {
            assert_eq!(find("GET", path).unwrap().endpoint, endpoint, "{path}");
            assert_eq!(find("HEAD", path).unwrap().endpoint, endpoint, "{path}");
        }
    }

    #[test]
    fn unknown_paths_are_a_miss_whatever_the_method() {
        for path in [
            "/",
            "/health",
            "/health/",
            "/health/live/",
            "/health/live/t",
            "/metrics",
            "/push",
            "/push/",
            "/push/t/",
            "//push/t",
            "/push//t",
            "/Push/t",
            "/info//t",
            "/info/status//t",
            "/info/status/a/b/t",
        ] {
            for method in ["GET", "POST", "DELETE", "BREW"] {
                assert_eq!(find(method, path).err(), Some(Miss::Path), "{method} {path}");
            }
        }
    }

    #[test]
    fn another_method_is_told_which_ones_there_are() {
        for (method, path, allowed) in [
            ("GET", "/push/t", "POST"),
            ("HEAD", "/push/t", "POST"),
            ("post", "/push/t", "POST"),
            ("POST", "/info/t", "GET, HEAD"),
            ("OPTIONS", "/info/servers/t", "GET, HEAD"),
            ("PUT", "/info/message/1/t", "GET, HEAD, DELETE"),
            ("POST", "/health/ready", "GET, HEAD"),
        ] {
            assert_eq!(find(method, path).err(), Some(Miss::Method(allowed.into())), "{method} {path}");
        }
    }

    #[test]
    fn nothing_that_a_client_sent_is_in_the_masked_path() {
        assert_eq!(find("POST", "/push/secret").unwrap().masked(), "/push/…");
        assert_eq!(find("GET", "/info/status/secret/alias").unwrap().masked(), "/info/status/:alias/…");
    }
}
