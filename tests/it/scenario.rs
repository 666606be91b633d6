//! The examples of a document, played from top to bottom against a real server: what each client sends and gets, what each
//! command prints. `docs/integrator.md` tells its readers the notation; this is what it means to the test:
//!
//! - Fenced blocks are `text` (clients and commands by name), `console` (one shell) or `python FILE` (a file that later commands
//!   run). There is no other kind, so that no example goes unplayed; `pending` behind it marks what this version can't do yet.
//! - A line that is heard must be equal, but for `<name>`, hexadecimal digits that are the same wherever the name stands in a
//!   section; `<now>`, a time in ms; and `…`, anything.
//! - What one client says takes effect before the next line is played. At the end of a block nothing may have come that it does
//!   not show. A section begins with new connections.
//! - `name joins URL` is a member of a WebSocket room; what it says and hears are text frames, `(CODE)` is its close code,
//!   `(N bytes)` a binary frame, and `(ping)` a ping, which it answers.
//! - Lines that begin with `#` act on the server; see `Server`.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::clients::{Client, Heard, WebSocket};
use crate::disk;
use crate::porter::{DEADLINE, Folder, Porter, manage_token};
use crate::socketio_client::{Ws, frame};

/// A document: its name, and its text.
pub struct Document {
    pub name: &'static str,
    pub text: String,
}

impl Document {
    pub fn read(name: &'static str) -> Document {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Document { name, text }
    }

    /// Its fenced blocks, in order.
    pub fn blocks(&self) -> Vec<Block<'_>> {
        let (mut blocks, mut open, mut section) = (Vec::new(), None, 0);
        for (number, line) in (1..).zip(self.text.lines()) {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(kind)) => open = Some(Block { kind, lines: Vec::new(), section }),
                (None, None) => section += u32::from(line.starts_with('#')),
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.lines.push((number, line)),
            }
        }
        assert!(open.is_none(), "{} ends within a block", self.name);
        blocks
    }
}

/// A fenced block.
pub struct Block<'a> {
    /// What follows the fence.
    pub kind: &'a str,
    /// With their numbers in the document.
    pub lines: Vec<(u32, &'a str)>,
    /// The number of the section it stands in.
    section: u32,
}

/// One line of a block that is played.
pub enum Step<'a> {
    /// A client sends a line; `(closes)`: it closes its side and waits for the server's.
    Say(&'a str, &'a str),
    /// A client becomes a member of a room.
    Join(&'a str, &'a str),
    /// A phone connects over Socket.IO.
    Connect(&'a str, &'a str),
    /// A client or a command gets a line; `(closed)`: its end.
    Hear(&'a str, &'a str),
    /// A command begins.
    Run(&'a str, &'a str),
    /// A word to the reader, or what happens to the server.
    Note(&'a str),
}

impl<'a> Block<'a> {
    pub fn is_pending(&self) -> bool {
        self.kind.ends_with(" pending")
    }

    /// What is played of it, with the lines' numbers. A file of Python has no steps.
    pub fn steps(&self) -> Vec<(u32, Step<'a>)> {
        let step: fn(&'a str) -> Option<Step<'a>> = match self.kind.split(' ').next() {
            Some("text") => spoken,
            Some("console") => |line| Some(line.strip_prefix("$ ").map_or(Step::Hear("$", line), |command| Step::Run("$", command))),
            Some("python") => return Vec::new(),
            _ => panic!("a block is ```{}, which nobody plays", self.kind),
        };
        let steps = self.lines.iter().map(|(number, line)| (*number, step(line).unwrap_or_else(|| panic!("{number}: who says {line:?}?"))));
        steps.collect()
    }
}

/// `name > frame`, `name < frame`, `name $ command`, `name joins URL`, `name connects URL` or `# note`.
fn spoken(line: &str) -> Option<Step<'_>> {
    if line.starts_with('#') {
        return Some(Step::Note(line));
    }
    let (who, rest) = line.split_once(' ')?;
    let step =
        [("> ", Step::Say as fn(_, _) -> _), ("< ", Step::Hear), ("$ ", Step::Run), ("joins ", Step::Join), ("connects ", Step::Connect)];
    step.iter().find_map(|(mark, step)| rest.trim_start().strip_prefix(mark).map(|what| step(who, what)))
}

/// A server that examples are played against, and how notes in them act on it.
struct Server {
    folder: Folder,
    porter: Option<Porter>,
    token: String,
}

