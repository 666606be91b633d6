//! A check on each row: SQLite has none of its own in the database file, and a bit that the disk turned would be delivered as if
//! it were true. CRC-32 (the one of zip and Ethernet) over all columns in their order, each text with its length before it.
//! It finds damage, not forgery: whoever can write the file can write the check as well.

/// Bytes that one step takes at most: the next step waits for this one's end, however many bytes it looks up at once.
const STEP_BYTES: usize = 16;
/// The table of each byte of a step, the last one's first.
static TABLES: [[u32; 256]; STEP_BYTES] = tables();
/// CRC-32, its bits reversed, as everybody has it.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// Stands where a text could stand and is none: no text is so long.
const NO_TEXT: u64 = u64::MAX;

/// The check of a row that is being put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check(u32);

impl Check {
    /// Of a row of that table: the same columns in another table have another check.
    pub(super) const fn of(table: &str) -> Check {
        Check(u32::MAX).text(table)
    }

    /// Goes on with a number.
    pub(super) const fn number(self, number: u64) -> Check {
        Check(step(self.0, number.to_le_bytes()))
    }

    /// Goes on with a text.
    pub(super) const fn text(self, text: &str) -> Check {
        let mut crc = self.number(text.len() as u64).0;
        let mut rest = text.as_bytes();
        while let Some((bytes, behind)) = rest.split_first_chunk::<STEP_BYTES>() {
            crc = step(crc, *bytes);
            rest = behind;
        }
        if let Some((bytes, behind)) = rest.split_first_chunk::<8>() {
            crc = step(crc, *bytes);
            rest = behind;
        }
        if let Some((bytes, behind)) = rest.split_first_chunk::<4>() {
            crc = step(crc, *bytes);
            rest = behind;
        }
        while let Some((byte, behind)) = rest.split_first() {
            crc = (crc >> 8) ^ TABLES[0][(crc as u8 ^ *byte) as usize];
            rest = behind;
        }
        Check(crc)
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

/// Goes on with `N` bytes, 4 to [`STEP_BYTES`] of them.
const fn step<const N: usize>(crc: u32, bytes: [u8; N]) -> u32 {
    let first = (crc ^ u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).to_le_bytes();
    let mut sum = 0;
    let mut at = 0;
    while at < N {
        let byte = if at < 4 { first[at] } else { bytes[at] };
        sum ^= TABLES[N - 1 - at][byte as usize];
        at += 1;
    }
    sum
}

const fn tables() -> [[u32; 256]; STEP_BYTES] {
    let mut tables = [[0; 256]; STEP_BYTES];
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
    while table < STEP_BYTES {
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
        let text = "123456789abcdef0".repeat(4);
        for len in 0..text.len() {
            let by_byte = [&(len as u64).to_le_bytes(), &text.as_bytes()[..len]].concat();
            assert_eq!(Check(u32::MAX).text(&text[..len]).end(), crc(&by_byte), "{len} bytes");
        }
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
