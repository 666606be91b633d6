//! The file `mids`: which block of mids was given to this run, so that none is ever used twice, whatever became of the
//! database (Protocol §1, Design §6). The mids of block b are b·2^40 and up; each start takes a new block before its
//! first mid, and a long run takes more.
//!
//! Its text is the number and a check of it, such as `7 8d2b19d0`; older versions wrote the number alone.

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::names::Mid;
use crate::store::check::Check;
use crate::store::fault::Fault;
use crate::store::findings::{Findings, Kind};
use crate::store::folder::Folder;

/// How many mids a block has. Take the next block when three quarters are used.
pub const MIDS_PER_BLOCK: u64 = 1 << 40;
/// Blocks whose mids have 63 bits.
const BLOCKS: u64 = 1 << 23;
/// How far mids go up when the file is lost and only the database's copy is left: more than the starts it can have missed.
const BLOCKS_AFTER_LOSS: u64 = 1_024;
/// Where nothing is left to go by, the block is that of the clock: one more every so many ms. No box starts so often, so that it
/// lies above all that were used, and the blocks last until 2199.
const MS_PER_BLOCK: u64 = 864_000;
/// A clock before 2020 or behind 2190 is not set, ms since 1970.
const CLOCK_IS_SET: Range<u64> = 1_577_836_800_000..6_942_672_000_000;
const FILE: &str = "mids";

/// The block that this run takes its mids from.
pub(super) struct Block {
    number: u64,
    /// Whether the file says so. Until it does, nothing may be stored: the next start could give the same mids again.
    claimed: bool,
}

/// What the database knows of the newest block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InDatabase {
    /// Its own copy; 0 in a new one.
    Known(u64),
    /// It is gone or damaged: what could still be read of it, 0 for nothing.
    Lost(u64),
    /// It can't be opened for now.
    Unknown,
}

/// Whether the folder has a file `mids`: then it was in use before.
pub(super) fn is_present(folder: &Folder) -> bool {
    folder.file(FILE).exists()
}

impl Block {
    /// The block after the newest one that the file or the database knows; not yet claimed. `wall`: the clock, ms since 1970.
    pub(super) fn next(folder: &Folder, database: InDatabase, wall: u64, findings: &Findings) -> Result<Block, Fault> {
        let path = folder.file(FILE);
        let newest = match (read(folder), database) {
            (Ok(Some(in_file)), InDatabase::Known(known)) => {
                if known + 1 < in_file {
                    let text = format!(
                        "the database knows of block {known} only, but {} says {in_file}: it is older than the last run, and messages \
                         that were answered with -6 are gone; check the disk",
                        path.display()
                    );
                    findings.note(Kind::DataLost, text);
                }
                in_file.max(known)
            }
            (Ok(Some(in_file)), InDatabase::Lost(known)) => in_file.max(known),
            (Ok(Some(in_file)), InDatabase::Unknown) => in_file,
            (Ok(None), InDatabase::Known(0)) => 0,
            (damaged, database) => {
                let (known, is_sure) = match database {
                    InDatabase::Known(known) => (known, known > 0),
                    InDatabase::Lost(known) => (known, false),
                    InDatabase::Unknown => (0, false),
                };
                let newest = if is_sure { known } else { known.max(by_clock(wall)) } + BLOCKS_AFTER_LOSS;
                let why = damaged.err().unwrap_or_else(|| "it is gone".into());
                findings.note(Kind::MidsDamaged, format!("{}: {why}; numbers of messages go on at block {newest}", path.display()));
                newest
            }
        };
        if newest + 1 >= BLOCKS {
            return Err(Fault::MidsExhausted { path });
        }
        Ok(Block { number: newest + 1, claimed: false })
    }

    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the file names it: else nothing may be stored.
    pub(super) fn is_claimed(&self) -> bool {
        self.claimed
    }

