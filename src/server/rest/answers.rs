//! What each endpoint answers (Protocol §10): from what the hub says to JSON, in exactly the members of the original and their order.
//!
//! It knows neither tokens nor headers: whoever comes here has been let in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::names::{Alias, Mid, Transport};
use crate::protocol::decode;
use crate::protocol::encode;
use crate::protocol::frame::Reply;
use crate::protocol::http::refusal::{HttpRefusal, status};
use crate::protocol::refusal::{Code, Language};
use crate::runtime::current::Current;
use crate::runtime::handle::Handle;
use crate::runtime::readiness::Problem;
use crate::server::metrics;
use crate::server::rest::door_log::{self, Form};
use crate::server::rest::page::{self, Page};
use crate::server::rest::routes::Endpoint;
use crate::server::rest::sheets::Sheets;
use crate::server::rest::{Ports, RestTerms};
use crate::server::watch::{Health, Watch};
use crate::token::Claims;

/// What all answers are made from.
pub(super) struct Desk {
    pub(super) handle: Handle,
    pub(super) watch: Arc<Watch>,
    pub(super) ports: Ports,
    pub(super) terms: Current<RestTerms>,
    pub(super) sheets: Sheets,
}

/// One request whose token is good, or that needs none.
#[derive(Debug)]
pub(super) struct Asked {
    /// Who asks.
    pub(super) address: IpAddr,
    /// What the token says; nothing where none is needed.
    pub(super) claims: Option<Arc<Claims>>,
    /// When the request came: monotonic, µs.
    pub(super) came_at: u64,
    /// This machine's address as the asker reached it; none if the asker has gone.
    pub(super) local: Option<IpAddr>,
    /// What follows the `?`.
    pub(super) query: Option<String>,
    /// The body.
    pub(super) body: Vec<u8>,
}

/// A status and a body.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// Under what name a browser stores it, if it is to be stored rather than shown.
    pub(super) file_name: Option<&'static str>,
    pub(super) body: Bytes,
}

impl Answered {
    fn json(status: u16, body: Vec<u8>) -> Answered {
        Answered { status, content_type: "application/json; charset=utf-8", file_name: None, body: body.into() }
    }
}

#[derive(Serialize)]
struct Counts {
    #[serde(rename = "webSocketSize")]
    web_socket: usize,
    #[serde(rename = "channelSize")]
    channel: usize,
    #[serde(rename = "onlineAllSize")]
    online_all: usize,
    #[serde(rename = "socketIOSize")]
    socket_io: usize,
}

#[derive(Serialize)]
struct Servers<'a> {
    service: Service,
    host: &'a str,
}

/// The ports under the names of the original.
#[derive(Serialize)]
struct Service {
    rest: u16,
    #[serde(rename = "webSocket")]
    websocket: u16,
    socket: u16,
    push: u16,
}

#[derive(Serialize)]
struct AliasStatus<'a> {
    list: Vec<&'a str>,
    status: &'static str,
}

#[derive(Serialize)]
struct AliasPage<'a> {
    total: usize,
    list: Vec<&'a str>,
}

#[derive(Serialize)]
struct Report<'a> {
    mid: String,
    list: Vec<ReportedDelivery<'a>>,
}

#[derive(Serialize)]
struct ReportedDelivery<'a> {
    alias: &'a str,
    state: &'static str,
    at: u64,
}

#[derive(Serialize)]
struct Liveness {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    alarms: Vec<&'static str>,
}

#[derive(Serialize)]
struct Recalled {
    mid: String,
    recalled: usize,
}

impl Desk {
    /// Answers a request to `endpoint`. `subject` is the alias, the page or the mid in the path, still percent-encoded; empty where
    /// the path has none.
    ///
    /// # Errors
    /// The refusal, with its status.
    pub(super) async fn answer(&self, endpoint: Endpoint, subject: &str, asked: Asked) -> Result<Answered, HttpRefusal> {
        // What is asked seldom must not make the future of what is asked often larger.
        match endpoint {
            Endpoint::Push => self.push(asked).await,
            _ => Box::pin(self.tell(endpoint, subject, asked)).await,
        }
    }

    /// Answers all that is no push.
    async fn tell(&self, endpoint: Endpoint, subject: &str, asked: Asked) -> Result<Answered, HttpRefusal> {
        let body = match endpoint {
            Endpoint::Push => return self.push(asked).await,
            Endpoint::Live => return Ok(self.live().await),
            Endpoint::Ready => return Ok(self.ready().await),
            Endpoint::Metrics => return Ok(self.metrics().await),
            Endpoint::Info => self.info(&asked),
            Endpoint::Servers => self.servers(&asked),
            Endpoint::Status => self.status(subject)?,
            Endpoint::Channels => self.online(subject, &asked, Transport::Tcp)?,
            Endpoint::SocketIos => self.online(subject, &asked, Transport::SocketIo)?,
            Endpoint::Report => self.report(mid(subject)?).await?,
            Endpoint::Recall => self.recall(mid(subject)?).await?,
            Endpoint::DoorLog => return self.door_log(subject, &asked).await,
            Endpoint::DoorPicture => return self.door_picture(subject).await,
        };
        Ok(Answered::json(200, body))
    }

