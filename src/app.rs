//! Builds everything from a configuration, starts it, and stops it in order. The only place that knows everybody.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::panic;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use async_global_executor::GlobalExecutorConfig;
use async_signal::{Signal, Signals};
use futures::StreamExt;

use crate::config::{Config, Effective};
use crate::hub::restore::{Numbers, Restorer};
use crate::hub::storage::{Restored, Stamp};
use crate::hub::{Hub, Input};
use crate::limits::{SHUTDOWN_WAIT, TOKENS_LOOKED_AT_EVERY};
use crate::names::Label;
use crate::reload::{self, Parts, ReadSettings};
use crate::runtime::alarms::{Alarm, Alarms};
use crate::runtime::clock::{Clock, mono_us, wall_ms};
use crate::runtime::disk::Disk;
use crate::runtime::handle::{Handle, Inbox};
use crate::runtime::keyring::{Keyring, MASTER_KEY, Missing};
use crate::runtime::pictures::DoorPictures;
use crate::runtime::readiness::Problem;
use crate::runtime::shutdown::{ShutdownSignal, shutdown};
use crate::server::gate::Gate;
use crate::server::http;
use crate::server::listener::{Listener, Permits, raise_descriptor_limit};
use crate::server::rest::routes::ENDPOINTS;
use crate::server::rest::{self, Ports, Rest, RestOptions};
use crate::server::rooms::{self, Rooms, RoomsOptions};
use crate::server::socketio::{self, SocketIo, SocketIoOptions};
use crate::server::tally::Tally;
use crate::server::tcp::TcpServer;
use crate::server::watch::{HttpFigures, Watch};
use crate::store::findings::{Findings, Kind};
use crate::store::{self, Answer, Store, StoreHandle};
use crate::token::{Claims, Role};

/// The label of the token that the first start prints.
const FIRST_LABEL: &str = "first-start";
/// Of the time that ending may take, what is left to commit and to close the store.
const FINISH_WAIT: Duration = Duration::from_secs(3);
/// And what is left for the last answers to reach whoever waits for them.
const LAST_ANSWERS_WAIT: Duration = Duration::from_secs(1);
/// How often the log says how the site does.
const STATUS_LOGGED_EVERY: Duration = Duration::from_secs(3_600);
/// Panics that are logged; a panic that repeats would fill the disk.
const PANICS_LOGGED_MAX: usize = 100;

/// Why the server can't start. The text says what is wrong and what to do.
#[derive(Debug)]
enum Fault {
    Store(store::fault::Fault),
    Keyring(crate::runtime::keyring::Fault),
    Pictures(std::io::Error),
    Doors(std::io::Error),
    Bind { what: &'static str, address: SocketAddr, source: std::io::Error },
    Signals(std::io::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Store(fault) => fault.fmt(f),
            Fault::Keyring(fault) => fault.fmt(f),
            Fault::Pictures(source) => write!(f, "can't use the folder pictures in the data folder: {source}; make it writable"),
            Fault::Bind { what, address, source } => {
                write!(f, "can't listen on {address}: {source}; stop what uses that port, or set another {what}")
            }
            Fault::Doors(source) => write!(f, "can't watch the sockets of doors: {source}; raise the limit of open files (ulimit -n)"),
            Fault::Signals(source) => write!(f, "can't listen for signals: {source}"),
        }
    }
}

/// Serves until SIGTERM or SIGINT; at SIGHUP reads the settings again. Everything that went wrong is in the log.
#[must_use]
pub fn serve(settings: Effective, read: ReadSettings) -> ExitCode {
    log_panics();
    match run(settings, read) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            log::error!("start_failed reason=\"{fault}\"");
            log::logger().flush();
            ExitCode::FAILURE
        }
    }
}

