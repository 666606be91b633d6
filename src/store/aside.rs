//! Setting a damaged database aside: `porter.db` and the files beside it get a name with the time in it, so that people can rescue
//! what is in them (`sqlite3 porter.db.corrupt-… .recover`) while a new one is begun. And the mark by which damage that was met
//! while running is looked for at the next start. It does not know what is wrong with a database.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::store::folder::Folder;

/// The database's name in the data folder.
pub(super) const DATABASE: &str = "porter.db";
/// What SQLite keeps beside a database: the log first, for it holds data.
const BESIDE: [&str; 2] = ["-wal", "-shm"];
const ASIDE: &str = "porter.db.corrupt-";
/// Copies that are kept. A disk that damages each new database must not be filled by them: over the bound the newest but one goes,
/// for the first ones hold what had gathered before the trouble began, and the last is the one just made.
pub(super) const COPIES_MAX: usize = 4;
/// The mark's name in the data folder.
const MARK: &str = "damaged";

/// Moves the database and what is beside it away; returns where to. `wall`: the time for its name, ms since 1970.
///
/// The database goes first: a log without its database is recognised at the next start ([`finish`]), while a database without its
/// log would be taken for whole.
pub(super) fn set_aside(folder: &Folder, wall: u64) -> io::Result<PathBuf> {
    let name = free_name(folder, wall);
    fs::rename(folder.file(DATABASE), folder.file(&name))?;
    move_beside(folder, &name)?;
    folder.sync()?;
    drop_surplus(folder)?;
    Ok(folder.file(&name))
}

/// Where there is no database but a log of one: a crash came while it was set aside, or somebody took the database away. The log
/// goes after it; a new database must never find it.
pub(super) fn finish(folder: &Folder, wall: u64) -> io::Result<()> {
    let is_left = BESIDE.iter().any(|end| exists(folder, &format!("{DATABASE}{end}")));
    if exists(folder, DATABASE) || !is_left {
        return Ok(());
    }
    let newest = copies(&folder.file(""))?.pop().filter(|name| !exists(folder, &format!("{name}-wal")));
    let name = newest.unwrap_or_else(|| free_name(folder, wall));
    log::warn!("store event=log_without_database action=kept_as file={}-wal", folder.file(&name).display());
    move_beside(folder, &name)?;
    folder.sync()
}

/// Moves the log alone away: the database is whole without it.
pub(super) fn set_log_aside(folder: &Folder, wall: u64) -> io::Result<PathBuf> {
    let name = free_name(folder, wall);
    move_beside(folder, &name)?;
    folder.sync()?;
    Ok(folder.file(&format!("{name}-wal")))
}

/// Notes that the database was found to be damaged while it was in use. It is looked at closely at the next start.
pub(super) fn mark(folder: &Folder, why: &str) {
    if !is_marked(folder)
        && let Err(error) = folder.replace(MARK, format!("{why}\n").as_bytes())
    {
        log::error!("store event=damage_not_marked file={} error=\"{error}\"", folder.file(MARK).display());
    }
}

/// Whether that was noted.
pub(super) fn is_marked(folder: &Folder) -> bool {
    exists(folder, MARK)
}

/// The database was looked at.
pub(super) fn unmark(folder: &Folder) {
    if let Err(error) = fs::remove_file(folder.file(MARK))
        && error.kind() != ErrorKind::NotFound
    {
        log::error!("store event=mark_not_removed file={} error=\"{error}\"", folder.file(MARK).display());
    }
}

fn exists(folder: &Folder, name: &str) -> bool {
    fs::symlink_metadata(folder.file(name)).is_ok()
}

