//! The data folder: whose it is, who may look into it, and whether what must be in it is there and whole.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;

use super::{Findings, Mend, nearest_there, quoted};
use crate::runtime::keyring::{IMPORTED, Keyring, MASTER_KEY, Missing, REVOKED};
use crate::store::fault::{Chain, Fault};
use crate::store::health::{self, Facts, Integrity};

/// How long reading the whole database may take.
const INTEGRITY_WAIT: Duration = Duration::from_secs(60);
/// Bits of a mode that let others in.
const OTHERS: u32 = 0o077;

/// Returns the highest wall time that the database has seen, ms since 1970, if that can be known.
pub(super) fn look(folder: &Path, findings: &mut Findings) -> Option<u64> {
    let found = there(folder, findings)?;
    if !is_ours(folder, &found, findings) {
        return None;
    }
    if found.mode() & 0o777 & OTHERS != 0 {
        let text = format!("{}: other accounts may look into it (mode {:o})", folder.display(), found.mode() & 0o777);
        findings.wrong("folder", text, Mend::Run(format!("chmod 700 {}", quoted(folder))));
    } else if rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let text = format!("{} can't be written to (mode {:o}, or a read-only disk)", folder.display(), found.mode() & 0o777);
        findings.wrong("folder", text, Mend::Run(format!("chmod 700 {}", quoted(folder))));
    } else {
        findings.ok("folder", format!("{}, of {} alone", folder.display(), account(found.uid())));
    }
    files(folder, &found, findings);
    stored(folder, findings)
}

fn there(folder: &Path, findings: &mut Findings) -> Option<Metadata> {
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => return Some(found),
        Ok(_) => {
            let text = format!("{} is no folder", folder.display());
            findings.wrong("folder", text, Mend::Run(format!("mv {0} {0}.old", quoted(folder))));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => missing(folder, findings),
        Err(error) => {
            let text = format!("{}: {error}", folder.display());
            findings.wrong("folder", text, Mend::Do("run this as the account that the server runs under".to_owned()));
        }
    }
    None
}

fn missing(folder: &Path, findings: &mut Findings) {
    let parent = nearest_there(folder);
    if rustix::fs::access(&parent, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
        return findings.ok("folder", format!("{} is not there yet: the first start makes it", folder.display()));
    }
    let us = account(rustix::process::geteuid().as_raw());
    let text = format!("{} is not there, and {us} can't make it in {}", folder.display(), parent.display());
    findings.wrong("folder", text, Mend::Run(format!("sudo install -d -m 700 -o {us} {}", quoted(folder))));
}

/// Whether this account may look at the folder's files.
fn is_ours(folder: &Path, found: &Metadata, findings: &mut Findings) -> bool {
    let us = rustix::process::geteuid();
    if us.is_root() || us.as_raw() == found.uid() {
        return true;
    }
    let (owner, us) = (account(found.uid()), account(us.as_raw()));
    let text = format!("{} belongs to {owner}, and this is {us}: nothing in it was looked at", folder.display());
    findings.wrong("folder", text, Mend::Run(format!("sudo -u {owner} {}", command_line())));
    false
}

/// This command, as it was typed.
fn command_line() -> String {
    let words: Vec<String> = std::env::args().map(|word| super::quoted_text(&word)).collect();
    words.join(" ")
}

/// The files: of the folder's owner, and for him alone.
fn files(folder: &Path, found: &Metadata, findings: &mut Findings) {
    let (mut open, mut foreign, mut count) = (Vec::new(), Vec::new(), 0);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for (path, file) in entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))).filter(|(_, file)| file.is_file()) {
        count += 1;
        // Its owner must be able to read and write it, too.
        if file.mode() & (0o600 | OTHERS) != 0o600 {
            open.push(path.clone());
        }
        if file.uid() != found.uid() {
            foreign.push(path);
        }
    }
    if !foreign.is_empty() {
        let text = format!("{} belong to another account than the folder: the server can't open them", names(&foreign));
        let owner = format!("{}:{}", found.uid(), found.gid());
        findings.wrong("files", text, Mend::Run(format!("sudo chown {owner} {}", all_quoted(&foreign))));
    }
    if !open.is_empty() {
        let text = format!("{} must be for the owner alone to read and write", names(&open));
        findings.wrong("files", text, Mend::Run(format!("chmod 600 {}", all_quoted(&open))));
    }
    if foreign.is_empty() && open.is_empty() {
        findings.ok("files", format!("{count}, for their owner alone"));
    }
}

fn names(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect();
    names.join(", ")
}

fn all_quoted(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(" ")
}

/// What is kept: the key and the lists beside it, the database, and the numbers.
fn stored(folder: &Path, findings: &mut Findings) -> Option<u64> {
    let (mids, database) = (health::mids(folder), health::examine(folder, INTEGRITY_WAIT));
    let has_key = fs::symlink_metadata(folder.join(MASTER_KEY)).is_ok();
    if !has_key && matches!((&mids, &database), (Ok(None), Ok(None))) {
        findings.ok("data", "none yet: the first start makes key and database");
        return None;
    }
    keyring(folder, has_key, findings);
    numbers(&mids, &database, findings);
    let newest_wall = database.as_ref().ok().and_then(Option::as_ref).map(|facts| facts.newest_wall);
    self::database(folder, &mids, database, findings);
    damaged_copies(folder, findings);
    newest_wall
}

