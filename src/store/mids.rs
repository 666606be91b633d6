//! The file `mids`: which block of mids was given to this run, so that none is ever used twice, whatever became of the
//! database (Protocol §1, Design §6). The mids of block b are b·2^40 and up; each start takes a new block before its
//! first mid, and a long run takes more.

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::names::Mid;
use crate::store::fault::Fault;
use crate::store::folder::Folder;

/// How many mids a block has. Take the next block when three quarters are used.
pub const MIDS_PER_BLOCK: u64 = 1 << 40;
/// Blocks whose mids have 63 bits.
const BLOCKS: u64 = 1 << 23;
/// How far mids go up when the file is lost and only the database's copy is left: more than the starts it can have missed.
const BLOCKS_AFTER_LOSS: u64 = 1_024;
const FILE: &str = "mids";

/// The block that this run takes its mids from.
pub(super) struct Block {
    number: u64,
    /// Whether the file says so. Until it does, nothing may be stored: the next start could give the same mids again.
    claimed: bool,
    /// The database is older than the last run.
    data_lost: bool,
}

/// Whether the folder has a file `mids`: then it was in use before.
pub(super) fn is_present(folder: &Folder) -> bool {
    folder.file(FILE).exists()
}

impl Block {
    /// The block after the newest one that the file or the database knows; not yet claimed.
    /// `in_database`: the database's own copy, 0 in a new one.
    pub(super) fn next(folder: &Folder, in_database: u64) -> Result<Block, Fault> {
        let path = folder.file(FILE);
        let mut data_lost = false;
        let newest = match read(folder)? {
            Some(in_file) => {
                data_lost = in_database + 1 < in_file;
                if data_lost {
                    log::error!(
                        "store event=data_lost file={} block={in_file} database_block={in_database} \
                         reason=\"the database is older than the last run: messages were lost\"",
                        path.display()
                    );
                }
                in_file.max(in_database)
            }
            None if in_database == 0 => 0,
            None => {
                log::warn!("store event=mids_missing file={} database_block={in_database}", path.display());
                in_database + BLOCKS_AFTER_LOSS
            }
        };
        if newest + 1 >= BLOCKS {
            return Err(Fault::MidsExhausted { path });
        }
        Ok(Block { number: newest + 1, claimed: false, data_lost })
    }

    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the database was older than the last run when the first block was chosen: messages are gone.
    pub(super) fn has_lost_data(&self) -> bool {
        self.data_lost
    }

    /// Whether the file names it: else nothing may be stored.
    pub(super) fn is_claimed(&self) -> bool {
        self.claimed
    }

    /// Writes its number to the file, unless that is done.
    pub(super) fn claim(&mut self, folder: &Folder) -> io::Result<()> {
        if !self.claimed {
            folder.replace(FILE, format!("{}\n", self.number).as_bytes())?;
            self.claimed = true;
        }
        Ok(())
    }

    /// Goes on to the block behind it, once the file says so. The mids of both are one range.
    pub(super) fn advance(&mut self, folder: &Folder) -> io::Result<()> {
        let mut next = Block { number: self.number + 1, claimed: false, data_lost: self.data_lost };
        if next.number >= BLOCKS {
            return Err(io::Error::other("no mids are left"));
        }
        next.claim(folder)?;
        *self = next;
        Ok(())
    }

    /// The mids that may be given out. Of a block that could not be claimed, those from somewhere in its first half: the
    /// next run may get the same block, and a receiver must not take its mids for these.
    pub(super) fn mids(&self) -> Range<Mid> {
        let start = self.number * MIDS_PER_BLOCK;
        // Without a source of chance two unclaimed runs may share mids; nothing of theirs is stored.
        let offset = if self.claimed { 0 } else { getrandom::u64().unwrap_or(0) % (MIDS_PER_BLOCK / 2) };
        Mid::new(start + offset)..Mid::new(start + MIDS_PER_BLOCK)
    }
}

/// The block to go on behind when a backup takes the database's place: far enough above all that the file, the database or
/// the backup knows, the greatest of which is given, that none can have been used (Design §6).
pub(super) fn after_restore(folder: &Folder, known: u64) -> Result<u64, Fault> {
    let block = read(folder)?.unwrap_or(0).max(known) + BLOCKS_AFTER_LOSS;
    if block + 1 >= BLOCKS { Err(Fault::MidsExhausted { path: folder.file(FILE) }) } else { Ok(block) }
}