    /// Writes its number to the file, unless that is done.
    pub(super) fn claim(&mut self, folder: &Folder) -> io::Result<()> {
        if !self.claimed {
            folder.replace(FILE, text(self.number).as_bytes())?;
            self.claimed = true;
        }
        Ok(())
    }

    /// The first mid behind it.
    pub(super) fn end(&self) -> Mid {
        Mid::new((self.number + 1) * MIDS_PER_BLOCK)
    }

    /// Goes on to the block behind it, once the file says so. The mids of both are one range.
    pub(super) fn advance(&mut self, folder: &Folder) -> io::Result<()> {
        if !self.claimed {
            return Err(io::Error::other("the block before it could not be written yet"));
        }
        let mut next = Block { number: self.number + 1, claimed: false };
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
        Mid::new(start + offset)..self.end()
    }
}

/// The block to go on behind when a backup takes the database's place: far enough above all that the file, the database or
/// the backup knows, the greatest of which is given, that none can have been used (Design §6).
pub(super) fn after_restore(folder: &Folder, known: u64) -> Result<u64, Fault> {
    let block = look(&folder.file(""))?.unwrap_or(0).max(known) + BLOCKS_AFTER_LOSS;
    if block + 1 >= BLOCKS { Err(Fault::MidsExhausted { path: folder.file(FILE) }) } else { Ok(block) }
}

/// Writes the file: the next run takes the block behind this one.
pub(super) fn write(folder: &Folder, block: u64) -> Result<(), Fault> {
    folder.replace(FILE, text(block).as_bytes()).map_err(Fault::file(&folder.file(FILE), "write"))
}

/// The block that the file `mids` of a data folder names, be the folder in use or not; `None`: there is no file.
pub(super) fn look(folder: &Path) -> Result<Option<u64>, Fault> {
    let path = folder.join(FILE);
    match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::file(&path, "read")(error)),
        Ok(bytes) => number_in(&bytes).map(Some).ok_or(Fault::BadMids { path }),
    }
}

/// The block of the clock; half-way up where the clock is not set.
fn by_clock(wall: u64) -> u64 {
    if CLOCK_IS_SET.contains(&wall) { wall / MS_PER_BLOCK } else { BLOCKS / 2 }
}

fn text(number: u64) -> String {
    format!("{number} {:08x}\n", Check::of("mids").number(number).end())
}