/// A panic ends one task; the log says where, a bounded number of times (G2).
fn log_panics() {
    static LOGGED: AtomicUsize = AtomicUsize::new(0);
    panic::set_hook(Box::new(|info| {
        if LOGGED.fetch_add(1, Ordering::Relaxed) < PANICS_LOGGED_MAX {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let why = info.payload_as_str().unwrap_or("unknown");
            log::error!("panic at={place} reason=\"{why}\"");
        }
    }));
}

fn run(settings: Effective, read: ReadSettings) -> Result<(), Fault> {
    let config = settings.config.clone();
    if let Err(error) = raise_descriptor_limit() {
        log::warn!("descriptor_limit_not_raised reason=\"{error}\"");
    }
    let threads = GlobalExecutorConfig::default().with_min_threads(config.threads).with_max_threads(config.threads);
    async_global_executor::init_with_config(threads);
    let hangups = reload::hangups().map_err(Fault::Signals)?;
    let is_first_start = !config.data_dir.join(MASTER_KEY).exists();
    let alarms = Arc::new(Alarms::default());
    let Started { handle, keyring, disk, findings } = start_hub(&config, &alarms)?;
    let (switch, signal) = shutdown();
    let permits = Permits::new(reload::connection_limits(&config));
    let gate = Arc::new(Gate::new(Arc::clone(&keyring), reload::gate_terms(&config)));
    let tcp = listen(&config, "tcp.port", config.tcp_port)?;
    let rest = listen(&config, "rest.port", config.rest_port)?;
    let websocket = listen(&config, "websocket.port", config.websocket_port)?;
    let socketio = listen(&config, "socketio.port", config.socketio_port)?;
    let addresses =
        Addresses { tcp: tcp.local_addr(), rest: rest.local_addr(), websocket: websocket.local_addr(), socketio: socketio.local_addr() };
    let server = Arc::new(TcpServer::new(handle.clone(), Arc::clone(&gate), config.limits.frame));
    let [terms, phone_terms, room_terms] = [(); 3].map(|()| Arc::new(http::Options::new(signal.clone())));
    let watch = Arc::new(Watch {
        handle: handle.clone(),
        disk,
        alarms: Arc::clone(&alarms),
        permits: Arc::clone(&permits),
        tcp: Arc::clone(&server),
        http: [("rest", Arc::clone(&terms)), ("socketio", Arc::clone(&phone_terms)), ("websocket", Arc::clone(&room_terms))],
        tally: Tally::new(&ENDPOINTS),
        gate: Arc::clone(&gate),
    });
    log_status(Arc::clone(&watch));
    serve_tcp(tcp, &permits, &signal, Arc::clone(&server));
    let rooms = Arc::new(Rooms::new(RoomsOptions { handle: handle.clone(), gate: Arc::clone(&gate), terms: reload::room_terms(&config) }));
    serve_rooms(websocket, &permits, room_terms, Arc::clone(&rooms));
    let answers = Arc::new(Rest::new(rest_options(&config, &addresses, watch)));
    serve_rest(rest, &permits, terms, Arc::clone(&answers));
    let phones = Arc::new(SocketIo::new(socketio_options(&config, handle.clone(), Arc::clone(&gate))));
    serve_socketio(socketio, &permits, phone_terms, Arc::clone(&phones));
    let parts = Parts { handle: handle.clone(), gate, permits: Arc::clone(&permits), tcp: server, rest: answers, rooms, socketio: phones };
    reload::start(hangups, read, settings, parts);
    let mut signals = Signals::new([Signal::Term, Signal::Int]).map_err(Fault::Signals)?;
    watch_files(Arc::clone(&keyring), findings, handle.clone(), alarms);
    announce(&config, &addresses, is_first_start.then_some(&*keyring));

    let (asked_to_end, ended) = (sync_channel::<()>(1), sync_channel::<()>(1));
    async_std::task::spawn(async move {
        let which = signals.next().await;
        log::info!("ending signal={which:?}");
        tell(&asked_to_end.0);
        switch.begin();
        handle.finish(FINISH_WAIT).await;
        // A peer that does not take its answer is not waited for longer.
        let _ = async_std::future::timeout(LAST_ANSWERS_WAIT, permits.all_returned()).await;
        tell(&ended.0);
    });
    // This thread runs no task: the executor's own threads do, and are not disturbed.
    let _ = asked_to_end.1.recv();
    if ended.1.recv_timeout(SHUTDOWN_WAIT).is_err() {
        log::warn!("ending_late action=exit within_s={}", SHUTDOWN_WAIT.as_secs());
    }
    log::info!("ended");
    log::logger().flush();
    Ok(())
}

