//! The settings: from flags, variables, a file and the embedded defaults to one [`Config`] of plain values.
//!
//! `SETTINGS` is the only list of keys: the names in files, variables and flags, the checks, what `porter config` prints and what the
//! help shows all come from it. Defaults stand in `config.toml` and nowhere else. Every mistake is named with its place, all at
//! once. Nobody below `app` knows this file: each module gets its own small options.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;
use toml::de::{DeTable, DeValue};

use crate::limits::{Limits, NAME_BYTES_MAX};
use crate::protocol::refusal::Language;
use crate::runtime::logger::Harmless;
use crate::server::gate::DeviceAuth;
use crate::server::network::Network;

/// Everything that can be set. What each means and when to change it: `config.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `bind`.
    pub bind: IpAddr,
    /// `data_dir`.
    pub data_dir: PathBuf,
    /// `advertise_host`; `None`: this machine's address as the asker reached it.
    pub advertise_host: Option<String>,
    /// `language`.
    pub language: Language,
    /// `origins`: `*`, `null`, `file://` or `scheme://host[:port]`, in lower case.
    pub origins: Vec<String>,
    /// `rest.port`; 0: any free one.
    pub rest_port: u16,
    /// `rest.first_page`: 0 or 1.
    pub rest_first_page: u64,
    /// `rest.error_status`: `None`: as the protocol lists them.
    pub rest_error_status: Option<u16>,
    /// `websocket.port`; 0: any free one.
    pub websocket_port: u16,
    /// `websocket.frame`: bytes.
    pub websocket_frame: usize,
    /// `socketio.port`; 0: any free one.
    pub socketio_port: u16,
    /// `tcp.port`; 0: any free one.
    pub tcp_port: u16,
    /// `auth.devices`.
    pub auth_devices: DeviceAuth,
    /// `auth.trusted_proxies`.
    pub trusted_proxies: Vec<Network>,
    /// `door.openers`: patterns with `*` for any characters; empty: every link may open.
    pub door_openers: Vec<String>,
    /// `door.pictures`: bytes.
    pub door_pictures: u64,
    /// `door.picture_days`.
    pub door_picture_life: Duration,
    /// `runtime.threads`, at least 1.
    pub threads: usize,
    /// `log.level`.
    pub log_level: LevelFilter,
    /// `limits.*` and `tcp.idle`.
    pub limits: Limits,
}

/// Where settings come from, each layer over the one before; the defaults lie under all of them.
#[derive(Debug, Default)]
pub struct Layers {
    /// The file's path, for messages, and its text.
    pub file: Option<(String, String)>,
    /// The process's variables, all of them.
    pub variables: Vec<(OsString, OsString)>,
    /// Flags that are settings: the key, as [`key_of_flag`] gives it, and the value.
    pub flags: Vec<(&'static str, String)>,
}

/// A configuration, and where each of its values came from.
#[derive(Debug)]
pub struct Effective {
    /// The values.
    pub config: Config,
    /// What is odd but does no harm, such as an unknown variable.
    pub warnings: Vec<String>,
    /// The path of the file that was read, if there was one.
    pub file: Option<String>,
    values: BTreeMap<&'static str, (Value, Source)>,
}

/// A setting that another reading of all places gave another value. The values are shown as TOML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub key: &'static str,
    /// What is in force.
    pub from: String,
    /// What was read.
    pub to: String,
    /// Where that stands.
    pub source: String,
    /// Whether it can take effect while the server runs; if not, at the next start.
    pub reloads: bool,
}

/// Something that must be corrected before a start, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake(String);

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Harmless(&self.0).fmt(f)
    }
}

impl Effective {
    /// Lays the layers over the defaults.
    ///
    /// # Errors
    /// All mistakes of all layers, also of values that a later layer would replace: they are wrong all the same.
    pub fn new(layers: &Layers) -> Result<Effective, Vec<Mistake>> {
        let mut reader = Reader { config: blank(), values: BTreeMap::new(), mistakes: Vec::new(), warnings: Vec::new() };
        reader.read_file(DEFAULTS, |_| Source::Default);
        if let Some((path, text)) = &layers.file {
            reader.read_file(text, |line| Source::File { path: path.clone(), line });
        }
        reader.read_variables(&layers.variables);
        for (key, value) in &layers.flags {
            reader.set(key, Given::Word(value), Source::Flag(flag(key)));
        }
        if reader.mistakes.is_empty() {
            reader.compare();
        }
        if !reader.mistakes.is_empty() {
            return Err(reader.mistakes);
        }
        let file = layers.file.as_ref().map(|(path, _)| path.clone());
        Ok(Effective { config: reader.config, warnings: reader.warnings, file, values: reader.values })
    }

