//! The servers that are measured: each started for one measurement, on free ports, in a folder that goes with it, pinned.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::driver::{Driver, Who};
use crate::fleet::{Bad, Outcome};
use crate::machine::{LOAD_CORE, SERVER_CORE, pin};
use crate::{http, mqtt, polling, porter, resp, rooms, websocket};

/// A server that does not take connections by then has not started.
const START_MAX: Duration = Duration::from_secs(30);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Porter,
    Mosquitto,
    Redis,
    Axum,
    Socketioxide,
    #[serde(rename = "socket.io")]
    SocketIo2,
    Ws,
    #[serde(rename = "tokio-tungstenite")]
    TokioTungstenite,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Porter => "Porter",
            Kind::Mosquitto => "Mosquitto",
            Kind::Redis => "redis",
            Kind::Axum => "axum",
            Kind::Socketioxide => "socketioxide",
            Kind::SocketIo2 => "socket.io",
            Kind::Ws => "ws",
            Kind::TokioTungstenite => "tokio-tungstenite",
        }
    }
}

/// How clients talk to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The protocol that is the server's own.
    Own,
    /// Socket.IO on a WebSocket.
    Websocket,
    /// Socket.IO by polling; publishers on a WebSocket.
    Polling,
    /// Socket.IO by polling and then on a WebSocket; publishers on that at once.
    Upgrade,
    /// A WebSocket that is a member of a room.
    Rooms,
}

/// What of a server's settings depends on the job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Messages wait: Mosquitto keeps them on disk, as Porter and redis always do.
    pub durable: bool,
    /// More waits than Porter's defaults allow.
    pub raised: bool,
}