fn tell(sender: &SyncSender<()>) {
    // Nobody to tell means that the process is ending already.
    let _ = sender.try_send(());
}

/// What stands below the ports.
struct Started {
    handle: Handle,
    keyring: Arc<Keyring>,
    disk: Arc<Disk>,
    findings: Findings,
}

/// Opens the store, fills the hub from it, and starts both.
fn start_hub(config: &Config, alarms: &Alarms) -> Result<Started, Fault> {
    let options = store::Options::new(config.data_dir.clone(), wall_ms, mono_us);
    let mut store = Store::open(&options).map_err(Fault::Store)?;
    let keyring = Arc::new(open_keyring(config)?);
    alarms.set(Alarm::KeyringBroken, keyring.is_broken());
    let disk = Disk::watch(&config.data_dir, store.file(), store.log_file());
    let (hub, (stamp, newest_wall)) = loop {
        let mut hub = Hub::new(reload::hub_options(config), store.mids(), store.is_storing());
        // What a database gave that could not be read to its end is thrown away; then there is a new one, or none for now.
        if let Some(stamps) = load(&mut store, &mut hub) {
            break (hub, stamps);
        }
    };
    let findings = store.findings().clone();
    raise(alarms, &findings);
    let inbox = Inbox::new();
    let store = start_store(store, &inbox)?;
    let pictures = Arc::new(DoorPictures::open(&config.data_dir, reload::picture_bounds(config)).map_err(Fault::Pictures)?);
    let clock = Clock::new(stamp, newest_wall);
    let handle = Handle::start(hub, &config.limits, config.language, clock, store, pictures, &inbox).map_err(Fault::Doors)?;
    Ok(Started { handle, keyring, disk, findings })
}

/// Shows what the store has found wrong, at the start or since.
fn raise(alarms: &Alarms, findings: &Findings) {
    for (alarm, kind) in [
        (Alarm::DatabaseSetAside, Kind::DatabaseSetAside),
        (Alarm::DatabaseNotOpen, Kind::DatabaseNotOpen),
        (Alarm::DataLost, Kind::DataLost),
        (Alarm::RowsDamaged, Kind::RowsDamaged),
        (Alarm::MidsDamaged, Kind::MidsDamaged),
    ] {
        alarms.set(alarm, findings.has(kind));
    }
}

/// The keyring. Without a key that can be read or made no token is valid, which is logged; doors near by need none.
fn open_keyring(config: &Config) -> Result<Keyring, Fault> {
    Keyring::open(&config.data_dir, Missing::Create).or_else(|fault| {
        log::error!("key_not_made reason=\"{fault}\"");
        Keyring::open(&config.data_dir, Missing::Leave).map_err(Fault::Keyring)
    })
}

/// Returns what the clock goes on from: the last stamp, and the highest wall time of any. Nothing: to be done again, with a new hub.
fn load(store: &mut Store, hub: &mut Hub) -> Option<(Stamp, u64)> {
    if !store.is_open() {
        hub.begin_uninformed();
        return Some((Stamp::default(), 0));
    }
    let mut restorer = Restorer::new(hub);
    let mut stored = (Stamp::default(), 0);
    let take = &mut |restored: Restored| {
        if let Restored::Counters { stamp, newest_wall, .. } = &restored {
            stored = (*stamp, *newest_wall);
        }
        restorer.take(restored);
    };
    if !store.load(take) {
        return None;
    }
    let load = hub.load();
    log::info!("loaded aliases={} messages={} deliveries={} bytes={}", load.aliases, load.messages, load.deliveries, load.bodies);
    Some(stored)
}