/// The number in the file, nothing where there is none; else what is wrong with it.
fn read(folder: &Folder) -> Result<Option<u64>, String> {
    match std::fs::read(folder.file(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(bytes) => number_in(&bytes).map(Some).ok_or_else(|| "it is damaged".into()),
    }
}

fn number_in(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok().and_then(parse).filter(|number| number + 1 < BLOCKS)
}

fn parse(line: &str) -> Option<u64> {
    let digits = line.strip_suffix('\n')?;
    let number = digits.split(' ').next()?.parse().ok()?;
    // One way to write it: no sign, no leading zero.
    (line == text(number) || digits == number.to_string()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::Scratch;

    fn first(block: &Block) -> u64 {
        block.mids().start.number()
    }

    /// 2026-11-25.
    const WALL: u64 = 1_795_640_940_000;

    fn next(folder: &Folder, database: InDatabase) -> (Block, Vec<&'static str>) {
        let findings = Findings::default();
        let block = Block::next(folder, database, WALL, &findings).unwrap();
        (block, findings.list().iter().map(|found| found.name()).collect())
    }

    fn known(block: u64) -> InDatabase {
        InDatabase::Known(block)
    }

    #[test]
    fn each_start_has_mids_above_all_earlier_ones() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        // (what the database knows, the block, what is said): also where it missed a start, or the file did.
        let cases = [(0, 1, None), (1, 2, None), (1, 3, None), (0, 4, Some("data_lost")), (9, 10, None), (3, 11, Some("data_lost"))];
        for (in_database, block, said) in cases {
            let (mut taken, found) = next(&folder, known(in_database));
            assert_eq!((taken.number(), &found[..]), (block, said.as_slice()));
            taken.claim(&folder).unwrap();
            assert_eq!(first(&taken), block << 40);
        }
        std::fs::remove_file(scratch.file(FILE)).unwrap();
        let (taken, found) = next(&folder, known(11));
        assert_eq!((taken.number(), &found[..]), (11 + BLOCKS_AFTER_LOSS + 1, &["mids_damaged"][..]));
    }

    #[test]
    fn a_long_run_goes_on_without_a_gap() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        let (mut block, _) = next(&folder, known(0));
        assert!(block.advance(&folder).is_err(), "nothing is taken behind a block that is not written");
        block.claim(&folder).unwrap();
        let end = block.mids().end;
        block.advance(&folder).unwrap();
        assert_eq!(block.mids().start, end);
        assert_eq!(next(&folder, known(0)).0.number(), 3);
    }

    #[test]
    fn an_unclaimed_block_leaves_its_file_and_starts_anywhere() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        // The file can't be replaced by way of a folder.
        std::fs::create_dir(scratch.file("mids.new")).unwrap();
        let (mut block, _) = next(&folder, known(0));
        assert!(block.claim(&folder).is_err() && !block.is_claimed());
        let firsts: Vec<u64> = (0..8).map(|_| first(&block)).collect();
        assert!(firsts.iter().all(|first| (1 << 40..(1 << 40) + (1 << 39)).contains(first)));
        assert!(firsts.iter().any(|other| *other != firsts[0]), "no chance in it");
        assert!(block.advance(&folder).is_err());
        assert_eq!(block.number(), 1);
        std::fs::remove_dir(scratch.file("mids.new")).unwrap();
        block.claim(&folder).unwrap();
        assert_eq!(std::fs::read_to_string(scratch.file(FILE)).unwrap(), text(1));
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
    fn a_damaged_file_goes_by_the_database_and_without_that_by_the_clock() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        let clock = WALL / MS_PER_BLOCK + BLOCKS_AFTER_LOSS + 1;
        for damaged in ["", "7", "x\n", "-1\n", "+7\n", "07\n", "7\n7\n", "8388608\n", "8388607\n", "7 00000000\n", "7 \n"] {
            std::fs::write(scratch.file(FILE), damaged).unwrap();
            let by = [known(3), known(0), InDatabase::Lost(5), InDatabase::Lost(clock), InDatabase::Unknown];
            let blocks = by.map(|database| next(&folder, database).0.number());
            assert_eq!(blocks, [3 + BLOCKS_AFTER_LOSS + 1, clock, clock, clock + BLOCKS_AFTER_LOSS + 1, clock], "{damaged:?}");
            assert_eq!(next(&folder, known(3)).1, ["mids_damaged"]);
        }
        let unset = Block::next(&folder, InDatabase::Unknown, 0, &Findings::default()).unwrap();
        assert_eq!(unset.number(), BLOCKS / 2 + BLOCKS_AFTER_LOSS + 1);
        let last = Block::next(&folder, known(BLOCKS - 2), WALL, &Findings::default());
        assert!(matches!(last, Err(Fault::MidsExhausted { .. })));
    }

    #[test]
    fn every_flipped_bit_in_the_file_is_found() {
        let scratch = Scratch::new();
        let folder = scratch.folder();
        for number in [7, 41, 1_024] {
            let whole = text(number).into_bytes();
            std::fs::write(scratch.file(FILE), &whole).unwrap();
            assert_eq!(read(&folder), Ok(Some(number)));
            for bit in 0..whole.len() * 8 {
                let mut altered = whole.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(scratch.file(FILE), &altered).unwrap();
                assert!(read(&folder).is_err(), "bit {bit} of {number}");
            }
        }
        std::fs::write(scratch.file(FILE), "7\n").unwrap();
        assert_eq!(read(&folder), Ok(Some(7)), "as older versions wrote it");
    }
}