fn keyring(folder: &Path, has_key: bool, findings: &mut Findings) {
    let whole = Keyring::open(folder, Missing::Leave).and_then(|keyring| keyring.revoked());
    match whole {
        Ok(revoked) => findings.ok("key", format!("whole; {} labels are revoked", revoked.labels().count())),
        Err(fault) if has_key => {
            let text = format!("{fault}: no token is valid");
            findings.wrong("key", text, Mend::Do("put your copy of that file back; a running server sees it at once".to_owned()));
        }
        Err(_) => {
            let key = folder.join(MASTER_KEY);
            let lists = [REVOKED, IMPORTED].map(|name| folder.join(name)).into_iter().filter(|path| path.exists()).collect::<Vec<_>>();
            let text =
                format!("{} is gone: no token is valid. Put your copy back; without one begin anew: all tokens are void", key.display());
            let remove = if lists.is_empty() { String::new() } else { format!("rm {} && ", all_quoted(&lists)) };
            let new = format!("{remove}porter token new --role manage --label new-key --data-dir {}", quoted(folder));
            findings.wrong("key", text, Mend::Run(new));
        }
    }
}

/// The file `mids` against the database's own copy of what it says.
fn numbers(mids: &Result<Option<u64>, Fault>, database: &Result<Option<Facts>, Fault>, findings: &mut Findings) {
    let known = database.as_ref().ok().and_then(Option::as_ref).map(|facts| facts.mid_block);
    match (mids, known) {
        (Err(fault @ Fault::BadMids { .. }), _) => {
            let mend = "bring your copy of the file back; without one start porter, which goes on well above all numbers that were used";
            findings.wrong("mids", fault.to_string(), Mend::Do(mend.to_owned()));
        }
        (Err(fault), _) => findings.wrong("mids", Chain(fault).to_string(), Mend::Do("see what the disk says: dmesg".to_owned())),
        (Ok(None), _) => {
            let text = "the file is gone: the next start goes on far above what the database knows. Never delete it";
            findings.warning("mids", text, Mend::Do("start porter once: it makes it anew".to_owned()));
        }
        (Ok(Some(file)), Some(known)) if known + 1 < *file => {
            let text = format!(
                "the database knows block {known}, the file block {file}: the database is older than the last run, messages are lost"
            );
            let mend = "look at the disk below: it lost what it said it had synced. The next start goes on, above all numbers given out";
            findings.wrong("mids", text, Mend::Do(mend.to_owned()));
        }
        (Ok(Some(file)), _) => findings.ok("mids", format!("block {file}")),
    }
}

fn database(folder: &Path, mids: &Result<Option<u64>, Fault>, found: Result<Option<Facts>, Fault>, findings: &mut Findings) {
    let restore = || Mend::Run(format!("porter restore BACKUP --data-dir {}", quoted(folder)));
    match found {
        Ok(Some(facts)) => match facts.integrity {
            Integrity::Whole if facts.version < facts.known => {
                findings.ok("database", format!("whole, of version {}: the next start brings it to {}", facts.version, facts.known));
            }
            Integrity::Whole => findings.ok("database", format!("whole, of version {}", facts.version)),
            Integrity::Damaged(why) => {
                findings.wrong("database", format!("porter.db is damaged: {why}. Stop porter and restore a backup"), restore());
            }
            Integrity::Rows(count) => {
                let text = format!(
                    "{count} rows of porter.db are not as they were written: those messages or aliases are left out. The disk damages \
                     what it keeps. Stop porter and restore a backup to have them back"
                );
                findings.wrong("database", text, restore());
            }
            Integrity::Unknown => {
                let text = format!("too large to be read in {} s; what was read is whole", INTEGRITY_WAIT.as_secs());
                let command = format!("sqlite3 -readonly {} 'PRAGMA integrity_check'", quoted(&folder.join("porter.db")));
                findings.warning("database", text, Mend::Run(command));
            }
        },
        Ok(None) if matches!(mids, Ok(None)) => findings.ok("database", "none yet: the first start makes it"),
        Ok(None) => {
            let text = "porter.db is gone or empty, but the file mids says that this folder held data. Restore a backup; without one \
                        the next start begins a new database";
            findings.wrong("database", text, restore());
        }
        Err(fault @ Fault::RestorePending { .. }) => {
            findings.warning("database", fault.to_string(), Mend::Do("start porter".to_owned()));
        }
        Err(fault @ Fault::Newer { .. }) => {
            findings.wrong("database", fault.to_string(), Mend::Do("install the newer porter again".to_owned()));
        }
        Err(fault) => findings.wrong("database", Chain(&fault).to_string(), restore()),
    }
}

/// Damaged databases that were set aside: what waited in them is still there, and an alarm lasts only until the next start.
fn damaged_copies(folder: &Path, findings: &mut Findings) {
    let copies = health::copies(folder);
    if copies.is_empty() {
        return;
    }
    let text = format!("damaged databases were set aside: {}. What waited in them is not delivered", names(&copies));
    let mend = "restore a backup, or rescue what can be read (sqlite3 FILE .recover); then delete it with what is beside it";
    findings.warning("copies", text, Mend::Do(mend.to_owned()));
}

/// The name of an account, or its number where it has none.
fn account(uid: u32) -> String {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("#{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_have_names_or_numbers() {
        assert_eq!((account(0), account(3_999_999_999)), ("root".to_owned(), "#3999999999".to_owned()));
    }
}
