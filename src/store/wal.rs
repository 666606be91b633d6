//! SQLite's log as it was left, looked at before SQLite opens it. SQLite takes the log up to the first frame that is not whole and
//! says nothing of those behind it: right for a transaction that a power cut tore, wrong for a log that the disk has damaged, since
//! what was confirmed would be gone without a word. Here both are told apart.
//!
//! Three witnesses. The log itself: each transaction was synced before the next one began, so frames of this generation behind the
//! end of the torn one prove that it had been confirmed. The index of the log (`-shm`): SQLite counts a frame there after its sync,
//! so that a log shorter than its index has lost something. And the header, which is synced before the first frame.
//! Formats: sqlite.org/fileformat.html, section 4, and sqlite.org/walformat.html.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// Without its lowest bit, which says in which byte order the checksums are.
const MAGIC: u32 = 0x377f_0682;
/// One of the two copies of the index's header.
const INDEX_HEADER_BYTES: usize = 48;
/// Where the index says how many frames are in the database.
const BACKFILLED_AT: usize = 96;

/// What became of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Log {
    /// All that was confirmed is in it.
    Whole,
    /// Its last transaction is not whole: cut off with the power before it was confirmed, or damaged.
    Torn,
    /// It is damaged, but all of it had been moved into the database: without the log the database is whole.
    Spent,
    /// Something that was confirmed is gone.
    Lost(&'static str),
}

/// Looks at the log `wal` and its index `shm`. `same_boot`: the machine has run ever since they were written, so that the index
/// is not older than the log.
pub(super) fn look(wal: &Path, shm: &Path, same_boot: bool) -> io::Result<Log> {
    let index = Index::read(shm)?;
    let file = match File::open(wal) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(without_log(index.as_ref(), same_boot)),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; HEADER_BYTES];
    if length == 0 {
        return Ok(without_log(index.as_ref(), same_boot));
    }
    if !fill(&mut reader, &mut header)? {
        // Too short for a header: it was being begun, unless the index knows better.
        return Ok(without_log(index.as_ref(), same_boot));
    }
    let Some(generation) = Generation::read(&header) else {
        let was_spent = index.is_some_and(|index| same_boot && index.is_spent());
        return Ok(if was_spent { Log::Spent } else { Log::Lost("the head of its log is damaged") });
    };
    let frames = generation.scan(&mut reader)?;
    // An index of another generation knows nothing of this one, unless it is surely the newer.
    let index = index.filter(|index| index.salts == generation.salts || same_boot);
    Ok(frames.judge(index.as_ref()))
}

fn without_log(index: Option<&Index>, same_boot: bool) -> Log {
    match index {
        Some(index) if same_boot && index.frames > 0 && !index.is_spent() => Log::Lost("its log is gone or cut to nothing"),
        _ => Log::Whole,
    }
}

/// Fills `bytes`; false if the file ends before.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

