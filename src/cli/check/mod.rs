//! `porter check`: what is wrong on this box, and the command that mends it.
//!
//! Each file beside this one looks at one part and adds its findings. Nothing is changed, and a running server is not disturbed.

mod clock;
mod disk;
mod folder;
mod limits;
mod ports;
mod server;
mod settings;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::Effective;
use crate::runtime::logger::Harmless;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    /// As it should be.
    Ok,
    /// Porter serves, but not as well or as safely as it could.
    Warning,
    /// Porter can't start, or not keep its promises.
    Wrong,
}

/// What mends a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mend {
    /// A command, as it is to be typed.
    Run(String),
    /// What no command can do.
    Do(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// What was looked at: a word or two.
    what: &'static str,
    grade: Grade,
    text: String,
    mend: Option<Mend>,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, what: &'static str, text: impl Into<String>) {
        self.0.push(Finding { what, grade: Grade::Ok, text: text.into(), mend: None });
    }

    fn warning(&mut self, what: &'static str, text: impl Into<String>, mend: Mend) {
        self.0.push(Finding { what, grade: Grade::Warning, text: text.into(), mend: Some(mend) });
    }

    fn wrong(&mut self, what: &'static str, text: impl Into<String>, mend: Mend) {
        self.0.push(Finding { what, grade: Grade::Wrong, text: text.into(), mend: Some(mend) });
    }

    fn count(&self, grade: Grade) -> usize {
        self.0.iter().filter(|finding| finding.grade == grade).count()
    }
}

/// Looks at everything and prints it. `settings`: the settings, or their mistakes, one a line.
pub(super) fn run(settings: Result<Effective, String>, out: &mut dyn Write) -> Result<ExitCode, io::Error> {
    let mut findings = Findings::default();
    match settings {
        Ok(settings) => look(&settings, &mut findings),
        Err(mistakes) => settings::mistakes(&mistakes, &mut findings),
    }
    for finding in &findings.0 {
        out.write_all(shown(finding).as_bytes())?;
    }
    let (wrong, warnings) = (findings.count(Grade::Wrong), findings.count(Grade::Warning));
    writeln!(out, "{wrong} wrong, {warnings} to be warned of, {} as it should be", findings.count(Grade::Ok))?;
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn look(settings: &Effective, findings: &mut Findings) {
    let folder = &settings.config.data_dir;
    let server = server::find(folder);
    settings::look(settings, findings);
    server::look(server.as_ref(), findings);
    ports::look(settings, server.as_ref(), findings);
    let newest_stored = folder::look(folder, findings);
    clock::look(folder, newest_stored, findings);
    disk::look(folder, findings);
    limits::look(settings, server.as_ref(), findings);
}

fn shown(finding: &Finding) -> String {
    let grade = match finding.grade {
        Grade::Ok => "ok",
        Grade::Warning => "warning",
        Grade::Wrong => "wrong",
    };
    let line = |first: &str, second: &str, text: &str| format!("{first:<8} {second:<12} {}\n", Harmless(text));
    let mend = match &finding.mend {
        None => String::new(),
        Some(Mend::Run(command)) => line("", "run", command),
        Some(Mend::Do(what)) => line("", "do", what),
    };
    line(grade, finding.what, &finding.text) + &mend
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    quoted_text(&path.to_string_lossy())
}

/// A word as a shell takes it.
fn quoted_text(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The nearest folder on the way up that is there.
fn nearest_there(path: &Path) -> std::path::PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_in_columns_and_their_mends_below() {
        let finding = Finding { what: "bind", grade: Grade::Wrong, text: "a\nb".into(), mend: Some(Mend::Run("c d".into())) };
        assert_eq!(shown(&finding), "wrong    bind         a\\nb\n         run          c d\n");
    }

    #[test]
    fn words_reach_a_shell_as_they_are() {
        for (word, shell) in [("/var/lib/porter", "/var/lib/porter"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$x", "'$x'")]
        {
            assert_eq!(quoted_text(word), shell);
        }
    }
}
