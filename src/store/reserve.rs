//! The file `reserve`: space kept back so that a full disk can free itself (Design §6). In WAL mode even a deletion needs
//! space; when there is none, the reserve is given up, and only deletions are written until it can be had again.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::store::folder::{create_private, free_space};

/// Free space that must be left beside the reserve before it is taken again, in bytes: else it would be given up at once.
const MARGIN_BYTES: u64 = 16 << 20;
/// Zeros are written in pieces of this size, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// The file `reserve`, held or given up.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// A reserve of `bytes` at `path`, not yet held.
    pub(super) fn new(path: PathBuf, bytes: u64) -> Reserve {
        Reserve { path, bytes, held: false }
    }

    /// Whether the space is kept back.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Takes the space unless it is held; the error says why it can't be had now. A whole file of an earlier run is kept.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        if self.held {
            return Ok(());
        }
        let there = std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.is_file() && file.len() == self.bytes);
        if !there {
            self.write().inspect_err(|_| self.release())?;
        }
        self.held = true;
        Ok(())
    }

    /// Gives the space up. A file that can't be removed stays: the disk then stays full, which the next commit tells.
    pub(super) fn release(&mut self) {
        self.held = false;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::error!("store event=reserve_not_removed file={} error={error}", self.path.display());
            }
            _ => {}
        }
    }

    fn write(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = create_private(&self.path)?;
        self.check_free_space()?;
        let zeros = vec![0; PIECE_BYTES];
        let mut left = self.bytes;
        while left > 0 {
            let piece = left.min(PIECE_BYTES as u64) as usize;
            file.write_all(&zeros[..piece])?;
            left -= piece as u64;
        }
        file.sync_all()
    }

    /// Looks first, since a write that fails half-way takes the last space from everybody for a moment.
    fn check_free_space(&self) -> io::Result<()> {
        let free = free_space(&self.path)?;
        if free < self.bytes.saturating_add(MARGIN_BYTES) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::{RESERVE, Scratch, mode};

    fn reserve(scratch: &Scratch) -> Reserve {
        std::fs::create_dir_all(scratch.data()).unwrap();
        Reserve::new(scratch.file("reserve"), RESERVE)
    }

    #[test]
    fn it_is_really_written_and_really_given_up() {
        use std::os::unix::fs::MetadataExt;
        let scratch = Scratch::new();
        let mut reserve = reserve(&scratch);
        reserve.hold().unwrap();
        let file = std::fs::metadata(scratch.file("reserve")).unwrap();
        assert_eq!(file.len(), RESERVE);
        assert!(file.blocks() * 512 >= RESERVE, "a hole keeps no space back");
        assert_eq!(mode(&scratch.file("reserve")), 0o600);
        reserve.release();
        assert!(!reserve.is_held() && !scratch.file("reserve").exists());
    }

    #[test]
    fn half_of_it_is_written_anew() {
        let scratch = Scratch::new();
        let mut reserve = reserve(&scratch);
        std::fs::write(scratch.file("reserve"), "half").unwrap();
        reserve.hold().unwrap();
        assert_eq!(std::fs::metadata(scratch.file("reserve")).unwrap().len(), RESERVE);
    }

    #[test]
    fn too_little_space_leaves_nothing_behind() {
        let scratch = Scratch::new();
        std::fs::create_dir_all(scratch.data()).unwrap();
        let mut reserve = Reserve::new(scratch.file("reserve"), u64::MAX / 2);
        assert_eq!(reserve.hold().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(!reserve.is_held() && !scratch.file("reserve").exists());
    }
}
