//! The short way over a JSON object as busy links write it: no whitespace, no nesting, no escapes, numbers that are integers. What it
//! takes is JSON, and it means what serde_json would make of it; for anything else it says no, and serde_json looks.

/// Gives the members of a flat object to `take`: each name without its quotes, each value as the text it was written in. `None`: it
/// is no such object, and what was given so far means nothing.
pub(super) fn members<'a>(text: &'a str, mut take: impl FnMut(&'a str, &'a str)) -> Option<()> {
    // By bytes: asking a `str` for a char at its beginning is a call.
    let bytes = text.as_bytes();
    let mut at = behind(bytes, 0, b'{')?;
    loop {
        let name = at..at + string(&bytes[at..])?;
        let begin = behind(bytes, name.end, b':')?;
        let end = begin + value(&bytes[begin..])?;
        take(&text[name.start + 1..name.end - 1], &text[begin..end]);
        match bytes[end..] {
            [b',', ..] => at = end + 1,
            [b'}'] => return Some(()),
            _ => return None,
        }
    }
}

/// What follows `byte`, if that is what stands at `at`.
fn behind(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    (*bytes.get(at)? == byte).then_some(at + 1)
}

/// Bytes of the value that begins here.
fn value(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' => string(text),
        b'-' | b'0'..=b'9' => integer(text),
        _ => ["true", "false", "null"].into_iter().find(|word| text.starts_with(word.as_bytes())).map(str::len),
    }
}

/// Bytes of the string that begins here, with its quotes.
fn string(text: &[u8]) -> Option<usize> {
    let (b'"', inner) = text.split_first()? else { return None };
    let end = first_special(inner)?;
    (inner[end] == b'"').then_some(end + 2)
}

/// Where the first byte is that is a quote, a backslash or a control character: eight bytes at a time, for a message is long.
fn first_special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    // The top bit of each byte that is less than `limit`, at most 128; of bytes above a smaller one perhaps too, so only the first counts.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & TOPS;
    let equal = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let special = below(word, 0x20) | equal(word, b'"') | equal(word, b'\\');
        if special != 0 {
            return Some(8 * at + special.trailing_zeros() as usize / 8);
        }
    }
    let in_rest = rest.iter().position(|&byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
    Some(8 * words.len() + in_rest)
}

/// Bytes of the integer that begins here. What follows it tells whether it was one: a fraction or an exponent is no end of a member.
fn integer(text: &[u8]) -> Option<usize> {
    let sign = usize::from(text[0] == b'-');
    let digits = text[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0 && (digits == 1 || text[sign] != b'0')).then_some(sign + digits)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::value::RawValue;

    use super::*;
    use crate::seeded::Seeded;

    /// What the short way makes of a text; of equal names the last stays.
    fn short(text: &str) -> Option<HashMap<&str, &str>> {
        let mut found = HashMap::new();
        members(text, |name, value| {
            found.insert(name, value);
        })?;
        Some(found)
    }

    fn assert_agrees(text: &str) {
        let Some(short) = short(text) else { return };
        let long: HashMap<&str, &RawValue> = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(short, long.into_iter().map(|(name, value)| (name, value.get())).collect(), "{text}");
    }

    #[test]
    fn it_knows_flat_objects() {
        let all = r#"{"t":6,"msg":"ring 门","num":-17,"ext":0,"wait":true,"ok":false,"opts":null,"t":7}"#;
        let expected =
            [("t", "7"), ("msg", "\"ring 门\""), ("num", "-17"), ("ext", "0"), ("wait", "true"), ("ok", "false"), ("opts", "null")];
        assert_eq!(short(all), Some(expected.into()));
        for other in [
            "",
            "{",
            "{}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":1}}",
            "{\"a\":1,}",
            "{\"a\":1 }",
            "{\"a\":01}",
            "{\"a\":-}",
            "{\"a\":1.5}",
            "{\"a\":1e3}",
            "{\"a\":[1]}",
            "{\"a\":{}}",
            "{\"a\":\"\\n\"}",
            "{\"a\":\"\u{1}\"}",
            "{\"a\":nul}",
            "{\"a\":truex}",
            "{a:1}",
            "[1]",
        ] {
            assert_eq!(short(other), None, "{other}");
        }
    }

    #[test]
    fn a_special_byte_is_found_wherever_it_stands() {
        let mut seeded = Seeded(2);
        for _ in 0..100_000 {
            let bytes: Vec<u8> =
                (0..seeded.below(40)).map(|_| *seeded.pick(b"a!#[]\x1f\x20\x7f\x80\xff\"\\zzzzzzzzzzzzzzzzzzzzzzzzzz")).collect();
            let expected = bytes.iter().position(|&byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            assert_eq!(first_special(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_it_takes_is_what_serde_json_reads() {
        const PIECES: [&str; 18] =
            ["\"a\"", "\"门\"", "\"\"", ":", ",", "{", "}", "[", "]", "-", "0", "17", "1.5", "true", "null", " ", "\\", "\u{7f}"];
        let mut seeded = Seeded(1);
        for _ in 0..200_000 {
            let mut text = String::from("{\"t\":1");
            for _ in 0..seeded.below(8) {
                text.push_str(PIECES[seeded.below(PIECES.len())]);
            }
            text.push('}');
            assert_agrees(&text);
        }
    }
}