impl Server {
    const KILLED: &'static str = "# kill -9 of the server, and it starts again";
    const FAILING: &'static str = "# porter serve, on a disk that fails";
    const OWN: &'static str = "# porter serve ";

    fn start(note: Option<&str>) -> Server {
        let folder = Folder::new();
        let porter = match note {
            Some(Server::FAILING) => {
                let porter = disk::start(&folder);
                disk::limit_files(&porter, Some(0));
                porter
            }
            Some(note) => {
                let flags = note.strip_prefix(Server::OWN).unwrap_or_else(|| panic!("what is {note:?}?"));
                Porter::start_with(&folder, &flags.split(' ').collect::<Vec<_>>())
            }
            None => Porter::start(&folder),
        };
        let token = manage_token(&folder);
        Server { folder, porter: Some(porter), token }
    }

    fn porter(&self) -> &Porter {
        self.porter.as_ref().unwrap()
    }

    /// SIGKILL, and a start on the same folder and ports.
    fn kill_and_start(&mut self) {
        let porter = self.porter.take().unwrap();
        let flags = [
            ("--tcp-port", porter.tcp),
            ("--rest-port", porter.rest),
            ("--websocket-port", porter.websocket),
            ("--socketio-port", porter.socketio),
        ];
        let flags = flags.map(|(flag, address)| [flag.to_owned(), address.port().to_string()]).concat();
        porter.kill();
        self.porter = Some(Porter::start_with(&self.folder, &flags.iter().map(String::as_str).collect::<Vec<_>>()));
    }

    /// A text of the document with this server's ports in place of the default ones.
    fn localised(&self, text: &str) -> String {
        let porter = self.porter();
        let ports = [("9900", porter.rest), ("9800", porter.tcp), ("9000", porter.websocket), ("9906", porter.socketio)];
        // In two steps, for a free port may have another's default in its digits.
        let marked = ports.iter().fold(text.to_owned(), |text, (port, _)| text.replace(port, &format!("\u{1}{}\u{1}", &port[1..])));
        ports.iter().fold(marked, |text, (port, address)| text.replace(&format!("\u{1}{}\u{1}", &port[1..]), &address.port().to_string()))
    }
}

/// A command whose lines are heard; it ends with its owner.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    /// What all commands in the folder said to the standard error.
    errors: PathBuf,
}

impl Process {
    /// Runs a line of shell in the folder, with `porter` in the path, `TOKEN` set, and nothing else of this process's settings.
    pub fn run(command: &str, folder: &Folder, token: &str, more: &[(&str, String)]) -> Process {
        let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_porter")).parent().unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PORTER_")) {
            shell.env_remove(name);
        }
        shell.args(["-c", command]).current_dir(folder.path()).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        shell.env("PATH", path).env("TOKEN", token).env("no_proxy", "*").env("CURL_HOME", folder.path());
        let errors = folder.path().join("errors");
        shell.stderr(OpenOptions::new().create(true).append(true).open(&errors).unwrap());
        let mut child = shell.envs(more.iter().cloned()).spawn().unwrap();
        let (sender, lines) = sync_channel(1_000);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Process { child, lines, errors }
    }

    /// The next line it prints; `None`: it has ended.
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing was printed within the deadline"),
        }
    }

    fn end(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.errors).unwrap_or_default());
        }
    }
}

/// A client's connection, and what has come on it that no line has heard yet.
struct Link {
    client: Client,
    heard: VecDeque<String>,
}

impl Link {
    const MARKER: &'static str = r#"{"t":7,"num":"scenario"}"#;

    fn open(server: &Porter) -> Link {
        Link { client: Client::connect(server.tcp), heard: VecDeque::new() }
    }

    /// Sends lines, at once, and waits until the server has acted on them or ended the connection.
    fn say(&mut self, lines: &str) {
        self.client.send_bytes(lines.as_bytes());
        self.settle();
    }

    /// All that was sent to this client before now is in `heard`.
    fn settle(&mut self) {
        let _ = self.client.try_send(Link::MARKER);
        while let Some(line) = self.client.try_line() {
            if line.starts_with(r#"{"t":-7,"#) && line.ends_with(r#","num":"scenario"}"#) {
                return;
            }
            self.heard.push_back(line);
        }
    }

    fn hear(&mut self) -> Option<String> {
        self.heard.pop_front().or_else(|| self.client.try_line())
    }