    /// A refusal as the error frame. All that are not the hub's come by here, and are counted.
    pub(super) fn refused(&self, refusal: HttpRefusal) -> Answered {
        self.watch.tally.refused(refusal.refusal.code);
        let mut body = Vec::new();
        encode::reply(&Reply::Error { refusal: refusal.refusal, num: None }, self.terms.get().language, &mut body);
        Answered::json(refusal.status, body)
    }

    /// One frame. The hub answers also those that are refused, so that it counts them.
    async fn push(&self, asked: Asked) -> Result<Answered, HttpRefusal> {
        let Asked { address, claims, came_at, body, .. } = asked;
        let claims = claims.ok_or(HttpRefusal::new(Code::BadToken, "token"))?;
        let request = decode::rest_request(&body);
        // Whoever waits for the hub holds no more than it must.
        drop(body);
        let reply = self.handle.request(address, claims, request, came_at).await;
        let status = if let Reply::Error { refusal, .. } = &reply { status(refusal.code) } else { 200 };
        let mut body = Vec::with_capacity(REPLY_BYTES);
        encode::reply(&reply, self.terms.get().language, &mut body);
        Ok(Answered::json(status, body))
    }

    /// Whether the hub's task does its work.
    async fn live(&self) -> Answered {
        if self.handle.is_turning().await {
            return Answered::json(200, json(&Liveness { status: "live", hint: None }));
        }
        let hint = match self.terms.get().language {
            Language::En => "the server does no work: look at its log and restart it",
            Language::Zh => "服务没有响应：请查看日志并重启",
        };
        Answered::json(503, json(&Liveness { status: "stuck", hint: Some(hint) }))
    }

    /// Whether messages can be stored.
    async fn ready(&self) -> Answered {
        let Health { problem, alarms } = self.watch.health().await;
        let language = self.terms.get().language;
        let (code, status) = if problem.is_some() { (503, "not_ready") } else { (200, "ready") };
        let (reason, hint) = (problem.map(Problem::as_str), problem.map(|problem| problem.hint(language)));
        Answered::json(code, json(&Readiness { status, reason, hint, alarms }))
    }

    /// All that is counted. Also asks for the health, so that its figure is that of now.
    async fn metrics(&self) -> Answered {
        self.watch.health().await;
        let body = metrics::text(&self.watch.figures()).into();
        Answered { status: 200, content_type: metrics::CONTENT_TYPE, file_name: None, body }
    }

    fn info(&self, asked: &Asked) -> Vec<u8> {
        let sizes = self.handle.sizes();
        let counts =
            Counts { web_socket: sizes.web_socket, channel: sizes.channel, online_all: sizes.online_all, socket_io: sizes.socket_io };
        json(&BTreeMap::from([(self.host(asked), counts)]))
    }

    fn servers(&self, asked: &Asked) -> Vec<u8> {
        let Ports { rest, websocket, socketio, tcp } = self.ports;
        let service = Service { rest, websocket, socket: socketio, push: tcp };
        json(&Servers { service, host: &self.host(asked) })
    }

    fn host(&self, asked: &Asked) -> String {
        host(self.terms.get().advertise_host.as_deref(), asked.local)
    }

    fn status(&self, subject: &str) -> Result<Vec<u8>, HttpRefusal> {
        const BAD_ALIAS: HttpRefusal = HttpRefusal::new(Code::BadField, "alias");
        let text = percent_decode_str(subject).decode_utf8().map_err(|_| BAD_ALIAS)?;
        let alias = Alias::new(&text).map_err(|_| BAD_ALIAS)?;
        let (topics, is_online) = self.handle.alias_status(&alias);
        let list = topics.iter().map(|topic| topic.as_str()).collect();
        Ok(json(&AliasStatus { list, status: if is_online { "online" } else { "offline" } }))
    }

    fn online(&self, subject: &str, asked: &Asked, transport: Transport) -> Result<Vec<u8>, HttpRefusal> {
        let page = Page::read(subject, asked.query.as_deref(), self.terms.get().first_page)?;
        let (total, aliases) = self.handle.online(transport, page.from, page.size);
        Ok(json(&AliasPage { total, list: aliases.iter().map(Alias::as_str).collect() }))
    }