fn big(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn native(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// SQLite's checksum of the log: `sums` goes from one piece to the next.
fn checksum(mut sums: [u32; 2], bytes: &[u8], is_big: bool) -> [u32; 2] {
    let word = |bytes: &[u8]| if is_big { big(bytes, 0) } else { u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) };
    for pair in bytes.chunks_exact(8) {
        sums[0] = sums[0].wrapping_add(word(pair)).wrapping_add(sums[1]);
        sums[1] = sums[1].wrapping_add(word(&pair[4..])).wrapping_add(sums[0]);
    }
    sums
}

/// What the index says, if it is whole.
struct Index {
    frames: u32,
    backfilled: u32,
    salts: [u8; 8],
}

impl Index {
    fn read(path: &Path) -> io::Result<Option<Index>> {
        let mut bytes = [0; BACKFILLED_AT + 4];
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if !fill(&mut file, &mut bytes)? {
            return Ok(None);
        }
        let (first, second) = (&bytes[..INDEX_HEADER_BYTES], &bytes[INDEX_HEADER_BYTES..2 * INDEX_HEADER_BYTES]);
        let is_initialised = first[12] != 0;
        let sums = checksum([0, 0], &first[..40], cfg!(target_endian = "big"));
        if first != second || !is_initialised || sums != [native(first, 40), native(first, 44)] {
            return Ok(None);
        }
        let salts = first[32..40].try_into().expect("eight bytes");
        Ok(Some(Index { frames: native(first, 16), backfilled: native(&bytes, BACKFILLED_AT), salts }))
    }

    /// All frames are in the database.
    fn is_spent(&self) -> bool {
        self.backfilled >= self.frames
    }
}

/// What all frames since the log was begun anew have in common.
struct Generation {
    page_bytes: usize,
    is_big: bool,
    salts: [u8; 8],
    sums: [u32; 2],
}

impl Generation {
    fn read(header: &[u8; HEADER_BYTES]) -> Option<Generation> {
        let magic = big(header, 0);
        let is_big = magic & 1 == 1;
        let page_bytes = big(header, 8) as usize;
        let sums = checksum([0, 0], &header[..24], is_big);
        let is_whole = magic & !1 == MAGIC && sums == [big(header, 24), big(header, 28)];
        if !is_whole || !(512..=65_536).contains(&page_bytes) || !page_bytes.is_power_of_two() {
            return None;
        }
        Some(Generation { page_bytes, is_big, salts: header[16..24].try_into().expect("eight bytes"), sums })
    }

    fn scan(&self, reader: &mut impl Read) -> io::Result<Frames> {
        let mut frame = vec![0; FRAME_HEADER_BYTES + self.page_bytes];
        let mut frames = Frames::default();
        let (mut sums, mut number) = (self.sums, 0);
        while fill(reader, &mut frame)? {
            number += 1;
            let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
            let is_ours = head[8..16] == self.salts;
            let is_commit = big(head, 4) != 0;
            if frames.first_bad.is_none() {
                sums = checksum(checksum(sums, &head[..8], self.is_big), page, self.is_big);
                let is_whole = is_ours && big(head, 0) != 0 && sums == [big(head, 16), big(head, 20)];
                if !is_whole {
                    frames.first_bad = Some(number);
                } else if is_commit {
                    frames.committed = number;
                }
            }
            if frames.first_bad.is_some() && is_ours {
                frames.more_behind_commit |= frames.bad_committed;
                frames.bad_committed |= is_commit;
                frames.more_behind = true;
            }
        }
        Ok(frames)
    }
}

/// What the frames say, counted from 1.
#[derive(Default)]
struct Frames {
    /// The last one that SQLite will take.
    committed: u32,
    first_bad: Option<u32>,
    /// Frames of this generation stand from there on,
    more_behind: bool,
    /// the end of a transaction among them,
    bad_committed: bool,
    /// and a further transaction behind that.
    more_behind_commit: bool,
}

impl Frames {
    fn judge(&self, index: Option<&Index>) -> Log {
        if let Some(index) = index
            && index.frames > self.committed
        {
            return if index.is_spent() { Log::Spent } else { Log::Lost("its log is damaged: confirmed transactions are not in it") };
        }
        if self.more_behind_commit {
            return Log::Lost("its log is damaged: whole transactions stand behind one that is not");
        }
        // What the index counts is whole, and nothing behind it was ever confirmed.
        if self.more_behind && index.is_none() { Log::Torn } else { Log::Whole }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::hub::storage::Change;
    use crate::store::samples::message;
    use crate::store::samples::{Scratch, alias, batch, committed, save};

    /// Copies of a database's three files, in whose log stand five transactions.
    fn left_behind() -> (Scratch, Scratch) {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        for number in 1..=5 {
            let changes = vec![Change::SaveAlias(alias(1, "a")), save(message(number, &"x".repeat(9_000)), &[(1, None)])];
            assert_eq!(database.commit(&batch(number, changes)), committed());
        }
        let copy = Scratch::new();
        std::fs::create_dir(copy.data()).unwrap();
        for name in ["porter.db", "porter.db-wal", "porter.db-shm"] {
            std::fs::copy(scratch.file(name), copy.file(name)).unwrap();
        }
        drop(database);
        (scratch, copy)
    }

    fn look_at(copy: &Scratch, same_boot: bool) -> Log {
        look(&copy.file("porter.db-wal"), &copy.file("porter.db-shm"), same_boot).unwrap()
    }

    fn messages(copy: &Scratch) -> u32 {
        let connection = Connection::open(copy.file("porter.db")).unwrap();
        connection.query_row("SELECT coalesce(sum(json_array_length(heads)), 0) FROM segment", (), |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_log_left_by_a_crash_is_whole() {
        let (_scratch, copy) = left_behind();
        assert_eq!(look_at(&copy, true), Log::Whole);
        std::fs::remove_file(copy.file("porter.db-shm")).unwrap();
        assert_eq!(look_at(&copy, false), Log::Whole);
        assert_eq!(messages(&copy), 5);
    }

    #[test]
    fn wherever_a_bit_is_flipped_sqlite_loses_something_and_this_says_so() {
        let (_scratch, copy) = left_behind();
        let whole = std::fs::read(copy.file("porter.db-wal")).unwrap();
        let shm = std::fs::read(copy.file("porter.db-shm")).unwrap();
        let frames = (whole.len() - HEADER_BYTES) / (FRAME_HEADER_BYTES + 4_096);
        let places = (0..frames).map(|frame| HEADER_BYTES + frame * (FRAME_HEADER_BYTES + 4_096) + 2_000).chain([0, 9, 18, 25]);
        for place in places {
            let mut altered = whole.clone();
            altered[place] ^= 4;
            std::fs::write(copy.file("porter.db-wal"), &altered).unwrap();
            std::fs::write(copy.file("porter.db-shm"), &shm).unwrap();
            assert!(matches!(look_at(&copy, true), Log::Lost(_)), "byte {place}");
            std::fs::remove_file(copy.file("porter.db-shm")).unwrap();
            let alone = look_at(&copy, false);
            // In the last transaction it may as well be the power that went.
            assert!(matches!(alone, Log::Lost(_)) || (alone == Log::Torn && place > whole.len() * 3 / 5), "byte {place}: {alone:?}");
        }
    }

    #[test]
    fn a_log_that_is_cut_is_told_from_one_that_ends() {
        let (_scratch, copy) = left_behind();
        let whole = std::fs::read(copy.file("porter.db-wal")).unwrap();
        for length in [0, 10, HEADER_BYTES, whole.len() / 2, whole.len() - 1] {
            std::fs::write(copy.file("porter.db-wal"), &whole[..length]).unwrap();
            assert!(matches!(look_at(&copy, true), Log::Lost(_)), "{length} bytes");
        }
        std::fs::remove_file(copy.file("porter.db-wal")).unwrap();
        assert!(matches!(look_at(&copy, true), Log::Lost(_)));
        assert_eq!(look_at(&copy, false), Log::Whole, "an index from before a power cut proves nothing");
    }

    #[test]
    fn what_is_in_the_database_already_is_not_lost_with_the_log() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, vec![Change::SaveAlias(alias(1, "a"))])), committed());
        while database.idle() {}
        let mut log = std::fs::read(scratch.file("porter.db-wal")).unwrap();
        log[HEADER_BYTES + 100] ^= 1;
        let copy = Scratch::new();
        std::fs::create_dir(copy.data()).unwrap();
        std::fs::write(copy.file("porter.db-wal"), log).unwrap();
        std::fs::copy(scratch.file("porter.db-shm"), copy.file("porter.db-shm")).unwrap();
        assert_eq!(look_at(&copy, true), Log::Spent);
    }
}