/// Where programs and settings are, and where data may go: on a real disk, so not in /tmp.
#[derive(Debug)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// The repository's folder.
    pub fn new(root: &Path) -> Outcome<Places> {
        Ok(Places { root: root.canonicalize()? })
    }

    pub fn of(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn folder(&self) -> Outcome<Folder> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("target/bench-data/{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.of(&name);
        fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server.
pub struct Server {
    pub kind: Kind,
    child: Child,
    /// Where controllers, MQTT or redis clients go.
    pub address: SocketAddr,
    /// Where HTTP clients go.
    pub rest: SocketAddr,
    /// Where Socket.IO's clients go.
    phones: SocketAddr,
    /// Where members of rooms go.
    rooms: SocketAddr,
    token: String,
    settings: Settings,
    folder: Folder,
}

impl Server {
    pub fn start(places: &Places, kind: Kind, settings: Settings) -> Outcome<Server> {
        let folder = places.folder()?;
        let port = free_port()?;
        let mut command = command(places, kind, settings, &folder, port)?;
        let tells = !matches!(kind, Kind::Mosquitto | Kind::Redis);
        if tells {
            command.stdout(Stdio::piped());
        } else {
            // They say nothing that matters here, and Mosquitto warns of root at each start.
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let mut child = spawn_pinned(&mut command)?;
        let told = if tells { Told::read(&mut child, kind) } else { Ok(Told::default()) };
        if told.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let told = told?;
        let fixed = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let address = told.tcp.or(told.http).or(told.phones).or(told.rooms).unwrap_or(fixed);
        let [rest, phones, rooms] = [told.http, told.phones, told.rooms].map(|told| told.unwrap_or(fixed));
        let server = Server { kind, child, address, rest, phones, rooms, token: told.token, settings, folder };
        server.await_connection()?;
        Ok(server)
    }

    /// Ends it as a power cut would, and starts it on the same data and port, without waiting for it.
    pub fn restart(&mut self, places: &Places) -> Outcome<()> {
        self.end();
        let mut command = command(places, self.kind, self.settings, &self.folder, self.address.port())?;
        self.child = spawn_pinned(command.stdout(Stdio::null()))?;
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where clients connect that talk so.
    pub fn address_for(&self, by: By) -> SocketAddr {
        match by {
            By::Own => self.address,
            By::Rooms => self.rooms,
            By::Websocket | By::Polling | By::Upgrade => self.phones,
        }
    }

    /// The other end of a connection to it.
    pub fn driver(&self, by: By, who: Who) -> Box<dyn Driver> {
        match by {
            By::Own => self.own_driver(who),
            By::Rooms => Box::new(rooms::Member::new(who)),
            By::Polling if !who.asks() => Box::new(polling::Client::new(who, false)),
            By::Upgrade if !who.asks() => Box::new(polling::Upgrading::new(who)),
            By::Websocket | By::Polling | By::Upgrade => Box::new(websocket::Client::new(who)),
        }
    }

    fn own_driver(&self, who: Who) -> Box<dyn Driver> {
        match self.kind {
            Kind::Socketioxide | Kind::SocketIo2 => Box::new(websocket::Client::new(who)),
            Kind::Ws | Kind::TokioTungstenite => Box::new(rooms::Member::new(who)),
            Kind::Porter => Box::new(porter::Link::new(who)),
            Kind::Mosquitto => Box::new(mqtt::Client::new(who)),
            Kind::Redis => Box::new(resp::Client::default()),
            Kind::Axum => self.http_driver(),
        }
    }

    /// A client that pushes over REST.
    pub fn http_driver(&self) -> Box<dyn Driver> {
        Box::new(http::Client::new(&self.token))
    }

    fn await_connection(&self) -> Outcome<()> {
        let end = Instant::now() + START_MAX;
        while TcpStream::connect(self.address).is_err() {
            if Instant::now() > end {
                return Err(Bad(format!("{} did not start", self.kind.name())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The child inherits the core of the thread that starts it.
fn spawn_pinned(command: &mut Command) -> Outcome<Child> {
    pin(SERVER_CORE)?;
    let child = command.stdin(Stdio::null()).spawn();
    pin(LOAD_CORE)?;
    child.map_err(|error| Bad(format!("{}: {error}", command.get_program().display())))
}

fn command(places: &Places, kind: Kind, settings: Settings, folder: &Folder, port: u16) -> Outcome<Command> {
    let mut command = match kind {
        Kind::Porter => {
            let mut command = bound_to_us(&places.of("target/release/porter"));
            let ports = ["--rest-port", "0", "--socketio-port", "0", "--websocket-port", "0", "--tcp-port"];
            command.args(["serve", "--log-level", "warn"]).args(ports).arg(port.to_string());
            command.arg("--data-dir").arg(folder.0.join("data"));
            if settings.raised {
                command.arg("--config").arg(places.of("benches/porter.toml"));
            }
            command
        }
        Kind::Mosquitto => {
            let name = if settings.durable { "mosquitto-durable.conf" } else { "mosquitto-live.conf" };
            let mut command = bound_to_us(&in_path("mosquitto"));
            command.arg("-c").arg(fill_in(places, name, folder, port)?);
            command
        }
        Kind::Redis => {
            let mut command = bound_to_us(&in_path("redis-server"));
            command.arg(fill_in(places, "redis.conf", folder, port)?);
            command
        }
        Kind::Axum => bound_to_us(&places.of("target/peers/release/peer-axum")),
        Kind::Socketioxide => bound_to_us(&places.of("target/peers/release/peer-socketioxide")),
        Kind::TokioTungstenite => bound_to_us(&places.of("target/peers/release/peer-tokio-tungstenite")),
        Kind::SocketIo2 => in_node(places, "socketio-2/server.js"),
        Kind::Ws => in_node(places, "ws-relay/server.js"),
    };
    // What the caller's environment says to programs, such as to keep backtraces, is not part of the work.
    command.current_dir(&folder.0).env_clear();
    Ok(command)
}

/// A peer's script in Node.
fn in_node(places: &Places, script: &str) -> Command {
    let mut command = bound_to_us(&in_path("node"));
    command.arg(places.of("benches/peers").join(script));
    command
}

/// A program that the kernel ends when this process ends, however that comes. `setpriv` becomes the program: the pid stays.
fn bound_to_us(program: &Path) -> Command {
    let mut command = Command::new(in_path("setpriv"));
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Debian puts some servers where only root looks.
fn in_path(program: &str) -> PathBuf {
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let found = folders.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| PathBuf::from(program))
}

/// A peer's settings with port and folder filled in.
fn fill_in(places: &Places, name: &str, folder: &Folder, port: u16) -> Outcome<PathBuf> {
    let text = fs::read_to_string(places.of("benches/peers").join(name))?;
    let path = folder.0.join(name);
    fs::write(&path, text.replace("@PORT@", &port.to_string()).replace("@FOLDER@", &folder.0.to_string_lossy()))?;
    Ok(path)
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// What a server says on its standard output when it is ready.
#[derive(Debug)]
struct Told {
    tcp: Option<SocketAddr>,
    http: Option<SocketAddr>,
    phones: Option<SocketAddr>,
    rooms: Option<SocketAddr>,
    token: String,
}

impl Default for Told {
    fn default() -> Told {
        Told { tcp: None, http: None, phones: None, rooms: None, token: "token".to_owned() }
    }
}

impl Told {
    /// Waits for what the server says, on a thread of its own, since there is no reading with a deadline.
    fn read(child: &mut Child, kind: Kind) -> Outcome<Told> {
        let (tell, told) = sync_channel(1);
        let Some(stdout) = child.stdout.take() else { return Ok(Told::default()) };
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            // Nobody waits any more: it took too long.
            let _ = tell.send(Told::from_lines(lines, kind));
        });
        let told = told.recv_timeout(START_MAX).ok().flatten();
        told.ok_or_else(|| Bad(format!("{} did not say that it is ready", kind.name())))
    }

    fn from_lines(lines: impl Iterator<Item = String>, kind: Kind) -> Option<Told> {
        let mut told = Told::default();
        for line in lines {
            let mut words = line.split_whitespace();
            match (words.next().unwrap_or_default(), words.next()) {
                ("controllers", Some(url)) => told.tcp = url.strip_prefix("tcp://")?.parse().ok(),
                ("management", Some(url)) => told.http = url.strip_prefix("http://")?.parse().ok(),
                ("rooms", Some(url)) => told.rooms = url.strip_prefix("ws://")?.parse().ok(),
                ("phones", Some(url)) => told.phones = url.strip_prefix("http://")?.split('/').next()?.parse().ok(),
                ("token", Some(token)) => token.clone_into(&mut told.token),
                _ => continue,
            }
            // Porter's token is the last that it says; the others say but one thing.
            if kind != Kind::Porter || (told.http.is_some() && line.trim_start().starts_with("token")) {
                return Some(told);
            }
        }
        None
    }
}

/// What the programs say of their versions.
pub fn version(places: &Places, kind: Kind) -> String {
    let first_line = |program: PathBuf, flag: &str| {
        let output = Command::new(&program).arg(flag).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or("not installed").to_owned()
    };
    let word = |line: String, prefix: &str| {
        let found = line.split_whitespace().find_map(|word| word.strip_prefix(prefix).map(str::to_owned));
        found.filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(line)
    };
    match kind {
        Kind::Porter => word(first_line(places.of("target/release/porter"), "--version").replace("porter ", "v="), "v="),
        Kind::Mosquitto => first_line(in_path("mosquitto"), "-h").split_whitespace().last().unwrap_or("unknown").to_owned(),
        Kind::Redis => word(first_line(in_path("redis-server"), "--version"), "v="),
        Kind::Axum | Kind::Socketioxide | Kind::TokioTungstenite => {
            locked_version(places, "Cargo.lock", &format!("name = \"{}\"\nversion = \"", kind.name()))
        }
        Kind::SocketIo2 | Kind::Ws => {
            let (folder, package) = if kind == Kind::Ws { ("ws-relay", "ws") } else { ("socketio-2", "socket.io") };
            let before = format!("\"node_modules/{package}\": {{\n      \"version\": \"");
            let version = locked_version(places, &format!("{folder}/package-lock.json"), &before);
            format!("{version} (Node {})", first_line(in_path("node"), "--version"))
        }
    }
}

/// What a peer's lock file says behind `before`.
fn locked_version(places: &Places, file: &str, before: &str) -> String {
    let lock = fs::read_to_string(places.of("benches/peers").join(file)).unwrap_or_default();
    let after = lock.split(before).nth(1);
    after.and_then(|text| text.split('"').next()).unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_read_whatever_else_it_says() {
        let said = "Porter is ready.\n\n  controllers   tcp://127.0.0.1:1\n  rooms  ws://127.0.0.1:4\n  management    http://127.0.0.1:2\n  phones   http://127.0.0.1:3/socket.io/\n  token  ab\n";
        let told = Told::from_lines(said.lines().map(str::to_owned), Kind::Porter).unwrap();
        assert_eq!((told.tcp.unwrap().port(), told.http.unwrap().port(), told.token.as_str()), (1, 2, "ab"));
        assert_eq!((told.phones.unwrap().port(), told.rooms.unwrap().port()), (3, 4));
        assert!(Told::from_lines(std::iter::empty(), Kind::Porter).is_none());
        let axum = Told::from_lines(std::iter::once("management http://127.0.0.1:2".to_owned()), Kind::Axum).unwrap();
        assert_eq!(axum.http.unwrap().port(), 2);
    }
}