    /// The client closes its side. When the server has closed the other, it has seen it.
    fn close(mut self, who: &str) {
        self.settle();
        self.client.half_close();
        assert_eq!(self.hear(), None, "{who} got more than that");
    }
}

/// A phone on Socket.IO. What it says is an event's name and its argument, with `(ack)` behind it where it wants an acknowledgement.
struct Phone {
    ws: Ws,
    heard: VecDeque<String>,
    acks: u32,
}

impl Phone {
    const MARKER: &'static str = r#"42999999["server_info",{"num":"scenario"}]"#;

    fn open(address: SocketAddr, query: &str) -> Phone {
        let mut ws = Ws::connect(address, &format!("/socket.io/?EIO=3&transport=websocket&{query}"));
        assert!(ws.text().unwrap().starts_with("0{"));
        let mut phone = Phone { ws, heard: VecDeque::new(), acks: 0 };
        match phone.ws.text() {
            Some(packet) if packet == "40" => phone.settle(),
            Some(packet) => phone.heard.push_back(Phone::shown(&packet)),
            None => panic!("it is not let in, and not told why"),
        }
        phone
    }

    fn say(&mut self, line: &str) {
        let (event, argument) = line.split_once(' ').unwrap_or((line, ""));
        let (argument, ack) = match argument.strip_suffix("(ack)") {
            Some(argument) => {
                self.acks += 1;
                (argument.trim_end(), self.acks.to_string())
            }
            None => (argument, String::new()),
        };
        let comma = if argument.is_empty() { "" } else { "," };
        self.ws.say(&format!(r#"42{ack}["{event}"{comma}{argument}]"#));
        self.settle();
    }

    /// All that was sent to this phone before now is in `heard`.
    fn settle(&mut self) {
        self.ws.try_send(&frame(0x81, Phone::MARKER.as_bytes()));
        while let Some(packet) = self.ws.text() {
            if packet.starts_with("43999999[") {
                return;
            }
            if !packet.ends_with(r#","num":"scenario"}]"#) {
                self.heard.push_back(Phone::shown(&packet));
            }
        }
    }

    /// A packet as the document shows it.
    fn shown(packet: &str) -> String {
        match packet.split_at(2) {
            ("42", event) => {
                let (name, argument) = event.strip_prefix("[\"").unwrap().strip_suffix(']').unwrap().split_once('"').unwrap();
                format!("{name} {}", argument.strip_prefix(',').unwrap_or_default()).trim_end().to_owned()
            }
            ("43", ack) => format!("(ack) {}", &ack[ack.find('[').unwrap() + 1..ack.len() - 1]).trim_end().to_owned(),
            ("44", error) => format!("error {error}"),
            ("41", "") => "(disconnected)".to_owned(),
            _ => panic!("what is {packet}?"),
        }
    }

    fn hear(&mut self) -> Option<String> {
        self.heard.pop_front().or_else(|| self.ws.text().map(|packet| Phone::shown(&packet)))
    }
}

/// Plays a document.
pub struct Player {
    server: Server,
    links: BTreeMap<String, Link>,
    members: BTreeMap<String, WebSocket>,
    phones: BTreeMap<String, Phone>,
    processes: BTreeMap<String, Process>,
    names: Names,
    /// Lines said and not yet sent, so that what one client says in a row goes out at once.
    said: Option<(String, String)>,
    /// Where it is in the document: shown when something does not hold.
    place: String,
}

impl Player {
    /// Plays all of a document.
    pub fn play(document: &Document) {
        let mut player = Player::new(None);
        let mut section = 0;
        for block in document.blocks().iter().filter(|block| !block.is_pending()) {
            if block.section != section {
                section = block.section;
                player.close_all();
                player.names.0.clear();
            }
            match block.lines.first() {
                Some((_, note)) if note.starts_with("# porter serve") => Player::new(Some(note)).block(document, block),
                _ => player.block(document, block),
            }
        }
        player.close_all();
    }

    fn new(note: Option<&str>) -> Player {
        let server = Server::start(note);
        Player {
            server,
            links: BTreeMap::new(),
            members: BTreeMap::new(),
            phones: BTreeMap::new(),
            processes: BTreeMap::new(),
            names: Names::default(),
            said: None,
            place: String::new(),
        }
    }

    fn block(&mut self, document: &Document, block: &Block) {
        if let Some(file) = block.kind.strip_prefix("python ") {
            let text: String = block.lines.iter().map(|(_, line)| format!("{line}\n")).collect();
            std::fs::write(self.server.folder.path().join(file), self.server.localised(&text)).unwrap();
        }
        for (number, step) in block.steps() {
            self.place = format!("{}:{number}", document.name);
            self.step(&step);
        }
        self.say_all();
        let is_shell = block.kind.starts_with("console");
        for (who, mut process) in std::mem::take(&mut self.processes) {
            if !is_shell {
                process.end();
            }
            assert_eq!(process.line(), None, "{who} printed more than that");
        }
        for (who, phone) in &mut self.phones {
            phone.settle();
            assert_eq!(phone.heard.pop_front(), None, "{who} got more than that");
        }
        for (who, link) in &mut self.links {
            link.settle();
            assert_eq!(link.heard.pop_front(), None, "{who} got more than that");
        }
        self.members.values_mut().for_each(WebSocket::expect_nothing);
    }

    fn step(&mut self, step: &Step) {
        if let Step::Say(who, line) = step
            && *line != "(closes)"
        {
            let line = self.names.filled(&self.server.localised(line));
            if self.said.as_ref().is_some_and(|(speaker, _)| speaker != who) {
                self.say_all();
            }
            let (_, said) = self.said.get_or_insert_with(|| ((*who).to_owned(), String::new()));
            said.push_str(&line);
            said.push('\n');
            return;
        }
        self.say_all();
        match *step {
            Step::Join(who, url) => {
                let url = self.server.localised(url);
                let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
                let member = WebSocket::connect(self.server.porter().websocket, path.unwrap_or("/"));
                self.members.insert(who.to_owned(), member);
            }
            Step::Connect(who, url) => {
                let query = self.names.filled(url.split_once('?').map_or("", |(_, query)| query));
                self.phones.insert(who.to_owned(), Phone::open(self.server.porter().socketio, &query));
            }
            Step::Say(who, _) if self.phones.remove(who).is_some() => {}
            Step::Say(who, _) => self.links.remove(who).unwrap_or_else(|| panic!("who is {who}?")).close(who),
            Step::Hear(who, line) => self.hear(who, line),
            Step::Run(who, command) => {
                if let Some(before) = self.processes.remove(who) {
                    assert_eq!(before.line(), None, "{who} printed more than that");
                }
                let command = self.names.filled(&self.server.localised(command));
                let process = Process::run(&command, &self.server.folder, &self.server.token, &[]);
                self.processes.insert(who.to_owned(), process);
            }
            Step::Note(Server::KILLED) => {
                self.links.clear();
                self.phones.clear();
                self.server.kill_and_start();
            }
            Step::Note(note) => assert!(note.starts_with(Server::OWN.trim_end()), "what is {note:?}?"),
        }
    }

    fn say_all(&mut self) {
        if let Some((who, said)) = self.said.take() {
            if let Some(member) = self.members.get_mut(&who) {
                return said.lines().for_each(|line| member.send_text(line));
            }
            if let Some(phone) = self.phones.get_mut(&who) {
                return said.lines().for_each(|line| phone.say(line));
            }
            let server = self.server.porter();
            self.links.entry(who).or_insert_with(|| Link::open(server)).say(&said);
        }
    }

    fn hear(&mut self, who: &str, line: &str) {
        if let Some(member) = self.members.get_mut(who) {
            if line == "(ping)" {
                assert_eq!(member.next(), Heard::Ping, "{who}");
                return member.send(0x8a, b"");
            }
            let heard = match member.hear() {
                Heard::Text(text) => text,
                Heard::Binary(bytes) => format!("({} bytes)", bytes.len()),
                Heard::Close(code) => {
                    self.members.remove(who);
                    format!("({code})")
                }
                heard => panic!("{who} got {heard:?}"),
            };
            return self.names.expect(&self.server.localised(line), &heard);
        }
        let heard = match (self.processes.get(who), self.links.get_mut(who), self.phones.get_mut(who)) {
            (Some(process), ..) => process.line(),
            (None, Some(link), _) => link.hear(),
            (None, None, Some(phone)) => phone.hear(),
            (None, None, None) => panic!("who is {who}?"),
        };
        match heard {
            None => {
                assert_eq!(line, "(closed)", "{who} heard the end");
                self.links.remove(who);
                self.phones.remove(who);
            }
            Some(heard) => self.names.expect(&self.server.localised(line), &heard),
        }
    }

    fn close_all(&mut self) {
        self.members.clear();
        self.phones.clear();
        std::mem::take(&mut self.links).into_iter().for_each(|(who, link)| link.close(&who));
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at {}", self.place);
        }
    }
}

/// The values that names in angle brackets stand for.
#[derive(Default)]
struct Names(BTreeMap<String, String>);

/// A part of a line of a document.
#[derive(Debug, PartialEq)]
enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
    Anything,
}