fn move_beside(folder: &Folder, name: &str) -> io::Result<()> {
    for end in BESIDE {
        match fs::rename(folder.file(&format!("{DATABASE}{end}")), folder.file(&format!("{name}{end}"))) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A name that nothing has yet.
fn free_name(folder: &Folder, wall: u64) -> String {
    let name = format!("{ASIDE}{}", utc(wall));
    let is_free = |name: &String| !exists(folder, name) && BESIDE.iter().all(|end| !exists(folder, &format!("{name}{end}")));
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    std::iter::once(name.clone()).chain(numbered).find(is_free).expect("there is always one more number")
}

/// The time as names have it, such as `20261125T210900Z`.
fn utc(wall: u64) -> String {
    let text = || {
        let sql = "SELECT strftime('%Y%m%dT%H%M%SZ', ?1, 'unixepoch')";
        Connection::open_in_memory()?.query_row(sql, ((wall / 1_000).cast_signed(),), |row| row.get::<_, String>(0))
    };
    text().unwrap_or_else(|_| (wall / 1_000).to_string())
}

/// The names of the copies, oldest first by the time in them.
pub(super) fn copies(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(ASIDE) && !BESIDE.iter().any(|end| name.ends_with(end)) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn drop_surplus(folder: &Folder) -> io::Result<()> {
    let mut names = copies(&folder.file(""))?;
    while names.len() > COPIES_MAX {
        let name = names.remove(names.len() - 2);
        log::warn!("store event=copy_dropped file={} reason=\"more than {COPIES_MAX} damaged databases\"", folder.file(&name).display());
        for file in ["", "-wal", "-shm"].map(|end| folder.file(&format!("{name}{end}"))) {
            match fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::Scratch;

    /// 2026-11-25 21:09:00.
    const WALL: u64 = 1_795_640_940_000;

    fn write(scratch: &Scratch, names: &[&str]) {
        for name in names {
            fs::write(scratch.file(name), name).unwrap();
        }
    }

    fn listed(scratch: &Scratch) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(scratch.data()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock");
        names.sort_unstable();
        names
    }

    #[test]
    fn sqlite_finds_the_log_of_what_was_set_aside() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        write(&scratch, &["porter.db", "porter.db-wal", "porter.db-shm"]);
        let kept = set_aside(&folder, WALL).unwrap();
        assert_eq!(kept, scratch.file("porter.db.corrupt-20261125T210900Z"));
        let names =
            ["porter.db.corrupt-20261125T210900Z", "porter.db.corrupt-20261125T210900Z-shm", "porter.db.corrupt-20261125T210900Z-wal"];
        assert_eq!(listed(&scratch), names);
    }

    #[test]
    fn a_crash_in_the_middle_leaves_no_log_for_the_new_database() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        write(&scratch, &["porter.db", "porter.db-wal"]);
        fs::rename(scratch.file("porter.db"), scratch.file("porter.db.corrupt-20261125T210900Z")).unwrap();
        finish(&folder, WALL + 5_000).unwrap();
        assert_eq!(listed(&scratch), ["porter.db.corrupt-20261125T210900Z", "porter.db.corrupt-20261125T210900Z-wal"]);
        // Somebody took the database away.
        write(&scratch, &["porter.db-wal"]);
        finish(&folder, WALL + 5_000).unwrap();
        assert!(scratch.file("porter.db.corrupt-20261125T210905Z-wal").exists());
        write(&scratch, &["porter.db", "porter.db-wal"]);
        finish(&folder, WALL).unwrap();
        assert!(scratch.file("porter.db-wal").exists(), "it has its database");
    }

    #[test]
    fn copies_are_bounded_and_the_first_ones_stay() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        for second in 0..10 {
            write(&scratch, &["porter.db", "porter.db-wal"]);
            set_aside(&folder, WALL + second * 1_000).unwrap();
        }
        let kept = copies(&scratch.data()).unwrap();
        let time = |second: &str| format!("{ASIDE}2026112{second}");
        assert_eq!(kept, ["5T210900Z", "5T210901Z", "5T210902Z", "5T210909Z"].map(time));
        assert_eq!(listed(&scratch).len(), 2 * COPIES_MAX);
    }

    #[test]
    fn two_in_one_second_have_two_names() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        for _ in 0..2 {
            write(&scratch, &["porter.db"]);
            set_aside(&folder, WALL).unwrap();
        }
        assert_eq!(listed(&scratch), ["porter.db.corrupt-20261125T210900Z", "porter.db.corrupt-20261125T210900Z-2"]);
    }
}
