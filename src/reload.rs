//! SIGHUP: the settings are read again, and what may change goes to those who go by it. No link is closed for it.
//!
//! All or nothing: one mistake anywhere, or a file that is gone, and everything stays as it was. What a module decides by is
//! taken from the configuration here and nowhere else, so that a start and a reload can't differ. A thread of its own reads:
//! a file may lie on a disk that is slow.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use async_signal::{Signal, Signals};
use futures::StreamExt;

use crate::config::{Config, Effective};
use crate::hub;
use crate::hub::access::Openers;
use crate::runtime::handle::Handle;
use crate::runtime::pictures;
use crate::server::gate::{Gate, GateTerms};
use crate::server::listener::{ConnectionLimits, Permits};
use crate::server::origin::OriginRule;
use crate::server::rest::{Rest, RestTerms};
use crate::server::rooms::{RoomTerms, Rooms};
use crate::server::socketio::{SocketIo, SocketIoTerms};
use crate::server::tcp::TcpServer;

/// Reads the settings from all their places again, as at the start. The error names every mistake with its place.
pub type ReadSettings = Box<dyn Fn() -> Result<Effective, String> + Send>;

/// Everybody who goes by settings that may change.
pub struct Parts {
    /// The hub, the outboxes and the texts.
    pub handle: Handle,
    /// Who gets in.
    pub gate: Arc<Gate>,
    /// How many get in.
    pub permits: Arc<Permits>,
    /// PushServer.
    pub tcp: Arc<TcpServer>,
    /// RestServer.
    pub rest: Arc<Rest>,
    /// WebSocketServer.
    pub rooms: Arc<Rooms>,
    /// SocketIoServer.
    pub socketio: Arc<SocketIo>,
}

/// What the hub decides by.
#[must_use]
pub fn hub_options(config: &Config) -> hub::Options {
    hub::Options { limits: config.limits.clone(), openers: Openers::new(config.door_openers.clone()) }
}

/// What the gate judges by.
#[must_use]
pub fn gate_terms(config: &Config) -> GateTerms {
    GateTerms { devices: config.auth_devices, proxies: config.trusted_proxies.clone() }
}

/// How many connections there may be.
#[must_use]
pub fn connection_limits(config: &Config) -> ConnectionLimits {
    ConnectionLimits { connections: config.limits.connections, per_address: config.limits.connections_per_address }
}

/// What REST answers by.
#[must_use]
pub fn rest_terms(config: &Config) -> RestTerms {
    RestTerms {
        advertise_host: config.advertise_host.clone(),
        first_page: config.rest_first_page,
        error_status: config.rest_error_status,
        frame_max: config.limits.frame,
        language: config.language,
    }
}

/// From which web pages a browser may come.
#[must_use]
pub fn origin_rule(config: &Config) -> OriginRule {
    OriginRule { advertise_host: config.advertise_host.clone(), origins: config.origins.clone() }
}

/// What rooms go by.
#[must_use]
pub fn room_terms(config: &Config) -> RoomTerms {
    RoomTerms { origins: origin_rule(config), frame_max: config.websocket_frame, language: config.language }
}

/// How many pictures the door log keeps.
#[must_use]
pub fn picture_bounds(config: &Config) -> pictures::Bounds {
    pictures::Bounds { bytes: config.door_pictures, life: config.door_picture_life }
}

/// What the phones' port serves by.
#[must_use]
pub fn socketio_terms(config: &Config) -> SocketIoTerms {
    SocketIoTerms {
        origins: origin_rule(config),
        frame_max: config.limits.frame,
        sessions_max: config.limits.connections,
        language: config.language,
    }
}

/// SIGHUP from now on. Before this is called it ends the process, so call it early: what comes before [`start`] waits for that.
///
/// # Errors
/// Those of the system.
pub fn hangups() -> std::io::Result<Signals> {
    Signals::new([Signal::Hup])
}

/// Reloads at each SIGHUP, until the process ends. Of those that come while one is acted on, one more is.
pub fn start(mut hangups: Signals, read: ReadSettings, in_force: Effective, parts: Parts) {
    let (ask, asked) = sync_channel(1);
    let mut reloader = Reloader { read, in_force, parts };
    let reload = move || asked.into_iter().for_each(|()| reloader.reload());
    if let Err(error) = std::thread::Builder::new().name("reload".into()).spawn(reload) {
        log::error!("reload_off reason=\"{error}\" effect=settings_change_at_the_next_start_only");
    }
    async_std::task::spawn(async move {
        while hangups.next().await.is_some() {
            // Full: a reload that has not begun will see what this one was meant for.
            let _ = ask.try_send(());
        }
    });
}

struct Reloader {
    read: ReadSettings,
    in_force: Effective,
    parts: Parts,
}

impl Reloader {
    fn reload(&mut self) {
        match self.read() {
            Ok(next) => self.take(next),
            Err(reason) => {
                log::error!("reload_failed reason=\"{reason}\" effect=all_settings_stay action=correct_it_and_send_SIGHUP_again")
            }
        }
    }

    fn read(&self) -> Result<Effective, String> {
        let next = (self.read)()?;
        match &self.in_force.file {
            // Not all settings back to their defaults because somebody moved a file.
            Some(path) if next.file.is_none() => Err(format!("{path}: it was there and is gone; to do without it restart")),
            _ => Ok(next),
        }
    }

    fn take(&mut self, next: Effective) {
        let (old_level, new_level) = (self.in_force.config.log_level, next.config.log_level);
        self.apply(&next.config);
        // What is said of the change is said at either level.
        log::set_max_level(old_level.max(new_level));
        next.warnings.iter().for_each(|warning| log::warn!("setting_ignored reason=\"{warning}\""));
        let changes = self.in_force.changes(&next);
        for change in &changes {
            let (key, from, to, source) = (change.key, &change.from, &change.to, &change.source);
            if change.reloads {
                log::info!("setting_changed key={key} from={from} to={to} source=\"{source}\"");
            } else {
                log::warn!("setting_waits key={key} from={from} to={to} source=\"{source}\" effect=takes_effect_at_the_next_start");
            }
        }
        let waiting = changes.iter().filter(|change| !change.reloads).count();
        log::info!("settings_reloaded changed={} waiting={waiting}", changes.len() - waiting);
        log::set_max_level(new_level);
        self.in_force = self.in_force.reloaded(next);
    }

    /// Can't fail: the values are whole, and nobody is asked.
    fn apply(&self, config: &Config) {
        let Parts { handle, gate, permits, tcp, rest, rooms, socketio } = &self.parts;
        gate.reconfigure(gate_terms(config));
        permits.reconfigure(connection_limits(config));
        tcp.reconfigure(config.limits.frame);
        rest.reconfigure(rest_terms(config));
        rooms.reconfigure(room_terms(config));
        handle.keep_pictures(picture_bounds(config));
        socketio.reconfigure(socketio_terms(config));
        handle.reconfigure(hub_options(config), config.language);
    }
}
