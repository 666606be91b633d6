//! The labels that were revoked, and the text of the file `revoked` that keeps them (Protocol §11).

use std::collections::BTreeSet;

use super::MasterKey;
use super::sealed::{self, Damaged};
use crate::names::Label;

/// Revoked labels. Nothing is ever taken out: a label once revoked stays so, and a new token needs a new label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked(BTreeSet<Label>);

impl Revoked {
    /// Reads the file.
    pub fn parse(key: &MasterKey, text: &str) -> Result<Revoked, Damaged> {
        sealed::open(key, KIND, text)?.map(|line| Label::new(line).map_err(|_| Damaged)).collect::<Result<_, _>>().map(Revoked)
    }

    /// The file's new text.
    #[must_use]
    pub fn to_text(&self, key: &MasterKey) -> String {
        sealed::seal(key, KIND, self.0.iter().map(Label::as_str))
    }

    /// Adds a label; false if it was there.
    pub fn add(&mut self, label: Label) -> bool {
        self.0.insert(label)
    }

    /// Whether tokens of that label are refused.
    #[must_use]
    pub fn contains(&self, label: &Label) -> bool {
        self.0.contains(label)
    }

    /// All of them, in the order of their bytes.
    pub fn labels(&self) -> impl Iterator<Item = &Label> {
        self.0.iter()
    }
}

const KIND: &str = "revoked";

#[cfg(test)]
mod tests {
    use super::*;

    fn revoked(labels: &[&str]) -> Revoked {
        Revoked(labels.iter().map(|l| Label::new(l).unwrap()).collect())
    }

    #[test]
    fn the_file_gives_back_what_was_written() {
        let key = MasterKey::new([3; 16]);
        for labels in [&[][..], &["gate"], &["gate", "seal 00", "三号楼", " spaced "]] {
            let text = revoked(labels).to_text(&key);
            assert_eq!(Revoked::parse(&key, &text), Ok(revoked(labels)), "{text}");
        }
    }

    #[test]
    fn a_flipped_bit_a_cut_and_an_addition_are_damage() {
        let key = MasterKey::new([3; 16]);
        let text = revoked(&["gate", "admin", "三号楼"]).to_text(&key);
        for bit in 0..text.len() * 8 {
            let mut altered = text.clone().into_bytes();
            altered[bit / 8] ^= 1 << (bit % 8);
            // What is no UTF-8 any more does not get as far as here.
            if let Ok(altered) = String::from_utf8(altered) {
                assert_eq!(Revoked::parse(&key, &altered), Err(Damaged), "bit {bit}");
            }
        }
        for len in (0..text.len()).filter(|len| text.is_char_boundary(*len)) {
            assert_eq!(Revoked::parse(&key, &text[..len]), Err(Damaged), "length {len}");
        }
        assert_eq!(Revoked::parse(&key, &format!("{text}x\n")), Err(Damaged));
        assert_eq!(Revoked::parse(&key, &format!("{text}{text}")), Err(Damaged));
    }

    #[test]
    fn the_file_of_another_key_or_kind_is_damage() {
        let key = MasterKey::new([3; 16]);
        assert_eq!(Revoked::parse(&MasterKey::new([4; 16]), &revoked(&["gate"]).to_text(&key)), Err(Damaged));
        assert_eq!(Revoked::parse(&key, &sealed::seal(&key, "imported", ["gate"].into_iter())), Err(Damaged));
    }
}