fn start_store(store: Store, inbox: &Inbox) -> Result<StoreHandle, Fault> {
    let (inbox, restored_to) = (inbox.clone(), inbox.clone());
    let answers = Arc::new(move |answer| {
        inbox.submit(match answer {
            Answer::Batch { number, outcome } => Input::Stored { number, outcome },
            Answer::Page { ticket, page } => Input::Page { ticket, messages: page },
            Answer::Block(end) => Input::Block(end.ok()),
            Answer::Full => Input::StoreFull,
        });
    });
    let (inbox, mut numbers) = (restored_to, Numbers::default());
    let restore = Box::new(move |piece, last| inbox.restore(&mut numbers, piece, last));
    store.start(answers, restore).map_err(Fault::Store)
}

/// The addresses that were bound.
struct Addresses {
    tcp: SocketAddr,
    rest: SocketAddr,
    websocket: SocketAddr,
    socketio: SocketAddr,
}

fn listen(config: &Config, what: &'static str, port: u16) -> Result<Listener, Fault> {
    let address = SocketAddr::new(config.bind, port);
    Listener::bind(address).map_err(|source| Fault::Bind { what, address, source })
}

fn serve_tcp(listener: Listener, permits: &Arc<Permits>, signal: &ShutdownSignal, server: Arc<TcpServer>) {
    let (permits, signal) = (Arc::clone(permits), signal.clone());
    async_std::task::spawn(async move {
        listener.run(Arc::clone(server.reactor()), permits, signal, |accepted| server.serve(accepted)).await;
    });
}

fn rest_options(config: &Config, addresses: &Addresses, watch: Arc<Watch>) -> RestOptions {
    let ports = Ports {
        rest: addresses.rest.port(),
        websocket: addresses.websocket.port(),
        socketio: addresses.socketio.port(),
        tcp: addresses.tcp.port(),
    };
    let (handle, gate) = (watch.handle.clone(), Arc::clone(&watch.gate));
    RestOptions { handle, gate, watch, ports, terms: reload::rest_terms(config) }
}

fn serve_rest(listener: Listener, permits: &Arc<Permits>, terms: Arc<http::Options>, answers: Arc<Rest>) {
    async_std::task::spawn(rest::serve(listener, Arc::clone(permits), terms, answers));
}

fn serve_rooms(listener: Listener, permits: &Arc<Permits>, terms: Arc<http::Options>, rooms: Arc<Rooms>) {
    async_std::task::spawn(rooms::serve(listener, Arc::clone(permits), terms, rooms));
}

fn socketio_options(config: &Config, handle: Handle, gate: Arc<Gate>) -> SocketIoOptions {
    SocketIoOptions { handle, gate, terms: reload::socketio_terms(config) }
}

fn serve_socketio(listener: Listener, permits: &Arc<Permits>, terms: Arc<http::Options>, server: Arc<SocketIo>) {
    async_std::task::spawn(socketio::serve(listener, Arc::clone(permits), terms, server));
}

