//! How the server does, gathered from all who count: the one source of the metrics, the health and the hourly line of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::refusal::Code;
use crate::runtime::alarms::{Alarm, Alarms};
use crate::runtime::disk::{Disk, DiskFigures};
use crate::runtime::handle::{self, Handle};
use crate::runtime::readiness::{Problem, problem};
use crate::server::gate::Gate;
use crate::server::http::{self, HttpCounters};
use crate::server::listener::Permits;
use crate::server::tally::Tally;
use crate::server::tcp::TcpServer;

/// All who count.
pub struct Watch {
    /// The hub, the outboxes and the clock.
    pub handle: Handle,
    /// The disk of the data folder.
    pub disk: Arc<Disk>,
    /// What is wrong until somebody acts.
    pub alarms: Arc<Alarms>,
    /// The connections of all ports.
    pub permits: Arc<Permits>,
    /// PushServer.
    pub tcp: Arc<TcpServer>,
    /// The connections of each HTTP port, with the port's name.
    pub http: [(&'static str, Arc<http::Options>); 3],
    /// The answers of RestServer.
    pub tally: Tally,
    /// Who was not let in.
    pub gate: Arc<Gate>,
}

/// Whether messages can be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Why not.
    pub problem: Option<Problem>,
    /// The names of the alarms that are raised: somebody must act, though messages can be stored.
    pub alarms: Vec<&'static str>,
}

/// What one HTTP port counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpFigures {
    /// The port's name.
    pub port: &'static str,
    /// Heads of requests.
    pub requests: u64,
    /// Requests refused for their framing, a deadline or a panic.
    pub refused: u64,
    /// Panics among them.
    pub panics: u64,
    /// Requests whose client had left.
    pub abandoned: u64,
}

impl HttpFigures {
    fn read(port: &'static str, counters: &HttpCounters) -> HttpFigures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let HttpCounters { requests, refused, panics, abandoned } = counters;
        HttpFigures { port, requests: read(requests), refused: read(refused), panics: read(panics), abandoned: read(abandoned) }
    }
}

/// All that is counted, at one moment.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Of the hub, the outboxes and the clock.
    pub hub: handle::Figures,
    /// Of the disk; nothing while it does not answer.
    pub disk: Option<DiskFigures>,
    /// Why messages can't be stored.
    pub problem: Option<Problem>,
    /// Each alarm, and whether it is raised.
    pub alarms: Vec<(&'static str, bool)>,
    /// Connections that are open.
    pub connections: usize,
    /// Connections that got in.
    pub accepted: u64,
    /// Connections closed at once, since there were too many.
    pub refused: u64,
    /// Connections closed at once, since their address had too many.
    pub refused_of_address: u64,
    /// Connections that the system could not give.
    pub accept_errors: u64,
    /// Connections to PushServer that spoke HTTP.
    pub http_on_tcp: u64,
    /// Of each HTTP port.
    pub http: Vec<HttpFigures>,
    /// Endpoint, class of status and number of RestServer's answers.
    pub answers: Vec<(&'static str, &'static str, u64)>,
    /// Error frames by code, over all ports.
    pub errors: Vec<(&'static str, u64)>,
    /// Tokens that were not valid.
    pub bad_tokens: u64,
}

impl Watch {
    /// Whether messages can be stored. Where that is not known a commit is tried; it comes back within about a second, whatever the
    /// disk does.
    pub async fn health(&self) -> Health {
        let store = self.handle.prove_storing().await;
        Health { problem: problem(store, self.free()), alarms: self.alarms.raised() }
    }

    fn free(&self) -> Option<u64> {
        self.disk.figures().map(|disk| disk.free)
    }

    /// All that is counted. Does not wait.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let accepts = self.permits.counters();
        let hub = self.handle.figures();
        let errors = Code::ALL.map(|code| (code.as_str(), hub.counters.refusals(code) + self.tally.refusals(code)));
        Figures {
            disk: self.disk.figures(),
            problem: problem(hub.store, self.free()),
            alarms: Alarm::ALL.map(|alarm| (alarm.as_str(), self.alarms.is_raised(alarm))).into(),
            connections: self.permits.open_connections(),
            accepted: read(&accepts.accepted),
            refused: read(&accepts.refused_total),
            refused_of_address: read(&accepts.refused_address),
            accept_errors: read(&accepts.accept_errors),
            http_on_tcp: self.tcp.http_closed(),
            http: self.http.iter().map(|(port, options)| HttpFigures::read(port, &options.counters)).collect(),
            answers: self.tally.answers().collect(),
            errors: errors.into(),
            bad_tokens: self.gate.bad_tokens(),
            hub,
        }
    }
}
