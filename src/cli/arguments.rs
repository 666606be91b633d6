//! The command line as values: which command, which options, which settings. What the options mean is the commands' business.

use std::ffi::OsString;

use lexopt::{Arg, Parser};

use super::Failure;
use crate::config;

/// What `porter` can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// `porter help`, `--help`: of one command by its place in [`COMMANDS`], or of all.
    Help(Option<usize>),
    /// `porter --version`.
    Version,
    /// `porter serve`.
    Serve,
    /// `porter check`.
    Check,
    /// `porter config`.
    Config,
    /// `porter backup`.
    Backup,
    /// `porter restore`.
    Restore,
    /// `porter token new`.
    TokenNew,
    /// `porter token import`.
    TokenImport,
    /// `porter token inspect`.
    TokenInspect,
    /// `porter token revoke`.
    TokenRevoke,
    /// `porter token revoked`.
    TokenRevoked,
    /// `porter pub`.
    Publish,
    /// `porter sub`.
    Subscribe,
}

/// What one command takes.
pub(super) struct Spec {
    pub(super) command: Command,
    /// Its words on the command line.
    pub(super) name: &'static str,
    /// Options that take a value.
    options: &'static [&'static str],
    /// Options that take none.
    switches: &'static [&'static str],
    /// The settings that are flags of it; `None`: all of them.
    settings: Option<&'static [&'static str]>,
    /// Words that may follow.
    words_max: usize,
}

/// All commands, in the order of the help.
pub(super) const COMMANDS: &[Spec] = &[
    Spec { command: Command::Serve, name: "serve", options: &[], switches: &[], settings: None, words_max: 0 },
    Spec { command: Command::Check, name: "check", options: &[], switches: &[], settings: None, words_max: 0 },
    Spec { command: Command::Backup, name: "backup", options: &[], switches: &["overwrite"], settings: FOLDER, words_max: 1 },
    Spec { command: Command::Restore, name: "restore", options: &[], switches: &[], settings: FOLDER, words_max: 1 },
    Spec { command: Command::Config, name: "config", options: &[], switches: &[], settings: None, words_max: 0 },
    Spec { command: Command::TokenNew, name: "token new", options: CLAIMS, switches: &[], settings: FOLDER, words_max: 0 },
    Spec { command: Command::TokenImport, name: "token import", options: CLAIMS, switches: &[], settings: FOLDER, words_max: 0 },
    Spec { command: Command::TokenInspect, name: "token inspect", options: &[], switches: &[], settings: FOLDER, words_max: 1 },
    Spec { command: Command::TokenRevoke, name: "token revoke", options: &[], switches: &[], settings: FOLDER, words_max: 1 },
    Spec { command: Command::TokenRevoked, name: "token revoked", options: &[], switches: &[], settings: FOLDER, words_max: 0 },
    Spec {
        command: Command::Publish,
        name: "pub",
        options: &["alias", "topic", "ttl", "id", "server", "token"],
        switches: &["json"],
        settings: Some(&["log.level"]),
        words_max: 1,
    },
    Spec {
        command: Command::Subscribe,
        name: "sub",
        options: &["alias", "topic", "server", "token", "count"],
        switches: &[],
        settings: Some(&["log.level"]),
        words_max: 0,
    },
];

const CLAIMS: &[&str] = &["role", "label", "alias", "expires"];
const FOLDER: Option<&[&str]> = Some(&["data_dir", "log.level"]);