/// Writes the file: the next run takes the block behind this one.
pub(super) fn write(folder: &Folder, block: u64) -> Result<(), Fault> {
    folder.replace(FILE, format!("{block}\n").as_bytes()).map_err(Fault::file(&folder.file(FILE), "write"))
}

/// The block that the file names; `None`: there is no file.
pub(super) fn read(folder: &Folder) -> Result<Option<u64>, Fault> {
    read_file(&folder.file(FILE))
}

/// The block that the file `mids` of a data folder names, be the folder in use or not; `None`: there is no file.
pub(super) fn look(folder: &Path) -> Result<Option<u64>, Fault> {
    read_file(&folder.join(FILE))
}

fn read_file(path: &Path) -> Result<Option<u64>, Fault> {
    let path = path.to_owned();
    match std::fs::read(&path) {
        Ok(bytes) => {
            let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n')).and_then(|text| text.parse().ok());
            number.filter(|number| *number < BLOCKS).map(Some).ok_or(Fault::BadMids { path })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::file(&path, "read")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::Scratch;

    fn first(block: &Block) -> u64 {
        block.mids().start.number()
    }

    #[test]
    fn each_start_has_mids_above_all_earlier_ones() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        // (what the database knows, the block): also where it missed a start, or the file did.
        for (in_database, block) in [(0, 1), (1, 2), (1, 3), (0, 4), (9, 10), (3, 11)] {
            let mut taken = Block::next(&folder, in_database).unwrap();
            assert_eq!(taken.number(), block);
            taken.claim(&folder).unwrap();
            assert_eq!(first(&taken), block << 40);
        }
        std::fs::remove_file(scratch.file(FILE)).unwrap();
        assert_eq!(Block::next(&folder, 11).unwrap().number(), 11 + BLOCKS_AFTER_LOSS + 1);
    }

    #[test]
    fn a_long_run_goes_on_without_a_gap() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        let mut block = Block::next(&folder, 0).unwrap();
        block.claim(&folder).unwrap();
        let end = block.mids().end;
        block.advance(&folder).unwrap();
        assert_eq!(block.mids().start, end);
        assert_eq!(Block::next(&folder, 0).unwrap().number(), 3);
    }

    #[test]
    fn an_unclaimed_block_leaves_its_file_and_starts_anywhere() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        // The file can't be replaced by way of a folder.
        std::fs::create_dir(scratch.file("mids.new")).unwrap();
        let mut block = Block::next(&folder, 0).unwrap();
        assert!(block.claim(&folder).is_err() && !block.is_claimed());
        let firsts: Vec<u64> = (0..8).map(|_| first(&block)).collect();
        assert!(firsts.iter().all(|first| (1 << 40..(1 << 40) + (1 << 39)).contains(first)));
        assert!(firsts.iter().any(|other| *other != firsts[0]), "no chance in it");
        assert!(block.advance(&folder).is_err());
        assert_eq!(block.number(), 1);
        std::fs::remove_dir(scratch.file("mids.new")).unwrap();
        block.claim(&folder).unwrap();
        assert_eq!(std::fs::read_to_string(scratch.file(FILE)).unwrap(), "1\n");
    }

    #[test]
    fn after_a_restore_mids_go_on_above_all_that_any_copy_knows() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        assert_eq!(after_restore(&folder, 5).unwrap(), 5 + BLOCKS_AFTER_LOSS);
        write(&folder, 70).unwrap();
        assert_eq!(after_restore(&folder, 5).unwrap(), 70 + BLOCKS_AFTER_LOSS);
        assert_eq!(after_restore(&folder, 90).unwrap(), 90 + BLOCKS_AFTER_LOSS);
        assert!(matches!(after_restore(&folder, BLOCKS - 10), Err(Fault::MidsExhausted { .. })));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        for damaged in ["", "7", "x\n", "-1\n", "7\n7\n", "8388608\n"] {
            std::fs::write(scratch.file(FILE), damaged).unwrap();
            assert!(matches!(Block::next(&folder, 3), Err(Fault::BadMids { .. })), "{damaged:?}");
        }
        std::fs::write(scratch.file(FILE), "8388607\n").unwrap();
        assert!(matches!(Block::next(&folder, 3), Err(Fault::MidsExhausted { .. })));
    }
}
