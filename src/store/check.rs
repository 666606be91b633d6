//! A check on each row: SQLite has none of its own in the database file, and a bit that the disk turned would be delivered as if
//! it were true. CRC-32 (the one of zip and Ethernet) over all columns in their order, each text with its length before it.
//! It finds damage, not forgery: whoever can write the file can write the check as well.

/// Tables of eight steps at once: eight times as fast as a byte at a time, and a row costs one per cent of its commit.
static TABLES: [[u32; 256]; 8] = tables();
/// CRC-32, its bits reversed, as everybody has it.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// Stands where a text could stand and is none: no text is so long.
const NO_TEXT: u64 = u64::MAX;

/// The check of a row that is being put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check(u32);

impl Check {
    /// Of a row of that table: the same columns in another table have another check.
    pub(super) fn of(table: &str) -> Check {
        Check(u32::MAX).text(table)
    }

    /// Goes on with a number.
    pub(super) fn number(self, number: u64) -> Check {
        Check(word(self.0, number.to_le_bytes()))
    }

    /// Goes on with a text.
    pub(super) fn text(self, text: &str) -> Check {
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        let crc = words.iter().fold(self.number(text.len() as u64).0, |crc, bytes| word(crc, *bytes));
        Check(rest.iter().fold(crc, |crc, byte| (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)]))
    }

    /// Goes on with a text that may be missing.
    pub(super) fn text_or_null(self, text: Option<&str>) -> Check {
        match text {
            Some(text) => self.text(text),
            None => self.number(NO_TEXT),
        }
    }

    /// The check.
    pub(super) fn end(self) -> u32 {
        !self.0
    }
}

/// Goes on with eight bytes.
fn word(crc: u32, bytes: [u8; 8]) -> u32 {
    let [a, b, c, d] = (crc ^ u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).to_le_bytes();
    let step = |table: usize, byte: u8| TABLES[table][usize::from(byte)];
    let low = step(7, a) ^ step(6, b) ^ step(5, c) ^ step(4, d);
    low ^ step(3, bytes[4]) ^ step(2, bytes[5]) ^ step(1, bytes[6]) ^ step(0, bytes[7])
}

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_crc_32_that_everybody_has() {
        // Without the length, which is written before a text.
        let crc = |bytes: &[u8]| !bytes.iter().fold(u32::MAX, |crc, byte| (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)]);
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
        let by_word = Check(u32::MAX).text("123456789abcdef01");
        assert_eq!(by_word.end(), crc(b"\x11\0\0\0\0\0\0\x00123456789abcdef01"));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let row = |mid: u64, text: &str| Check::of("message").number(mid).text_or_null(Some(text)).text_or_null(None).end();
        let text = "a body of thirty-three bytes, so.";
        let whole = row(77, text);
        for bit in 0..64 {
            assert_ne!(row(77 ^ (1 << bit), text), whole);
        }
        for bit in (0..text.len() * 8).filter(|bit| bit % 8 != 7) {
            let mut bytes = text.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(row(77, std::str::from_utf8(&bytes).unwrap()), whole, "bit {bit}");
        }
    }

    #[test]
    fn columns_do_not_run_into_each_other() {
        let pair = |a: &str, b: &str| Check::of("t").text(a).text(b).end();
        assert_ne!(pair("ab", "c"), pair("a", "bc"));
        assert_ne!(Check::of("t").text("a").end(), Check::of("u").text("a").end());
        assert_ne!(Check::of("t").text_or_null(None).end(), Check::of("t").text_or_null(Some("")).end());
    }
}
