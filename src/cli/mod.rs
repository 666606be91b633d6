//! The command `porter`: reads the command line, loads the settings and calls what does the work.
//!
//! The standard output carries results alone, so that it can be piped; everything said to people goes to the standard error.
//! Exit codes: 0 done, 1 failed, 2 not understood.

mod arguments;
mod check;
mod client;
mod copies;
mod help;
mod tokens;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::process::ExitCode;

use crate::app;
use crate::cli::arguments::{Arguments, Command};
use crate::config::{Effective, Layers};
use crate::runtime::logger::{self, Harmless};

/// Bytes of a file of settings: a hundred times the default one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let mut out = io::stdout();
    let done = run(std::env::args_os().skip(1).collect(), &mut out);
    let done = done.and_then(|code| out.flush().map(|()| code).map_err(Failure::Output));
    // Before the last word, which the log often explains.
    log::logger().flush();
    done.unwrap_or_else(Failure::report)
}

/// Why a command did not do what it was told.
#[derive(Debug)]
enum Failure {
    /// The command line can't be understood: what is wrong, and the help that would have told.
    Usage(String, &'static str),
    /// It was understood but can't be done.
    Failed(String),
    /// The standard output is closed or full.
    Output(io::Error),
}

impl Failure {
    fn report(self) -> ExitCode {
        let (text, code) = match self {
            Failure::Usage(what, "") => (format!("{what}\nTry 'porter --help'."), 2),
            Failure::Usage(what, command) => (format!("{what}\nTry 'porter help {command}'."), 2),
            Failure::Failed(what) => (what, 1),
            // Whoever read the output has enough of it, as `head` does.
            Failure::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Failure::Output(e) => (format!("the standard output: {e}"), 1),
        };
        text.lines().for_each(tell);
        ExitCode::from(code)
    }
}

fn run(arguments: Vec<OsString>, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let arguments = Arguments::read(arguments)?;
    let show = |out: &mut dyn Write, text: &str| out.write_all(text.as_bytes()).map(|()| ExitCode::SUCCESS).map_err(Failure::Output);
    match arguments.command {
        Command::Help(of) => return show(out, &help::text(of)),
        Command::Version => return show(out, concat!("porter ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => {}
    }
    if arguments.command == Command::Check {
        return check::run(load(&arguments), out).map_err(Failure::Output);
    }
    let effective = load(&arguments).map_err(Failure::Failed)?;
    if arguments.command == Command::Config {
        effective.warnings.iter().for_each(|warning| tell(warning));
        return show(out, &effective.to_toml());
    }
    logger::install(effective.config.log_level).map_err(|e| Failure::Failed(format!("the log: {e}")))?;
    effective.warnings.iter().for_each(|warning| log::warn!("setting_ignored reason=\"{warning}\""));
    if arguments.command == Command::Serve {
        let again = move || load(&arguments).map_err(|mistakes| mistakes.replace('\n', "; "));
        return Ok(app::serve(effective, Box::new(again)));
    }
    let config = effective.config;
    match arguments.command {
        Command::Backup => copies::backup(&arguments, &config, out),
        Command::Restore => copies::restore(&arguments, &config, out),
        Command::Publish => client::publish(&arguments, &config, out),
        Command::Subscribe => client::subscribe(&arguments, &config, out),
        _ => tokens::run(&arguments, &config, out),
    }
}

/// The settings from all their places; the error is one line for each mistake.
fn load(arguments: &Arguments) -> Result<Effective, String> {
    let variables: Vec<_> = std::env::vars_os().collect();
    let named =
        arguments.option("config").map(OsString::from).or_else(|| std::env::var_os("PORTER_CONFIG").filter(|path| !path.is_empty()));
    let path = named.clone().unwrap_or_else(|| "porter.toml".into());
    let shown = path.to_string_lossy().into_owned();
    let file = match read_file(&path) {
        Ok(text) => Some((shown, text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => None,
        Err(e) => return Err(format!("{shown}: {e}")),
    };
    let layers = Layers { file, variables, flags: arguments.settings.clone() };
    Effective::new(&layers).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}

/// The text of a file of settings.
fn read_file(path: &OsStr) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes: not a file of settings")));
    }
    Ok(text)
}

/// One line for people. A standard error that is closed hears nothing; the exit code still tells.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "porter: {}", Harmless(line));
}

/// What the standard input holds, up to `bytes_max`, without the line feed at its end.
fn read_input(what: &str, bytes_max: usize) -> Result<String, Failure> {
    let mut text = String::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(2);
    io::stdin().take(limit).read_to_string(&mut text).map_err(|e| Failure::Failed(format!("the standard input: {e}")))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.len() > bytes_max {
        return Err(Failure::Failed(format!("the {what} on the standard input is longer than {bytes_max} bytes")));
    }
    Ok(text.to_owned())
}