    /// What differs in `next`, the settings as they were read later, in the order of the table.
    #[must_use]
    pub fn changes(&self, next: &Effective) -> Vec<Changed> {
        let changed = |setting: &Setting| {
            let ((from, _), (to, source)) = (self.values.get(setting.key)?, next.values.get(setting.key)?);
            let (from_text, to_text) = (from.to_string(), to.to_string());
            let changed = Changed { key: setting.key, from: from_text, to: to_text, source: source.to_string(), reloads: setting.reloads };
            (from != to).then_some(changed)
        };
        SETTINGS.iter().filter_map(changed).collect()
    }

    /// What is in force after `next` was read while running: all of it but what waits for the next start.
    #[must_use]
    pub fn reloaded(&self, mut next: Effective) -> Effective {
        for setting in SETTINGS.iter().filter(|setting| !setting.reloads) {
            if let Some(value) = self.values.get(setting.key) {
                next.values.insert(setting.key, value.clone());
            }
        }
        next
    }

    /// Where the value of a setting stands.
    #[must_use]
    pub fn source(&self, key: &str) -> &Source {
        self.values.get(key).map_or(&Source::Default, |(_, source)| source)
    }

    /// The settings in force as a file that would give the same: each with its comment and where it came from.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = "# The settings in force; behind each value where it came from.\n".to_owned();
        let mut section = String::new();
        // The head of the default file speaks of that file.
        for line in DEFAULTS.lines().skip_while(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = format!("{name}.");
            }
            let leaf = line.split_once(" = ").filter(|_| !line.starts_with('#')).map(|(leaf, _)| leaf);
            match leaf.and_then(|leaf| Some((leaf, self.values.get(format!("{section}{leaf}").as_str())?))) {
                Some((leaf, (value, source))) => text += &format!("{leaf} = {value} # {}\n", Harmless(&source.to_string())),
                None => text += &format!("{line}\n"),
            }
        }
        text
    }
}

/// The key of the setting that a flag without its dashes names: `rest-port` and `rest.port` are both `rest.port`.
#[must_use]
pub fn key_of_flag(name: &str) -> Option<&'static str> {
    let dashed = name.replace(['.', '_'], "-");
    SETTINGS.iter().map(|setting| setting.key).find(|key| key.replace(['.', '_'], "-") == dashed)
}

/// The flag of a setting: `--rest-port`.
#[must_use]
pub fn flag(key: &str) -> String {
    format!("--{}", key.replace(['.', '_'], "-"))
}

/// The keys of all settings.
pub fn keys() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.key)
}

/// The flags of all settings with what they take, for the help: `--rest-port N`; behind those that need a restart a `*`.
pub fn flags() -> impl Iterator<Item = String> {
    SETTINGS.iter().map(|setting| {
        let takes = match &setting.kind {
            Kind::Whole { .. } => "N".to_owned(),
            Kind::Choice(choices) => words(choices).join("|"),
            Kind::Text { .. } => "TEXT".to_owned(),
            Kind::List { .. } => "A,B…".to_owned(),
        };
        format!("{} {takes}{}", flag(setting.key), if setting.reloads { "" } else { " *" })
    })
}

/// The one of `known` that a mistyped `word` most likely means: the fewest letters to insert, delete or replace.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.min_by_key(|candidate| distance(word, candidate))
}

/// The embedded default file.
const DEFAULTS: &str = include_str!("config.toml");

/// Variables that begin like a setting's and are none.
const OTHER_VARIABLES: [&str; 2] = ["PORTER_CONFIG", "PORTER_TOKEN"];

/// One key: its name, what it takes, and where the value goes.
struct Setting {
    key: &'static str,
    kind: Kind,
    /// Whether a change takes effect while the server runs, on SIGHUP (`reload.rs`); if not, at the next start.
    reloads: bool,
}