    /// What became of a message: its report if one is kept, else who is still owed it.
    async fn report(&self, mid: Mid) -> Result<Vec<u8>, HttpRefusal> {
        // What was acknowledged just now is shown: the report is read from the store.
        self.handle.settle().await;
        let kept = self.handle.report(mid).await?;
        let lines = if kept.is_empty() { self.handle.waiting_for(mid).await } else { kept };
        if lines.is_empty() {
            return Err(UNKNOWN_MID);
        }
        let list = lines.iter().map(|line| ReportedDelivery { alias: line.alias.as_str(), state: line.state.as_str(), at: line.at });
        Ok(json(&Report { mid: mid.to_string(), list: list.collect() }))
    }

    async fn door_log(&self, subject: &str, asked: &Asked) -> Result<Answered, HttpRefusal> {
        let (part, form) = door_log::read(subject, asked.query.as_deref(), self.terms.get().first_page)?;
        // An opening just now is shown: the log is read from the store.
        self.handle.settle().await;
        let (total, doors) = self.handle.door_log(part).await?;
        Ok(match form {
            Form::Json => Answered::json(200, door_log::json(total, &doors)),
            Form::Csv => {
                let body = door_log::csv(&doors).into();
                Answered { status: 200, content_type: "text/csv; charset=utf-8", file_name: Some("doorLog.csv"), body }
            }
        })
    }

    async fn door_picture(&self, subject: &str) -> Result<Answered, HttpRefusal> {
        let id = page::digits(subject).ok_or(HttpRefusal::new(Code::BadField, "id"))?;
        let picture = self.handle.door_picture(id).await.ok_or(HttpRefusal::new(Code::NotFound, "id"))?;
        Ok(Answered { status: 200, content_type: picture.content_type, file_name: None, body: picture.bytes })
    }

    async fn recall(&self, mid: Mid) -> Result<Vec<u8>, HttpRefusal> {
        let recalled = self.handle.recall(mid).await.map_err(|refusal| HttpRefusal::new(refusal.code, refusal.field))?;
        // With the disk in order what is recalled stays so, also if the power fails after the answer.
        self.handle.settle().await;
        Ok(json(&Recalled { mid: mid.to_string(), recalled }))
    }
}

/// The name of this server for its clients. The one who asked has gone where `local` is none: nobody reads it then.
fn host(advertised: Option<&str>, local: Option<IpAddr>) -> String {
    match advertised {
        Some(host) => host.to_owned(),
        None => local.map(|address| address.to_string()).unwrap_or_default(),
    }
}

/// Room for a usual reply.
const REPLY_BYTES: usize = 128;
const UNKNOWN_MID: HttpRefusal = HttpRefusal::new(Code::NotFound, "mid");

fn mid(subject: &str) -> Result<Mid, HttpRefusal> {
    Mid::parse(subject).ok_or(HttpRefusal::new(Code::BadField, "mid"))
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a Vec takes every write, and all keys are strings")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_the_advertised_one_else_the_address_that_was_reached() {
        let local = |text: &str| Some(text.parse().unwrap());
        assert_eq!(host(Some("push.example.com"), local("10.0.0.215")), "push.example.com");
        assert_eq!(host(None, local("10.0.0.215")), "10.0.0.215");
        assert_eq!(host(None, local("fd00::1")), "fd00::1");
        assert_eq!(host(None, None), "");
    }

    /// The original's examples, byte for byte but for its spaces.
    #[test]
    fn members_and_their_order_are_the_originals() {
        let text = |body: Vec<u8>| String::from_utf8(body).unwrap();
        let counts = Counts { web_socket: 0, channel: 0, online_all: 1, socket_io: 1 };
        assert_eq!(
            text(json(&BTreeMap::from([("10.0.0.214", counts)]))),
            r#"{"10.0.0.214":{"webSocketSize":0,"channelSize":0,"onlineAllSize":1,"socketIOSize":1}}"#
        );
        let service = Service { rest: 9900, websocket: 9000, socket: 9906, push: 9800 };
        assert_eq!(
            text(json(&Servers { service, host: "10.0.0.215" })),
            r#"{"service":{"rest":9900,"webSocket":9000,"socket":9906,"push":9800},"host":"10.0.0.215"}"#
        );
        assert_eq!(text(json(&AliasStatus { list: vec!["m_2", "c_2"], status: "online" })), r#"{"list":["m_2","c_2"],"status":"online"}"#);
        assert_eq!(text(json(&AliasPage { total: 1, list: vec!["te\"st"] })), r#"{"total":1,"list":["te\"st"]}"#);
        let list = vec![ReportedDelivery { alias: "门", state: "waiting", at: 5 }];
        assert_eq!(text(json(&Report { mid: "7".into(), list })), r#"{"mid":"7","list":[{"alias":"门","state":"waiting","at":5}]}"#);
        let ready = Readiness { status: "ready", reason: None, hint: None, alarms: vec!["data_lost"] };
        assert_eq!(text(json(&ready)), r#"{"status":"ready","alarms":["data_lost"]}"#);
        assert_eq!(text(json(&Recalled { mid: "7".into(), recalled: 2 })), r#"{"mid":"7","recalled":2}"#);
    }
}
