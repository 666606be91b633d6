//! `porter backup` and `porter restore`: what the store does, for people.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

use super::arguments::Arguments;
use super::{Failure, tell};
use crate::config::Config;
use crate::runtime::clock;
use crate::runtime::logger::Harmless;
use crate::store::fault::{Chain, Fault};
use crate::store::restore::Restored;
use crate::store::verify::Contents;
use crate::store::{backup, restore};

/// By how much a backup gives way to the server: it has time.
const NICENESS: i32 = 10;

/// Copies the database, also of a running server, and says what the copy holds.
pub(super) fn backup(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let file = Path::new(arguments.words.first().ok_or_else(|| arguments.usage("which file?"))?);
    // Where the system does not let it, it is as fast as everybody else.
    let _ = rustix::process::nice(NICENESS);
    let contents = backup::backup(&config.data_dir, file, arguments.switch("overwrite")).map_err(|fault| match fault {
        Fault::NotWhole { .. } => Failure::Failed(format!("{fault}; no backup was made: run `porter check`, or write to another disk")),
        fault => failed(fault),
    })?;
    if std::fs::metadata(file).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
        tell(&format!("{}: other users can read it, for its file system has no owners", file.display()));
    }
    if contents.damaged_rows > 0 {
        tell(&format!(
            "{} rows of the database are not as they were written; the copy has them as they are: check the disk",
            contents.damaged_rows
        ));
    }
    let text = format!("backup         {}\n{}state          good: written, synced and read back\n", shown(file), listed(&contents));
    say(out, &text)
}

/// Puts a backup in the database's place, and says what was done and what comes next.
pub(super) fn restore(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let file = Path::new(arguments.words.first().ok_or_else(|| arguments.usage("which backup?"))?);
    let folder = &config.data_dir;
    let restored = restore::restore(folder, file).map_err(|fault| match fault {
        Fault::NotWhole { .. } => Failure::Failed(format!("{fault}; nothing was changed: take another backup")),
        fault => failed(fault),
    })?;
    if restored.contents.damaged_rows > 0 {
        tell(&format!(
            "{} rows of the backup are not as they were written and will be left out; an older backup may have them",
            restored.contents.damaged_rows
        ));
    }
    warn_of_root(folder);
    say(out, &done(file, folder, &restored))
}

fn done(file: &Path, folder: &Path, restored: &Restored) -> String {
    let Restored { contents, version, aside, damage, mid_block } = restored;
    let mut text = format!("restored       {}\n{}", shown(file), listed(contents));
    if *version != contents.version {
        text += &format!("updated        to version {version}\n");
    }
    let kept = match (aside, damage) {
        (None, _) => "there was none".to_owned(),
        (Some(aside), None) => shown(aside),
        (Some(aside), Some(damage)) => format!("{}, with its log, as it was: {}", shown(aside), Harmless(damage)),
    };
    text += &format!("old database   {kept}\n");
    text += &format!("numbers        go on behind block {mid_block}, above all that were given out\n");
    text + &format!("next           start porter (systemctl start porter); data folder {}\n", shown(folder))
}

/// What a database holds, a line each.
fn listed(contents: &Contents) -> String {
    let Contents { version, wall, aliases, subscriptions, messages, deliveries, door_log, bytes, .. } = contents;
    let state = if *wall == 0 { "nothing was ever stored".to_owned() } else { clock::utc_text(*wall) };
    format!(
        "last commit    {state}\naliases        {aliases}\nsubscriptions  {subscriptions}\nmessages       {messages}\n\
         waiting        {deliveries} deliveries\ndoor log       {door_log} entries\nsize           {bytes} bytes\nversion        {version}\n"
    )
}

/// Root has made the folder: the server's account can't use it.
fn warn_of_root(folder: &Path) {
    let is_roots = std::fs::metadata(folder).is_ok_and(|folder| folder.uid() == 0);
    if rustix::process::geteuid().is_root() && is_roots {
        tell(&format!(
            "{} belongs to root: if the server runs under another account, run: chown -R ACCOUNT: {}",
            shown(folder),
            shown(folder)
        ));
    }
}

fn shown(path: &Path) -> String {
    Harmless(&path.to_string_lossy()).to_string()
}

fn failed(fault: Fault) -> Failure {
    Failure::Failed(Chain(&fault).to_string())
}

fn say(out: &mut dyn Write, text: &str) -> Result<ExitCode, Failure> {
    out.write_all(text.as_bytes()).map(|()| ExitCode::SUCCESS).map_err(Failure::Output)
}