/// A command line that fits its command.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) command: Command,
    /// Flags that are settings, by their keys.
    pub(super) settings: Vec<(&'static str, String)>,
    /// What follows without dashes.
    pub(super) words: Vec<String>,
    name: &'static str,
    options: Vec<(&'static str, String)>,
    switches: Vec<&'static str>,
}

impl Arguments {
    /// Reads the words behind the program's name.
    pub(super) fn read(words: Vec<OsString>) -> Result<Arguments, Failure> {
        let mut parser = Parser::from_args(words);
        let at = match read_command(&mut parser)? {
            Ok(at) => at,
            Err(command) => return Ok(Arguments::of(command, "")),
        };
        let spec = &COMMANDS[at];
        let mut arguments = Arguments::of(spec.command, spec.name);
        while let Some(argument) = parser.next().map_err(|e| usage(e, spec.name))? {
            match argument {
                Arg::Short('h') => return Ok(Arguments::of(Command::Help(Some(at)), spec.name)),
                Arg::Long("help") => return Ok(Arguments::of(Command::Help(Some(at)), spec.name)),
                Arg::Short(c) => return Err(usage(format!("there is no option '-{c}'"), spec.name)),
                Arg::Long(name) => {
                    let name = name.to_owned();
                    arguments.take_option(spec, &name, &mut parser)?;
                }
                Arg::Value(word) => {
                    let word = text(word, spec.name)?;
                    if arguments.words.len() == spec.words_max {
                        return Err(usage(format!("'{word}' is one word too many"), spec.name));
                    }
                    arguments.words.push(word);
                }
            }
        }
        Ok(arguments)
    }

    /// The value of an option; of several the last.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// The value of an option that must be there.
    pub(super) fn required(&self, name: &str) -> Result<&str, Failure> {
        self.option(name).ok_or_else(|| self.usage(&format!("--{name} is missing")))
    }

    /// All values of an option that may be repeated.
    pub(super) fn all<'a, 'b>(&'a self, name: &'b str) -> impl Iterator<Item = &'a str> + use<'a, 'b> {
        self.options.iter().filter(move |(option, _)| *option == name).map(|(_, value)| value.as_str())
    }

    /// Whether an option without a value is there.
    pub(super) fn switch(&self, name: &str) -> bool {
        self.switches.contains(&name)
    }

    /// The failure of whoever called this command wrongly.
    pub(super) fn usage(&self, what: &str) -> Failure {
        Failure::Usage(what.to_owned(), self.name)
    }

    fn of(command: Command, name: &'static str) -> Arguments {
        Arguments { command, name, settings: Vec::new(), words: Vec::new(), options: Vec::new(), switches: Vec::new() }
    }

    fn take_option(&mut self, spec: &Spec, name: &str, parser: &mut Parser) -> Result<(), Failure> {
        if let Some(switch) = spec.switches.iter().find(|switch| **switch == name) {
            self.switches.push(switch);
            return Ok(());
        }
        let own = spec.options.iter().chain(&["config"]).find(|option| **option == name).copied();
        let setting = config::key_of_flag(name).filter(|key| spec.settings.is_none_or(|few| few.contains(key)));
        if own.is_none() && setting.is_none() {
            return Err(spec.unknown(name));
        }
        let value = text(parser.value().map_err(|e| usage(e, spec.name))?, spec.name)?;
        match (own, setting) {
            (Some(option), _) => self.options.push((option, value)),
            (None, Some(key)) => self.settings.push((key, value)),
            (None, None) => {}
        }
        Ok(())
    }
}

impl Spec {
    fn unknown(&self, name: &str) -> Failure {
        let flags: Vec<String> = config::keys()
            .filter(|key| self.settings.is_none_or(|few| few.contains(key)))
            .map(config::flag)
            .chain(self.options.iter().chain(self.switches).chain(&["config", "help"]).map(|option| format!("--{option}")))
            .collect();
        let given = format!("--{name}");
        if config::key_of_flag(name).is_some() {
            return usage(format!("'{given}' is a setting of 'porter serve' and means nothing to 'porter {}'", self.name), self.name);
        }
        let near = config::nearest(&given, flags.iter().map(String::as_str)).unwrap_or_default();
        usage(format!("'porter {}' has no option '{given}'; did you mean '{near}'?", self.name), self.name)
    }
}

/// The place of the command in [`COMMANDS`], or one that is not there.
fn read_command(parser: &mut Parser) -> Result<Result<usize, Command>, Failure> {
    let mut name = String::new();
    while let Some(argument) = parser.next().map_err(|e| usage(e, ""))? {
        let word = match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Err(Command::Help(help_of(&name)?))),
            Arg::Short('V') | Arg::Long("version") if name.is_empty() => return Ok(Err(Command::Version)),
            Arg::Short(c) => return Err(usage(format!("'-{c}' stands before the command"), "")),
            Arg::Long(option) => return Err(usage(format!("'--{option}' stands before the command"), "")),
            Arg::Value(word) => text(word, "")?,
        };
        if name.is_empty() && word == "help" {
            let rest = parser.raw_args().map_err(|e| usage(e, ""))?;
            let of: Vec<String> = rest.map(|word| text(word, "")).collect::<Result<_, _>>()?;
            return Ok(Err(Command::Help(help_of(&of.join(" "))?)));
        }
        name = if name.is_empty() { word } else { format!("{name} {word}") };
        if let Some(at) = COMMANDS.iter().position(|spec| spec.name == name) {
            return Ok(Ok(at));
        }
        if !is_group(&name) {
            return Err(unknown_command(&name));
        }
    }
    Err(usage(if name.is_empty() { "which command?".to_owned() } else { format!("'porter {name}' needs one word more") }, ""))
}

