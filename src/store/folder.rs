//! The data folder: that it is there, that it is ours alone, and how files in it are made. It knows nothing of what
//! stands in them.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::store::fault::Fault;

/// Only the owner of the process enters the folder.
const FOLDER_MODE: u32 = 0o700;
/// Only the owner of the process reads its files.
pub(super) const FILE_MODE: u32 = 0o600;

/// Bytes of the file `lock` that are read.
const BOOT_BYTES_MAX: u64 = 64;
/// Which boot of the machine this is: what was written in the same one can't have been lost with the power.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A data folder, locked against other processes until it is dropped.
pub(super) struct Folder {
    path: PathBuf,
    /// The lock ends when the file is closed. Nothing while the disk does not even allow that.
    lock: Option<File>,
    /// The folder was last opened by a process on this same boot.
    same_boot: bool,
}

impl Folder {
    /// The folder, which may fail: [`Folder::enter`] must succeed before anything in it is used.
    pub(super) fn new(path: &Path) -> Folder {
        Folder { path: path.to_owned(), lock: None, same_boot: false }
    }

    /// The folder, entered.
    pub(super) fn open(path: &Path) -> Result<Folder, Fault> {
        let mut folder = Folder::new(path);
        folder.enter()?;
        Ok(folder)
    }

    /// Whether it was last opened since the machine was last started.
    pub(super) fn is_same_boot(&self) -> bool {
        self.same_boot
    }

    /// Creates the folder (0700) if there is none, and locks it by its file `lock`, unless that is done.
    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        if self.lock.is_some() {
            return Ok(());
        }
        let path = &self.path;
        if !path.is_dir() {
            let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path);
            made.map_err(Fault::file(path, "create"))?;
            // The umask may have taken bits away.
            std::fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE)).map_err(Fault::file(path, "set the permissions of"))?;
        }
        let lock_path = path.join("lock");
        let writable = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(FILE_MODE).open(&lock_path);
        // A folder that can only be read is locked all the same: two servers must not both wait for it.
        let lock = writable.or_else(|_| File::open(&lock_path)).map_err(Fault::file(&lock_path, "open"))?;
        if let Err(error) = hand_over(&lock, path) {
            log::warn!("store event=owner_not_set file={} error=\"{error}\"", lock_path.display());
        }
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Fault::InUse { folder: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(Fault::file(&lock_path, "lock")(source)),
        }
        self.same_boot = sign(&lock);
        self.lock = Some(lock);
        Ok(())
    }

    /// Where a file of that name is in the folder.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Creates an empty file (0600) unless there is one, and makes its name durable.
    pub(super) fn create(&self, name: &str) -> io::Result<()> {
        match create_private(&self.file(name)) {
            Ok(file) => file.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(error),
        }
        self.sync()
    }

    /// Puts a file with these bytes in place of the one of that name: after a crash there is either the old or the new.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.file(&format!("{name}.new"));
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = create_private(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, self.file(name))?;
        self.sync()
    }

    /// Makes names that were created, renamed or removed durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Writes into the lock which boot this is; true if that stood there already. It need not last: a boot that is not known counts as
/// another one.
fn sign(mut lock: &File) -> bool {
    let Ok(boot) = std::fs::read(BOOT_ID) else { return false };
    let mut before = Vec::new();
    let is_same = lock.take(BOOT_BYTES_MAX).read_to_end(&mut before).is_ok() && before == boot;
    if !is_same && (lock.set_len(0).is_err() || lock.rewind().is_err() || lock.write_all(&boot).is_err()) {
        log::warn!("store event=lock_not_signed effect=\"damage to the log may be taken for a power cut at the next start\"");
    }
    is_same
}

/// Creates a file that only the owner can read; there must be none of that name.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create_new(true).write(true).mode(FILE_MODE).open(path)?;
    // The umask may have taken bits away; SQLite gives -wal and -shm the mode of the database.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    hand_over(&file, path.parent().unwrap_or(path))?;
    Ok(file)
}

/// Gives a file that root made in the folder of another account to that account, which could not open it otherwise.
fn hand_over(file: &File, folder: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (file_owner, owner) = (file.metadata()?, std::fs::metadata(folder)?);
    if file_owner.uid() == owner.uid() {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// Bytes that may still be written to the disk that a file or folder is on.
pub(super) fn free_space(path: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(path)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::{Scratch, mode};

    #[test]
    fn folder_and_files_belong_to_their_owner_alone() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        folder.create("a").unwrap();
        folder.replace("b", b"1").unwrap();
        assert_eq!(mode(&scratch.data()), 0o700);
        for name in ["lock", "a", "b"] {
            assert_eq!(mode(&scratch.file(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_lives() {
        let scratch = Scratch::new();
        let first = scratch.folder();
        let fault = Folder::new(&scratch.data()).enter().unwrap_err();
        assert!(matches!(fault, Fault::InUse { .. }));
        assert!(fault.to_string().starts_with("another porter is running on this data folder"));
        drop(first);
        assert!(Folder::new(&scratch.data()).enter().is_ok());
    }

    #[test]
    fn a_folder_knows_whether_it_was_opened_on_this_boot() {
        let scratch = Scratch::new();
        assert!(!scratch.folder().is_same_boot());
        assert!(scratch.folder().is_same_boot());
        std::fs::write(scratch.file("lock"), "another boot").unwrap();
        assert!(!scratch.folder().is_same_boot());
        assert!(scratch.folder().is_same_boot());
    }

    #[test]
    fn replacing_survives_what_an_earlier_crash_left() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        std::fs::write(scratch.file("a.new"), "half").unwrap();
        folder.replace("a", b"1").unwrap();
        folder.replace("a", b"2").unwrap();
        assert_eq!(std::fs::read(scratch.file("a")).unwrap(), b"2");
        assert!(!scratch.file("a.new").exists());
    }

    #[test]
    fn creating_keeps_what_is_there() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        std::fs::write(scratch.file("a"), "kept").unwrap();
        folder.create("a").unwrap();
        assert_eq!(std::fs::read(scratch.file("a")).unwrap(), b"kept");
    }
}
