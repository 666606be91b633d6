//! The form of the files beside the master key: lines of text under a seal, so that no damage goes unnoticed (Protocol §11).
//!
//! ```text
//! porter revoked 1
//! gate
//! 三号楼门禁
//! seal 0123456789abcdef0123456789abcdef
//! ```
//! The seal is 128 bits keyed by the master key, over all bytes before it: a changed, lost or added line, a file cut short and
//! a file of another server are all the same: damaged. What the lines mean is the business of `revoked` and `imported`.

use std::fmt;

use subtle::ConstantTimeEq;

use super::{MasterKey, siv};

/// The file is not what was written under this master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("damaged, or written under another master key")
    }
}

/// The text of a file of that `kind`. No line may hold a line feed.
pub(super) fn seal<'a>(key: &MasterKey, kind: &str, lines: impl Iterator<Item = &'a str>) -> String {
    let mut text = format!("porter {kind} 1\n");
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    let seal = seal_line(key, &text);
    text + &seal
}

/// The lines of a file of that `kind`.
pub(super) fn open<'a>(key: &MasterKey, kind: &str, text: &'a str) -> Result<std::str::Lines<'a>, Damaged> {
    let without_end = text.strip_suffix('\n').ok_or(Damaged)?;
    let seal_at = without_end.rfind('\n').ok_or(Damaged)? + 1;
    let (content, seal) = text.split_at(seal_at);
    if !bool::from(seal_line(key, content).as_bytes().ct_eq(seal.as_bytes())) {
        return Err(Damaged);
    }
    let lines = content.strip_prefix("porter ").and_then(|rest| rest.strip_prefix(kind)).and_then(|rest| rest.strip_prefix(" 1\n"));
    lines.map(str::lines).ok_or(Damaged)
}

fn seal_line(key: &MasterKey, content: &str) -> String {
    format!("seal {:032x}\n", siv::fingerprint(&key.files, content.as_bytes()))
}