fn parts(line: &str) -> Vec<Part<'_>> {
    let (mut parts, mut rest) = (Vec::new(), line);
    while !rest.is_empty() {
        let (part, length) = first_part(rest);
        parts.push(part);
        rest = &rest[length..];
    }
    parts
}

fn first_part(rest: &str) -> (Part<'_>, usize) {
    if rest.starts_with('…') {
        return (Part::Anything, '…'.len_utf8());
    }
    let name = rest.strip_prefix('<').and_then(|inner| inner.split_once('>')).map(|(name, _)| name);
    if let Some(name) = name.filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')) {
        return (Part::Name(name), name.len() + 2);
    }
    let first = rest.chars().next().map_or(0, char::len_utf8);
    let end = rest[first..].find(['<', '…']).map_or(rest.len(), |at| first + at);
    (Part::Text(&rest[..end]), end)
}

impl Names {
    /// The line with its names replaced by their values.
    fn filled(&self, line: &str) -> String {
        let value = |part: &Part| match part {
            Part::Text(text) => (*text).to_owned(),
            Part::Name(name) => self.0.get(*name).unwrap_or_else(|| panic!("nothing has said what <{name}> is")).clone(),
            Part::Anything => panic!("… can't be sent"),
        };
        parts(line).iter().map(value).collect()
    }

