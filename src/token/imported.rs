//! Fixed strings of older installations that count as tokens, and the text of the file `imported` that keeps them (Protocol §11).
//!
//! Only a keyed fingerprint of each string is kept: whoever reads the file can't log in with what it says.

use std::collections::BTreeMap;

use super::sealed::{self, Damaged};
use super::{Claims, MasterKey, siv};

/// Bytes of the longest fixed string: what fits a path segment beside the rest of a request's head.
pub const FIXED_BYTES_MAX: usize = 1_024;

/// The fingerprints of the admitted strings, and what each of them claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported(BTreeMap<u128, Claims>);

impl Imported {
    /// Reads the file: a line each, the fingerprint in 32 digits, a space, the claims as in a token.
    pub fn parse(key: &MasterKey, text: &str) -> Result<Imported, Damaged> {
        let read = |line: &str| {
            let (print, claims) = line.split_once(' ')?;
            Some((u128::from_str_radix(print, 16).ok()?, Claims::from_plaintext(claims).ok()?))
        };
        sealed::open(key, KIND, text)?.map(|line| read(line).ok_or(Damaged)).collect::<Result<_, _>>().map(Imported)
    }

    /// The file's new text.
    #[must_use]
    pub fn to_text(&self, key: &MasterKey) -> String {
        let lines: Vec<String> = self.0.iter().map(|(print, claims)| format!("{print:032x} {}", claims.to_plaintext())).collect();
        sealed::seal(key, KIND, lines.iter().map(String::as_str))
    }

    /// Admits `fixed` with these claims, in place of those it may have had.
    pub fn add(&mut self, key: &MasterKey, fixed: &str, claims: Claims) {
        self.0.insert(print(key, fixed), claims);
    }

    /// The claims of `fixed`, be they over or not. The fingerprint is keyed, so how long the search takes tells nothing of use.
    #[must_use]
    pub fn find(&self, key: &MasterKey, fixed: &str) -> Option<&Claims> {
        if self.0.is_empty() || fixed.len() > FIXED_BYTES_MAX {
            return None;
        }
        self.0.get(&print(key, fixed))
    }
}

const KIND: &str = "imported";

fn print(key: &MasterKey, fixed: &str) -> u128 {
    siv::fingerprint(&key.fingerprint, fixed.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Alias, Label};
    use crate::token::Role;

    fn claims(alias: Option<&str>) -> Claims {
        let alias = alias.map(|a| Alias::new(a).unwrap());
        Claims { role: Role::Device, label: Label::new("old gate").unwrap(), alias, expires: 7 }
    }

    #[test]
    fn a_fixed_string_is_found_again_and_not_written_down() {
        let key = MasterKey::new([3; 16]);
        let mut imported = Imported::default();
        imported.add(&key, "hunter2hunter2", claims(Some("a|b c|")));
        let text = imported.to_text(&key);
        assert!(!text.contains("hunter2"));
        let again = Imported::parse(&key, &text).unwrap();
        assert_eq!(again.find(&key, "hunter2hunter2"), Some(&claims(Some("a|b c|"))));
        assert_eq!(again.find(&key, "hunter2hunter"), None);
        assert_eq!(again.find(&key, ""), None);
        assert_eq!(again.find(&MasterKey::new([4; 16]), "hunter2hunter2"), None);
    }

    #[test]
    fn importing_again_replaces_the_claims() {
        let key = MasterKey::new([3; 16]);
        let mut imported = Imported::default();
        imported.add(&key, "fixed", claims(Some("a")));
        imported.add(&key, "fixed", claims(None));
        assert_eq!(imported.find(&key, "fixed"), Some(&claims(None)));
        assert_eq!(imported.0.len(), 1);
    }

    #[test]
    fn damage_is_noticed() {
        let key = MasterKey::new([3; 16]);
        let mut imported = Imported::default();
        imported.add(&key, "fixed", claims(None));
        let text = imported.to_text(&key);
        assert_eq!(Imported::parse(&key, &text.replace("device", "manage")), Err(Damaged));
        assert_eq!(Imported::parse(&key, ""), Err(Damaged));
    }
}