/// Once an hour a line in the log by which an installer sees how the site does.
fn log_status(watch: Arc<Watch>) {
    async_std::task::spawn(async move {
        loop {
            async_std::task::sleep(STATUS_LOGGED_EVERY).await;
            let figures = watch.figures();
            let (hub, disk) = (&figures.hub, figures.disk);
            let (load, count) = (&hub.load, &hub.counters);
            let rooms = hub.rooms.one_to_one + hub.rooms.one_to_many + hub.rooms.many_to_many;
            let of_ports = |read: fn(&HttpFigures) -> u64| figures.http.iter().map(read).sum::<u64>();
            log::info!(
                "status connections={} links={} aliases={} room_members={} rooms={} deliveries_waiting={} oldest_waits_s={} bytes_waiting={} store={:?} problem={} \
                 publishes={} deliveries={} acknowledged={} expired={} dropped={} recalled={} lost={} not_stored={} openings={} \
                 stale_openings={} congested={} outbox_bytes={} notices_dropped={} commits={} failed_commits={} database_bytes={} \
                 wal_bytes={} disk_free_bytes={} clock_steps={} http_on_tcp={} accepted={} refused={} refused_of_address={} \
                 accept_errors={} bad_tokens={} http_requests={} http_refused={} http_panics={} http_abandoned={}",
                figures.connections,
                load.links,
                load.aliases,
                hub.sizes.web_socket,
                rooms,
                load.deliveries,
                hub.oldest_waits.as_secs(),
                load.bodies,
                load.health,
                figures.problem.map_or("none", Problem::as_str),
                count.publishes,
                count.deliveries,
                count.acknowledged,
                count.expired,
                count.dropped,
                count.recalled,
                count.lost,
                count.not_stored,
                count.openings,
                count.stale_door_frames + hub.outboxes.stale,
                count.congested,
                hub.outboxes.held,
                hub.outboxes.dropped,
                count.commits,
                count.failed_commits,
                disk.map_or(0, |disk| disk.database),
                disk.map_or(0, |disk| disk.log),
                disk.map_or(0, |disk| disk.free),
                hub.clock_steps,
                figures.http_on_tcp,
                figures.accepted,
                figures.refused,
                figures.refused_of_address,
                figures.accept_errors,
                figures.bad_tokens,
                of_ports(|port| port.requests),
                of_ports(|port| port.refused),
                of_ports(|port| port.panics),
                of_ports(|port| port.abandoned),
            );
        }
    });
}

/// Looks at the key and the revoked labels, on a thread of its own since a slow disk would hold it up, and ends the links whose
/// token is no longer good (Protocol §11).
fn watch_files(keyring: Arc<Keyring>, findings: Findings, handle: Handle, alarms: Arc<Alarms>) {
    let watch = move || {
        loop {
            std::thread::sleep(TOKENS_LOOKED_AT_EVERY);
            keyring.reload_if_changed();
            alarms.set(Alarm::KeyringBroken, keyring.is_broken());
            raise(&alarms, &findings);
            let now_s = handle.token_time_s();
            handle.end_void(|claims| keyring.recheck(claims, now_s).is_err());
        }
    };
    if let Err(error) = std::thread::Builder::new().name("keyring".into()).spawn(watch) {
        log::error!("keyring_not_watched reason=\"{error}\" effect=revoked_tokens_stay_valid_until_restart");
    }
}

/// Says on stdout where the server listens, and at the first start gives a management token.
fn announce(config: &Config, addresses: &Addresses, first: Option<&Keyring>) {
    let mut text = format!("Porter {} is ready.\n", env!("CARGO_PKG_VERSION"));
    text += &format!("  controllers   tcp://{}\n", addresses.tcp);
    text += &format!("  rooms         ws://{}\n", addresses.websocket);
    text += &format!("  management    http://{}\n", addresses.rest);
    text += &format!("  phones        http://{}/socket.io/\n", addresses.socketio);
    if let Some(keyring) = first {
        text += &first_token(keyring, &config.data_dir);
    }
    // A closed stdout is no reason not to serve.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

fn first_token(keyring: &Keyring, data_dir: &Path) -> String {
    let Ok(label) = Label::new(FIRST_LABEL) else { return String::new() };
    match keyring.issue(&Claims { role: Role::Manage, label, alias: None, expires: 0 }) {
        Ok(token) => format!(
            "  token         {token}\n\
             Keep the token: it is shown this once and may do everything; revoke it with `porter token revoke {FIRST_LABEL}`.\n\
             Next: `porter sub --alias door-3-1` in one terminal, `porter pub --alias door-3-1 hello` in another.\n"
        ),
        Err(fault) => format!("No token could be made: {fault}. Look at {}.\n", data_dir.display()),
    }
}