    /// What was heard must be the line; names that it is the first to say get their values.
    fn expect(&mut self, line: &str, heard: &str) {
        assert!(self.matches(line, heard), "\n expected: {line}\n    heard: {heard}\n    names: {:?}", self.0);
    }

    fn matches(&mut self, line: &str, heard: &str) -> bool {
        let (parts, mut rest) = (parts(line), heard);
        for (at, part) in parts.iter().enumerate() {
            let taken = match part {
                Part::Text(text) => rest.starts_with(text).then_some(text.len()),
                Part::Name("now") => digits(rest, |c| c.is_ascii_digit()).filter(|length| is_now(&rest[..*length])),
                Part::Name(name) => match self.0.get(*name) {
                    Some(value) => rest.starts_with(value.as_str()).then_some(value.len()),
                    None => digits(rest, |c| c.is_ascii_hexdigit()).inspect(|length| {
                        self.0.insert((*name).to_owned(), rest[..*length].to_owned());
                    }),
                },
                Part::Anything => match parts.get(at + 1) {
                    Some(Part::Text(next)) => rest.find(next),
                    _ => Some(rest.len()),
                },
            };
            let Some(taken) = taken else { return false };
            rest = &rest[taken..];
        }
        rest.is_empty()
    }
}

/// The length of the digits at the beginning, at least one.
fn digits(text: &str, is_digit: fn(&char) -> bool) -> Option<usize> {
    Some(text.chars().take_while(is_digit).count()).filter(|length| *length > 0)
}

/// Whether it is a time of the last minutes, in ms since 1970.
fn is_now(text: &str) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    text.parse::<u128>().is_ok_and(|at| at <= now && now - at < 600_000)
}

#[test]
fn a_line_is_equal_but_for_what_the_notation_lets_differ() {
    let mut names = Names::default();
    for (line, heard, expected) in [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        (r#"{"mid":"<mid>"}"#, r#"{"mid":"12"}"#, true),
        ("<mid> <mid2>", "12 13", true),
        ("<mid>", "13", false),
        ("<other>", "", false),
        ("<other>", "xyz", false),
        (r#""error":"…","code""#, r#""error":"门; x","code""#, true),
        (r#""error":"…a…","code""#, r#""error":"bab","code""#, true),
        (r#""error":"…","code""#, r#""error":"x","cod""#, false),
        ("<now>", "1", false),
        ("a < b > c", "a < b > c", true),
        ("x…", "x\"y\"", true),
    ] {
        assert_eq!(names.matches(line, heard), expected, "{line} {heard}");
    }
    assert_eq!(names.filled("<mid2>/<mid> < >"), "13/12 < >");
}