/// A word and what it does.
type Choice = (&'static str, fn(&mut Config));

enum Kind {
    Whole { range: RangeInclusive<u64>, set: fn(&mut Config, u64) },
    Choice(&'static [Choice]),
    Text { allowed: &'static str, set: fn(&mut Config, &str) -> Option<()> },
    List { allowed: &'static str, set: fn(&mut Config, &[String]) -> Option<()> },
}

const fn whole(key: &'static str, range: RangeInclusive<u64>, set: fn(&mut Config, u64)) -> Setting {
    Setting { key, kind: Kind::Whole { range, set }, reloads: true }
}

const fn choice(key: &'static str, choices: &'static [Choice]) -> Setting {
    Setting { key, kind: Kind::Choice(choices), reloads: true }
}

const fn text(key: &'static str, allowed: &'static str, set: fn(&mut Config, &str) -> Option<()>) -> Setting {
    Setting { key, kind: Kind::Text { allowed, set }, reloads: true }
}

const fn list(key: &'static str, allowed: &'static str, set: fn(&mut Config, &[String]) -> Option<()>) -> Setting {
    Setting { key, kind: Kind::List { allowed, set }, reloads: true }
}

/// A setting that only a start can change.
const fn fixed(setting: Setting) -> Setting {
    Setting { reloads: false, ..setting }
}

const PORT: RangeInclusive<u64> = 0..=65_535;
/// The most of any count: far above what a machine holds, far below where sums overflow.
const COUNT_MAX: u64 = 1 << 40;

/// All settings. The casts lose nothing: each value is in its range, and `usize` has 64 bits where Porter runs.
const SETTINGS: &[Setting] = &[
    fixed(text("bind", "an IP address", |c, v| put(&mut c.bind, v.parse().ok()))),
    fixed(text("data_dir", "the path of a folder", |c, v| put(&mut c.data_dir, (!v.is_empty() && !v.contains('\0')).then(|| v.into())))),
    text("advertise_host", "a host name or an IP address, or empty", |c, v| put(&mut c.advertise_host, host(v))),
    choice("language", &[("zh", |c| c.language = Language::Zh), ("en", |c| c.language = Language::En)]),
    list("origins", "\"*\", \"null\", \"file://\" or scheme://host[:port] in lower case each", |c, v| put(&mut c.origins, each(v, origin))),
    fixed(whole("rest.port", PORT, |c, v| c.rest_port = v as u16)),
    whole("rest.first_page", 0..=1, |c, v| c.rest_first_page = v),
    choice("rest.error_status", &[("0", |c| c.rest_error_status = None), ("200", |c| c.rest_error_status = Some(200))]),
    fixed(whole("websocket.port", PORT, |c, v| c.websocket_port = v as u16)),
    whole("websocket.frame", 1_024..=64 << 20, |c, v| c.websocket_frame = v as usize),
    fixed(whole("socketio.port", PORT, |c, v| c.socketio_port = v as u16)),
    fixed(whole("tcp.port", PORT, |c, v| c.tcp_port = v as u16)),
    whole("tcp.idle", 1..=86_400, |c, v| c.limits.tcp_idle = Duration::from_secs(v)),
    choice(
        "auth.devices",
        &[
            ("private", |c| c.auth_devices = DeviceAuth::Private),
            ("token", |c| c.auth_devices = DeviceAuth::Token),
            ("open", |c| c.auth_devices = DeviceAuth::Open),
        ],
    ),
    list("auth.trusted_proxies", "an IP address or a network such as 10.0.0.0/8 each", |c, v| {
        put(&mut c.trusted_proxies, each(v, Network::parse))
    }),
    list("door.openers", "1 to 128 bytes without control characters each", |c, v| put(&mut c.door_openers, each(v, pattern))),
    whole("door.pictures", 0..=COUNT_MAX, |c, v| c.door_pictures = v),
    whole("door.picture_days", 1..=36_500, |c, v| c.door_picture_life = Duration::from_secs(v * 86_400)),
    fixed(whole("runtime.threads", 1..=64, |c, v| c.threads = v as usize)),
    choice(
        "log.level",
        &[
            ("off", |c| c.log_level = LevelFilter::Off),
            ("error", |c| c.log_level = LevelFilter::Error),
            ("warn", |c| c.log_level = LevelFilter::Warn),
            ("info", |c| c.log_level = LevelFilter::Info),
            ("debug", |c| c.log_level = LevelFilter::Debug),
            ("trace", |c| c.log_level = LevelFilter::Trace),
        ],
    ),
    whole("limits.frame", 1_024..=4 << 20, |c, v| c.limits.frame = v as usize),
    whole("limits.outbox", 2_048..=1 << 30, |c, v| c.limits.outbox = v as usize),
    whole("limits.outbox_total", 2_048..=COUNT_MAX, |c, v| c.limits.outbox_total = v as usize),
    whole("limits.deliveries_per_alias", 1..=COUNT_MAX, |c, v| c.limits.deliveries_per_alias = v as usize),
    whole("limits.deliveries", 1..=COUNT_MAX, |c, v| c.limits.deliveries = v as usize),
    whole("limits.bodies", 1..=COUNT_MAX, |c, v| c.limits.bodies = v),
    whole("limits.aliases", 1..=COUNT_MAX, |c, v| c.limits.aliases = v as usize),
    whole("limits.alias_days", 1..=36_500, |c, v| c.limits.alias_life = Duration::from_secs(v * 86_400)),
    whole("limits.topics_per_alias", 1..=COUNT_MAX, |c, v| c.limits.topics_per_alias = v as usize),
    whole("limits.publish_rate", 0..=u32::MAX as u64, |c, v| c.limits.publish_rate = v as u32),
    whole("limits.connections", 1..=COUNT_MAX, |c, v| c.limits.connections = v as usize),
    whole("limits.connections_per_address", 1..=COUNT_MAX, |c, v| c.limits.connections_per_address = v as usize),
];

/// A value that fits its setting. Shown as TOML.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Whole(u64),
    Text(String),
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(number) => write!(f, "{number}"),
            Value::Text(text) => f.write_str(&quoted(text)),
            Value::List(items) => write!(f, "[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the embedded file alone.
    Default,
    /// In the file of settings.
    File {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
    },
    /// In a variable of that name.
    Variable(String),
    /// Behind that flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { path, line } => write!(f, "{path}:{line}"),
            Source::Variable(name) => write!(f, "variable {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value as it was given, not yet held against its setting.
enum Given<'a> {
    /// In a variable or a flag, where everything is text.
    Word(&'a str),
    /// In a file, where it has a type.
    Toml(&'a DeValue<'a>),
}

impl Given<'_> {
    fn whole(&self) -> Option<u64> {
        match self {
            Given::Word(word) => word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok())?,
            Given::Toml(value) => value.as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok()),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Given::Word(word) => Some(word),
            Given::Toml(value) => value.as_str(),
        }
    }

    /// In a file a list, or like everywhere else a text with commas.
    fn list(&self) -> Option<Vec<String>> {
        if let Given::Toml(value) = self
            && let Some(items) = value.as_array()
        {
            return items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
        }
        Some(self.text()?.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }
}

impl fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Word(word) => f.write_str(&quoted(word)),
            Given::Toml(DeValue::String(text)) => f.write_str(&quoted(text)),
            Given::Toml(DeValue::Integer(number)) => number.fmt(f),
            Given::Toml(DeValue::Boolean(yes)) => yes.fmt(f),
            Given::Toml(DeValue::Array(_)) => {
                f.write_str(&self.list().map_or("a mixed list".to_owned(), |items| Value::List(items).to_string()))
            }
            Given::Toml(value) => write!(f, "a {}", value.type_str()),
        }
    }
}

impl Kind {
    /// Puts what was given into the configuration; `None` if it is not allowed.
    fn take(&self, config: &mut Config, given: &Given<'_>) -> Option<Value> {
        match self {
            Kind::Whole { range, set } => {
                let number = given.whole().filter(|number| range.contains(number))?;
                set(config, number);
                Some(Value::Whole(number))
            }
            Kind::Choice(choices) => {
                let number = given.whole();
                let word = number.map_or_else(|| given.text().map(str::to_owned), |number| Some(number.to_string()))?;
                choices.iter().find(|(choice, _)| *choice == word).map(|(_, set)| set(config))?;
                Some(number.map_or(Value::Text(word), Value::Whole))
            }
            Kind::Text { set, .. } => {
                let text = given.text()?;
                set(config, text)?;
                Some(Value::Text(text.to_owned()))
            }
            Kind::List { set, .. } => {
                let items = given.list()?;
                set(config, &items)?;
                Some(Value::List(items))
            }
        }
    }

    /// What is allowed, for messages.
    fn allowed(&self) -> String {
        match self {
            Kind::Whole { range, .. } => format!("a whole number from {} to {}", range.start(), range.end()),
            Kind::Choice(choices) => format!("one of {}", words(choices).join(", ")),
            Kind::Text { allowed, .. } => (*allowed).to_owned(),
            Kind::List { allowed, .. } => format!("a list: {allowed}"),
        }
    }
}

/// The work of [`Effective::new`]: goes on after a mistake, to find all of them.
struct Reader {
    config: Config,
    values: BTreeMap<&'static str, (Value, Source)>,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
}

impl Reader {
    fn mistake(&mut self, source: &Source, what: &str) {
        self.mistakes.push(Mistake(format!("{source}: {what}")));
    }

    /// Sets what was given to a key that may be none.
    fn set(&mut self, key: &str, given: Given<'_>, source: Source) {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let near = nearest(key, SETTINGS.iter().map(|setting| setting.key)).unwrap_or_default();
            return self.mistake(&source, &format!("there is no setting '{key}'; did you mean '{near}'?"));
        };
        match setting.kind.take(&mut self.config, &given) {
            Some(value) => {
                self.values.insert(setting.key, (value, source));
            }
            None => self.mistake(&source, &format!("{key} is {given}, but must be {}", setting.kind.allowed())),
        }
    }

    fn read_file(&mut self, text: &str, source: impl Fn(usize) -> Source) {
        let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
        match DeTable::parse(text) {
            Ok(table) => self.read_table("", table.get_ref(), &|at| source(line(at))),
            Err(e) => self.mistake(&source(line(e.span().map_or(0, |span| span.start))), &format!("not TOML: {}", e.message())),
        }
    }

    fn read_table(&mut self, section: &str, table: &DeTable<'_>, source: &dyn Fn(usize) -> Source) {
        for (name, value) in table {
            let key = format!("{section}{}", name.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) if SETTINGS.iter().all(|setting| setting.key != key) => {
                    self.read_table(&format!("{key}."), inner, source)
                }
                given => self.set(&key, Given::Toml(given), source(name.span().start)),
            }
        }
    }

    fn read_variables(&mut self, variables: &[(OsString, OsString)]) {
        let named: Vec<(String, &Setting)> = SETTINGS.iter().map(|setting| (variable(setting.key), setting)).collect();
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if !name.starts_with("PORTER_") || OTHER_VARIABLES.contains(&&*name) {
                continue;
            }
            let Some((known, setting)) = named.iter().find(|(known, _)| *known == name) else {
                let near = nearest(&name, named.iter().map(|(known, _)| known.as_str())).unwrap_or_default();
                self.warnings.push(format!("there is no setting for the variable {name}; did you mean {near}?"));
                continue;
            };
            let source = Source::Variable(known.clone());
            match value.to_str() {
                Some(value) => self.set(setting.key, Given::Word(value), source),
                None => self.mistake(&source, "its value is not UTF-8"),
            }
        }
    }

    /// What no value can break alone.
    fn compare(&mut self) {
        let limits = &self.config.limits;
        if limits.outbox < 2 * limits.frame {
            let what = format!("limits.outbox is {}, but must be at least twice limits.frame, which is {}", limits.outbox, limits.frame);
            self.mistake_of("limits.outbox", "limits.frame", &what);
        }
        let limits = &self.config.limits;
        if limits.outbox_total < limits.outbox {
            let what =
                format!("limits.outbox_total is {}, but must be at least limits.outbox, which is {}", limits.outbox_total, limits.outbox);
            self.mistake_of("limits.outbox_total", "limits.outbox", &what);
        }
        let ports = ["rest.port", "websocket.port", "socketio.port", "tcp.port"];
        for (i, first) in ports.iter().enumerate() {
            for second in &ports[i + 1..] {
                let number = self.values.get(first).map(|(value, _)| value.clone());
                if number != Some(Value::Whole(0)) && number == self.values.get(second).map(|(value, _)| value.clone()) {
                    self.mistake_of(first, second, &format!("{first} and {second} are the same port"));
                }
            }
        }
    }

    /// A mistake of two settings: the place of the one that is no default.
    fn mistake_of(&mut self, first: &str, second: &str, what: &str) {
        let source = |key: &str| self.values.get(key).map(|(_, source)| source.clone()).filter(|source| *source != Source::Default);
        let source = source(first).or_else(|| source(second)).unwrap_or(Source::Default);
        self.mistake(&source, what);
    }
}