/// Whose help is asked for: of one command, or of all.
fn help_of(name: &str) -> Result<Option<usize>, Failure> {
    if name.is_empty() || is_group(name) {
        return Ok(None);
    }
    COMMANDS.iter().position(|spec| spec.name == name).map(Some).ok_or_else(|| unknown_command(name))
}

/// Whether commands begin with that word.
fn is_group(name: &str) -> bool {
    COMMANDS.iter().any(|spec| spec.name.split_once(' ').is_some_and(|(group, _)| group == name))
}

fn unknown_command(name: &str) -> Failure {
    let near = config::nearest(name, COMMANDS.iter().map(|spec| spec.name)).unwrap_or_default();
    usage(format!("there is no command '{name}'; did you mean '{near}'?"), "")
}

fn usage(what: impl ToString, name: &'static str) -> Failure {
    Failure::Usage(what.to_string(), name)
}

fn text(word: OsString, name: &'static str) -> Result<String, Failure> {
    word.into_string().map_err(|word| usage(format!("'{}' is not UTF-8", word.to_string_lossy()), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Arguments, String> {
        Arguments::read(line.split_whitespace().map(OsString::from).collect()).map_err(|failure| match failure {
            Failure::Usage(what, _) => what,
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn options_switches_settings_and_words_find_their_places() {
        let a = read("serve --rest-port 1 --tcp.port=2 --config f").unwrap();
        assert_eq!(a.command, Command::Serve);
        assert_eq!(a.settings, [("rest.port", "1".to_owned()), ("tcp.port", "2".to_owned())]);
        assert_eq!(a.option("config"), Some("f"));
        let a = read("pub --topic a --topic b --json {}").unwrap();
        assert_eq!((a.all("topic").collect::<Vec<_>>(), a.words.clone()), (vec!["a", "b"], vec!["{}".to_owned()]));
        assert!(a.switch("json") && !a.switch("quiet"));
        let a = read("token new --role device --label gate --data-dir d").unwrap();
        assert_eq!((a.command, a.required("role").unwrap(), a.settings.len()), (Command::TokenNew, "device", 1));
        assert!(a.required("expires").is_err());
    }

    #[test]
    fn help_and_version_are_found_everywhere_they_are_looked_for() {
        for (line, command) in [
            ("--help", Command::Help(None)),
            ("-h", Command::Help(None)),
            ("help", Command::Help(None)),
            ("help serve", Command::Help(Some(0))),
            ("serve --help", Command::Help(Some(0))),
            ("serve --rest-port 1 -h", Command::Help(Some(0))),
            ("help token", Command::Help(None)),
            ("token --help", Command::Help(None)),
            ("help token new", Command::Help(Some(5))),
            ("token new --help", Command::Help(Some(5))),
            ("--version", Command::Version),
            ("-V", Command::Version),
        ] {
            assert_eq!(read(line).unwrap().command, command, "{line}");
        }
    }

    #[test]
    fn each_misuse_is_named() {
        for (line, what) in [
            ("", "which command?"),
            ("token", "'porter token' needs one word more"),
            ("srve", "there is no command 'srve'; did you mean 'serve'?"),
            ("token mew", "there is no command 'token mew'; did you mean 'token new'?"),
            ("help srve", "there is no command 'srve'; did you mean 'serve'?"),
            ("--rest-port 1 serve", "'--rest-port' stands before the command"),
            ("serve --rest-prt 1", "'porter serve' has no option '--rest-prt'; did you mean '--rest-port'?"),
            ("serve now", "'now' is one word too many"),
            ("serve -x", "there is no option '-x'"),
            ("pub --json=yes", "unexpected argument for option '--json': \"yes\""),
            ("serve --rest-port", "missing argument for option '--rest-port'"),
            ("token new --rest-port 1", "'--rest-port' is a setting of 'porter serve' and means nothing to 'porter token new'"),
            ("pub --jsn", "'porter pub' has no option '--jsn'; did you mean '--json'?"),
        ] {
            assert_eq!(read(line).map(|_| ()), Err(what.to_owned()), "{line}");
        }
    }
}
