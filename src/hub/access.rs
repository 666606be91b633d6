//! Who may do what: claims and patterns against a request (Protocol §7, §11).

use crate::names::Alias;
use crate::protocol::refusal::{Code, Refusal};
use crate::token::{Claims, Role};

/// `door.openers`: patterns on aliases and token labels, `*` for any text. Empty: everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Openers(Vec<String>);

impl Openers {
    /// The patterns as configured.
    #[must_use]
    pub fn new(patterns: Vec<String>) -> Openers {
        Openers(patterns)
    }

    /// Whether a link with that alias and these claims may open doors. A manage token always may.
    #[must_use]
    pub fn allow(&self, alias: Option<&Alias>, claims: Option<&Claims>) -> bool {
        let named = |name: &str| self.0.iter().any(|pattern| matches(pattern, name));
        self.0.is_empty()
            || claims.is_some_and(|claims| claims.role == Role::Manage || named(claims.label.as_str()))
            || alias.is_some_and(|alias| named(alias.as_str()))
    }
}

/// Whether `text` matches `pattern`, in which each `*` stands for any text, also none.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// Whether claims let a link bind `alias`: a device token with an alias binds only that one.
pub(super) fn may_bind(claims: Option<&Claims>, alias: &Alias) -> Result<(), Refusal> {
    match claims {
        Some(Claims { role: Role::Device, alias: Some(own), .. }) if own != alias => Err(Refusal::new(Code::Forbidden, "alias")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, expected) in [
            ("guard", "guard", true),
            ("guard", "guard2", false),
            ("guard*", "guard2", true),
            ("*-pc", "guard-pc", true),
            ("*-pc", "guard-pc2", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
            ("门*", "门-3", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