/// What the defaults are written over: the embedded file has every key.
fn blank() -> Config {
    Config {
        bind: IpAddr::from([0; 4]),
        data_dir: PathBuf::new(),
        advertise_host: None,
        language: Language::Zh,
        origins: Vec::new(),
        rest_port: 0,
        rest_first_page: 0,
        rest_error_status: None,
        websocket_port: 0,
        websocket_frame: 0,
        socketio_port: 0,
        tcp_port: 0,
        auth_devices: DeviceAuth::Token,
        trusted_proxies: Vec::new(),
        door_openers: Vec::new(),
        door_pictures: 0,
        door_picture_life: Duration::ZERO,
        threads: 0,
        log_level: LevelFilter::Off,
        limits: Limits {
            frame: 0,
            outbox: 0,
            outbox_total: 0,
            deliveries_per_alias: 0,
            deliveries: 0,
            bodies: 0,
            aliases: 0,
            topics_per_alias: 0,
            alias_life: Duration::ZERO,
            publish_rate: 0,
            connections: 0,
            connections_per_address: 0,
            tcp_idle: Duration::ZERO,
        },
    }
}

fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

fn each<T>(items: &[String], read: fn(&str) -> Option<T>) -> Option<Vec<T>> {
    items.iter().map(|item| read(item)).collect()
}

/// A host without port or scheme. `Some(None)`: none is set.
fn host(text: &str) -> Option<Option<String>> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let fits = text.len() <= 253 && (plain || text.parse::<IpAddr>().is_ok());
    fits.then(|| Some(text.to_owned()).filter(|t| !t.is_empty()))
}

fn origin(text: &str) -> Option<String> {
    let of_a_site = |(scheme, host): (&str, &str)| {
        let in_scheme = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
        let in_host = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_' | b':' | b'[' | b']');
        !scheme.is_empty() && !host.is_empty() && scheme.bytes().all(in_scheme) && host.bytes().all(in_host)
    };
    (matches!(text, "*" | "null" | "file://") || text.split_once("://").is_some_and(of_a_site)).then(|| text.to_owned())
}

fn pattern(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

fn words(choices: &[Choice]) -> Vec<&'static str> {
    choices.iter().map(|(word, _)| *word).collect()
}

fn variable(key: &str) -> String {
    format!("PORTER_{}", key.replace('.', "_").to_uppercase())
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", Harmless(&text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Layers {
        Layers { file: Some(("porter.toml".to_owned(), text.to_owned())), ..Layers::default() }
    }

    fn mistakes(layers: &Layers) -> Vec<String> {
        Effective::new(layers).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn the_embedded_file_has_every_key_once_and_each_with_a_comment() {
        let defaults = Effective::new(&Layers::default()).unwrap();
        let keys: Vec<&str> = SETTINGS.iter().map(|s| s.key).collect();
        assert_eq!(defaults.values.keys().copied().collect::<std::collections::BTreeSet<_>>(), keys.iter().copied().collect());
        let lines: Vec<&str> = DEFAULTS.lines().collect();
        let settings: Vec<usize> = (0..lines.len()).filter(|i| !lines[*i].starts_with('#') && lines[*i].contains(" = ")).collect();
        assert_eq!(settings.len(), keys.len());
        assert!(settings.iter().all(|i| lines[i - 1].starts_with('#')), "a setting without a comment");
    }

    #[test]
    fn the_embedded_file_says_of_each_key_that_needs_a_restart_that_it_does() {
        let mut section = String::new();
        let mut comment = String::new();
        let mut seen = 0;
        for line in DEFAULTS.lines().skip_while(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = format!("{name}.");
            } else if line.starts_with('#') {
                comment += line;
            } else if let Some((leaf, _)) = line.split_once(" = ") {
                let key = format!("{section}{leaf}");
                let setting = SETTINGS.iter().find(|setting| setting.key == key).unwrap();
                assert_eq!(comment.contains("Needs a restart."), !setting.reloads, "{key}");
                seen += 1;
            }
            if !line.starts_with('#') {
                comment.clear();
            }
        }
        assert_eq!(seen, SETTINGS.len());
    }

    #[test]
    fn what_another_reading_changes_is_told_and_what_needs_a_restart_stays() {
        let first = Effective::new(&file("language = 'zh'\ntcp.port = 1\ntcp.idle = 60")).unwrap();
        let again = || Effective::new(&file("tcp.idle = 60\n\ntcp.port = 2\nlanguage = 'en'")).unwrap();
        let told = |in_force: &Effective| {
            let all = in_force.changes(&again());
            all.iter().map(|c| format!("{} {} {} {} {}", c.key, c.from, c.to, c.source, c.reloads)).collect::<Vec<_>>()
        };
        assert_eq!(told(&first), ["language \"zh\" \"en\" porter.toml:4 true", "tcp.port 1 2 porter.toml:3 false"]);
        assert_eq!(told(&first.reloaded(again())), ["tcp.port 1 2 porter.toml:3 false"]);
        assert!(again().changes(&again()).is_empty());
    }

    #[test]
    fn names_of_flags_and_variables_are_unique() {
        for name in [flag, variable] {
            assert_eq!(SETTINGS.iter().map(|s| name(s.key)).collect::<std::collections::BTreeSet<_>>().len(), SETTINGS.len());
        }
        for setting in SETTINGS {
            assert_eq!(key_of_flag(flag(setting.key).trim_start_matches("--")), Some(setting.key));
            assert_eq!(key_of_flag(setting.key), Some(setting.key));
        }
        assert_eq!(key_of_flag("rest-prt"), None);
    }

    #[test]
    fn the_defaults_are_the_published_ones() {
        let c = Effective::new(&Layers::default()).unwrap().config;
        assert_eq!((c.rest_port, c.websocket_port, c.socketio_port, c.tcp_port), (9900, 9000, 9906, 9800));
        assert_eq!((c.bind, c.language, c.auth_devices), (IpAddr::from([127, 0, 0, 1]), Language::Zh, DeviceAuth::Private));
        assert_eq!((c.rest_first_page, c.rest_error_status, c.advertise_host), (1, None, None));
        assert_eq!((c.limits.frame, c.limits.outbox, c.limits.bodies), (64 << 10, 256 << 10, 1 << 30));
        assert_eq!(c.limits.tcp_idle, Duration::from_secs(180));
    }

    #[test]
    fn flag_beats_variable_beats_file_beats_default() {
        for (in_file, in_variable, in_flag, port, source) in [
            (None, None, None, 9900, "default"),
            (Some("1"), None, None, 1, "porter.toml:2"),
            (Some("1"), Some("2"), None, 2, "variable PORTER_REST_PORT"),
            (Some("1"), Some("2"), Some("3"), 3, "flag --rest-port"),
            (None, None, Some("3"), 3, "flag --rest-port"),
            (Some("1"), None, Some("3"), 3, "flag --rest-port"),
            (None, Some("2"), Some("3"), 3, "flag --rest-port"),
            (None, Some("2"), None, 2, "variable PORTER_REST_PORT"),
        ] {
            let layers = Layers {
                file: in_file.map(|v| ("porter.toml".to_owned(), format!("[rest]\nport = {v}\n"))),
                variables: in_variable.map(|v| variables(&[("PORTER_REST_PORT", v)])).unwrap_or_default(),
                flags: in_flag.map(|v| vec![("rest.port", v.to_owned())]).unwrap_or_default(),
            };
            let effective = Effective::new(&layers).unwrap();
            assert_eq!((effective.config.rest_port, effective.values["rest.port"].1.to_string().as_str()), (port, source));
        }
    }

    #[test]
    fn lists_are_lists_in_files_and_commas_elsewhere() {
        let want = ["*".to_owned(), "null".to_owned()];
        for layers in [
            file("origins = ['*', 'null']"),
            file("origins = '*,null'"),
            Layers { variables: variables(&[("PORTER_ORIGINS", "*, null")]), ..Layers::default() },
            Layers { flags: vec![("origins", "*,null".to_owned())], ..Layers::default() },
        ] {
            assert_eq!(Effective::new(&layers).unwrap().config.origins, want);
        }
        let none = Layers { variables: variables(&[("PORTER_ORIGINS", "")]), ..file("origins = '*'") };
        assert!(Effective::new(&none).unwrap().config.origins.is_empty());
    }

    #[test]
    fn each_mistake_names_key_place_value_and_what_is_allowed() {
        for (text, message) in [
            ("\n[rest]\nport = 70000", "porter.toml:3: rest.port is 70000, but must be a whole number from 0 to 65535"),
            ("rest.port = '9900'", "porter.toml:1: rest.port is \"9900\", but must be a whole number from 0 to 65535"),
            ("rest.port = -1", "porter.toml:1: rest.port is -1, but must be a whole number from 0 to 65535"),
            ("rest.port = true", "porter.toml:1: rest.port is true, but must be a whole number from 0 to 65535"),
            ("rest.port = {}", "porter.toml:1: rest.port is a table, but must be a whole number from 0 to 65535"),
            ("rest = 1", "porter.toml:1: there is no setting 'rest'; did you mean 'bind'?"),
            ("bind = 'localhost'", "porter.toml:1: bind is \"localhost\", but must be an IP address"),
            ("data_dir = ''", "porter.toml:1: data_dir is \"\", but must be the path of a folder"),
            ("language = 'de'", "porter.toml:1: language is \"de\", but must be one of zh, en"),
            ("rest.error_status = 404", "porter.toml:1: rest.error_status is 404, but must be one of 0, 200"),
            (
                "advertise_host = 'http://x/'",
                "porter.toml:1: advertise_host is \"http://x/\", but must be a host name or an IP address, or empty",
            ),
            (
                "auth.trusted_proxies = ['10.0.0.0/33']",
                "porter.toml:1: auth.trusted_proxies is [\"10.0.0.0/33\"], but must be a list: an IP address or a network such as 10.0.0.0/8 each",
            ),
            (
                "door.openers = [1]",
                "porter.toml:1: door.openers is a mixed list, but must be a list: 1 to 128 bytes without control characters each",
            ),
            (
                "origins = ['https://Example.org']",
                "porter.toml:1: origins is [\"https://Example.org\"], but must be a list: \"*\", \"null\", \"file://\" or scheme://host[:port] in lower case each",
            ),
            ("\n\nlimits.outbx = 1", "porter.toml:3: there is no setting 'limits.outbx'; did you mean 'limits.outbox'?"),
            ("[rset]\nport = 1", "porter.toml:2: there is no setting 'rset.port'; did you mean 'rest.port'?"),
            ("limits.outbox = 100000", "porter.toml:1: limits.outbox is 100000, but must be at least twice limits.frame, which is 65536"),
            ("limits.frame = 200000", "porter.toml:1: limits.outbox is 262144, but must be at least twice limits.frame, which is 200000"),
            (
                "limits.outbox_total = 200000",
                "porter.toml:1: limits.outbox_total is 200000, but must be at least limits.outbox, which is 262144",
            ),
            ("tcp.port = 9900", "porter.toml:1: rest.port and tcp.port are the same port"),
        ] {
            assert_eq!(mistakes(&file(text)).join("\n"), message, "{text}");
        }
    }

    #[test]
    fn mistakes_of_variables_and_flags_name_them() {
        let layers = Layers {
            file: None,
            variables: variables(&[("PORTER_LIMITS_FRAME", "1k"), ("PORTER_BIND", "\u{1b}[2J")]),
            flags: vec![("log.level", "loud".to_owned())],
        };
        assert_eq!(
            mistakes(&layers),
            [
                "variable PORTER_LIMITS_FRAME: limits.frame is \"1k\", but must be a whole number from 1024 to 4194304",
                "variable PORTER_BIND: bind is \"\\u001b[2J\", but must be an IP address",
                "flag --log-level: log.level is \"loud\", but must be one of off, error, warn, info, debug, trace",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_line() {
        for (text, line) in [("bind = \n", "porter.toml:1: not TOML"), ("\nbind = '::'\nbind = '::'\n", "porter.toml:3: not TOML")] {
            let found = mistakes(&file(text));
            assert!(found.len() == 1 && found[0].starts_with(line), "{found:?}");
        }
    }

    #[test]
    fn an_unknown_variable_is_only_a_warning() {
        let layers =
            Layers { variables: variables(&[("PORTER_REST_PROT", "1"), ("PORTER_TOKEN", "x"), ("HOME", "/")]), ..Layers::default() };
        let effective = Effective::new(&layers).unwrap();
        assert_eq!(effective.warnings, ["there is no setting for the variable PORTER_REST_PROT; did you mean PORTER_REST_PORT?"]);
    }

    #[test]
    fn what_is_printed_is_a_file_that_gives_the_same() {
        let layers = Layers {
            file: Some((
                "etc/po\nrter.toml".to_owned(),
                "data_dir = 'a\"b\\c\u{85}'\norigins = ['*', 'file://']\nrest.error_status = 200".to_owned(),
            )),
            variables: variables(&[("PORTER_AUTH_DEVICES", "open"), ("PORTER_DOOR_OPENERS", "phone-*,保安")]),
            flags: vec![("tcp.port", "0".to_owned())],
        };
        let effective = Effective::new(&layers).unwrap();
        let text = effective.to_toml();
        assert_eq!(Effective::new(&file(&text)).unwrap().config, effective.config, "{text}");
        for line in [
            "port = 0 # flag --tcp-port",
            "devices = \"open\" # variable PORTER_AUTH_DEVICES",
            "error_status = 200 # etc/po\\nrter.toml:3",
            "threads = 1 # default",
            "# Threads that serve connections. One is fastest on up to two cores; more help when many rooms relay pictures. Needs a restart.",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_nearest_word_needs_the_fewest_changes() {
        let known = || ["serve", "config", "token", "pub", "sub"].into_iter();
        for (word, near) in [("srve", "serve"), ("tokn", "token"), ("confgi", "config"), ("pubb", "pub")] {
            assert_eq!(nearest(word, known()), Some(near));
        }
        assert_eq!((distance("", "abc"), distance("kitten", "sitting"), distance("门口", "门")), (3, 3, 1));
    }
}
