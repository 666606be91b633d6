//! Tokens: who may do what, as a text that nobody can make or alter without the master key (Protocol §11).
//!
//! Pure: no files, no clock, no log. `runtime::keyring` reads and writes the files, and is told the time.

pub mod imported;
pub mod revoked;
pub mod sealed;
pub(crate) mod siv;

use std::fmt;

use subtle::ConstantTimeEq;

use crate::names::{Alias, Label};
use crate::token::siv::{Cipher, KEY_BYTES, TAG_BYTES};

/// Hexadecimal digits of the longest token that is looked at (Protocol §11).
pub const TOKEN_DIGITS_MAX: usize = 1_040;

/// What the bearer of a token may do in general.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// All of REST, and all that a device may, as any alias.
    Manage,
    /// Every frame towards any receiver or room; binds only the alias of its token, or any if that is empty.
    Device,
}

impl Role {
    /// The word inside tokens and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Manage => "manage",
            Role::Device => "device",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn parse(word: &str) -> Option<Role> {
        [Role::Manage, Role::Device].into_iter().find(|role| role.as_str() == word)
    }
}

/// What a token says of its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// What the bearer may do.
    pub role: Role,
    /// Whom the token was given to; revoking goes by it.
    pub label: Label,
    /// The only alias that it binds; `None`: any.
    pub alias: Option<Alias>,
    /// When it stops to be valid, in seconds since 1970; 0: never.
    pub expires: u64,
}

impl Claims {
    /// Whether it is over at `now_s`, in seconds since 1970: at the very second of `expires` it is.
    #[must_use]
    pub const fn expired(&self, now_s: u64) -> bool {
        self.expires != 0 && now_s >= self.expires
    }

    /// The claims as the plaintext of a token.
    fn to_plaintext(&self) -> String {
        let alias = self.alias.as_ref().map_or("", Alias::as_str);
        format!("{VERSION}|{}|{}|{alias}|{}", self.role.as_str(), self.label, self.expires)
    }

    /// Reads a plaintext: three fields from the left, the expiry after the last `|`, the alias between, which may hold a `|` itself.
    fn from_plaintext(plaintext: &str) -> Result<Claims, BadToken> {
        let (version, rest) = plaintext.split_once('|').ok_or(BadToken::Claims)?;
        if version != VERSION {
            return Err(BadToken::Version);
        }
        let (role, rest) = rest.split_once('|').ok_or(BadToken::Claims)?;
        let (label, rest) = rest.split_once('|').ok_or(BadToken::Claims)?;
        let (alias, expires) = rest.rsplit_once('|').ok_or(BadToken::Claims)?;
        if !expires.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadToken::Claims);
        }
        Ok(Claims {
            role: Role::parse(role).ok_or(BadToken::Claims)?,
            label: Label::new(label).map_err(|_| BadToken::Claims)?,
            alias: if alias.is_empty() { None } else { Some(Alias::new(alias).map_err(|_| BadToken::Claims)?) },
            expires: expires.parse().map_err(|_| BadToken::Claims)?,
        })
    }
}

/// Why a token is refused. Peers hear `bad_token` in every case; the words here are for the log and the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BadToken {
    /// Not lower-case hexadecimal of an even number of digits, too short or too long.
    Format,
    /// Altered, cut, or made under another master key.
    Tag,
    /// Genuine, but of a version that this server does not know.
    Version,
    /// Genuine, but its claims break the rules.
    Claims,
    /// Genuine, but over.
    Expired,
    /// Genuine, but its label is revoked.
    Revoked,
    /// The master key or a file beside it is missing, unreadable or damaged: no token is valid.
    NoKey,
}

impl BadToken {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            BadToken::Format => "bad_format",
            BadToken::Tag => "bad_tag",
            BadToken::Version => "bad_version",
            BadToken::Claims => "bad_claims",
            BadToken::Expired => "expired",
            BadToken::Revoked => "revoked",
            BadToken::NoKey => "no_key",
        }
    }
}

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The 16 bytes that all tokens of a server hang on, and the keys derived from them.
pub struct MasterKey {
    master: [u8; KEY_BYTES],
    /// K1.
    tag: Cipher,
    /// K2.
    stream: Cipher,
    /// What turns imported fixed strings into fingerprints.
    fingerprint: [Cipher; 2],
    /// What guards the files beside the key.
    files: [Cipher; 2],
}

impl MasterKey {
    /// The key made of these bytes, which should come from the system's random source.
    #[must_use]
    pub fn new(master: [u8; KEY_BYTES]) -> MasterKey {
        let cipher = Cipher::new(&master);
        let derived = |first| Cipher::new(&siv::derive(&cipher, first));
        MasterKey {
            master,
            tag: derived(0x01),
            stream: derived(0x03),
            fingerprint: [derived(0x05), derived(0x07)],
            files: [derived(0x09), derived(0x0b)],
        }
    }

    /// Reads the file `master.key`: 32 lower-case hexadecimal digits and a line feed, which editors may have taken away.
    #[must_use]
    pub fn parse(text: &str) -> Option<MasterKey> {
        let digits = text.strip_suffix('\n').unwrap_or(text);
        decode_hex(digits)?.try_into().ok().map(MasterKey::new)
    }

    /// The text of the file `master.key`. Nothing else may ever see it.
    #[must_use]
    pub fn to_text(&self) -> String {
        encode_hex(&self.master) + "\n"
    }
}

impl PartialEq for MasterKey {
    fn eq(&self, other: &MasterKey) -> bool {
        self.master.ct_eq(&other.master).into()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// The token that carries `claims`: the same claims give the same token.
#[must_use]
pub fn issue(key: &MasterKey, claims: &Claims) -> String {
    encode_hex(&siv::seal(&key.tag, &key.stream, claims.to_plaintext().as_bytes()))
}

/// The claims of a genuine token, be it over, revoked or good: `runtime::keyring` tells these apart.
pub fn read(key: &MasterKey, token: &str) -> Result<Claims, BadToken> {
    if token.len() > TOKEN_DIGITS_MAX || token.len() <= 2 * TAG_BYTES {
        return Err(BadToken::Format);
    }
    let sealed = decode_hex(token).ok_or(BadToken::Format)?;
    let plaintext = siv::open(&key.tag, &key.stream, &sealed).ok_or(BadToken::Tag)?;
    Claims::from_plaintext(std::str::from_utf8(&plaintext).map_err(|_| BadToken::Claims)?)
}

const VERSION: &str = "v1";

fn encode_hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Lower-case digits in pairs, and nothing else.
fn decode_hex(text: &str) -> Option<Vec<u8>> {
    const NO_DIGIT: u8 = 0xff;
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => NO_DIGIT,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let all_digits = rest.is_empty() && text.bytes().all(|digit| nibble(digit) != NO_DIGIT);
    all_digits.then(|| pairs.iter().map(|[high, low]| nibble(*high) << 4 | nibble(*low)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// As whoever is asked to let somebody in, where nothing is revoked.
    fn verify(key: &MasterKey, token: &str, now_s: u64) -> Result<Claims, BadToken> {
        read(key, token).and_then(|claims| if claims.expired(now_s) { Err(BadToken::Expired) } else { Ok(claims) })
    }

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../fixtures/tokens.json")).unwrap()
    }

    fn text<'a>(vector: &'a Value, member: &str) -> &'a str {
        vector[member].as_str().unwrap()
    }

    fn key(vector: &Value) -> MasterKey {
        MasterKey::parse(text(vector, "master")).unwrap()
    }

    #[test]
    fn the_cipher_reads_little_endian_words() {
        let check = &vectors()["block_check"];
        let bytes = |member| decode_hex(text(check, member)).unwrap();
        let cipher = Cipher::new(&bytes("key").try_into().unwrap());
        let block = cipher.encrypt(u64::from_be_bytes(bytes("plaintext").try_into().unwrap()));
        assert_eq!(block.to_be_bytes().to_vec(), bytes("ciphertext"));
    }

    #[test]
    fn keys_are_derived_as_published() {
        for vector in vectors()["keys"].as_array().unwrap() {
            let master = Cipher::new(&key(vector).master);
            assert_eq!(encode_hex(&siv::derive(&master, 1)), text(vector, "k1"));
            assert_eq!(encode_hex(&siv::derive(&master, 3)), text(vector, "k2"));
        }
    }

    #[test]
    fn valid_vectors_are_issued_and_verified() {
        let vectors = vectors();
        let now = vectors["now"].as_u64().unwrap();
        for vector in vectors["valid"].as_array().unwrap() {
            let claims = Claims {
                role: Role::parse(text(vector, "role")).unwrap(),
                label: Label::new(text(vector, "label")).unwrap(),
                alias: Some(text(vector, "alias")).filter(|a| !a.is_empty()).map(|a| Alias::new(a).unwrap()),
                expires: vector["expiry"].as_u64().unwrap(),
            };
            assert_eq!(claims.to_plaintext(), text(vector, "plaintext"));
            assert_eq!(issue(&key(vector), &claims), text(vector, "token"));
            assert_eq!(verify(&key(vector), text(vector, "token"), now), Ok(claims));
        }
    }

    #[test]
    fn invalid_vectors_are_refused_for_their_reason() {
        let vectors = vectors();
        let now = vectors["now"].as_u64().unwrap();
        for vector in vectors["invalid"].as_array().unwrap() {
            let refused = verify(&key(vector), text(vector, "token"), now).unwrap_err();
            assert_eq!(refused.as_str(), text(vector, "error"), "{}", text(vector, "why"));
        }
    }

    #[test]
    fn what_is_no_token_is_refused_by_its_format() {
        let key = MasterKey::new([7; 16]);
        let long = "ab".repeat(TOKEN_DIGITS_MAX / 2);
        for (token, why) in [
            ("", BadToken::Format),
            ("0011223344556677", BadToken::Format),
            ("001122334455667788", BadToken::Tag),
            ("00112233445566778", BadToken::Format),
            ("00112233445566778g", BadToken::Format),
            ("门门门门门门门门", BadToken::Format),
            (&long, BadToken::Tag),
            (&format!("{long}ab"), BadToken::Format),
        ] {
            assert_eq!(verify(&key, token, 0), Err(why), "{token}");
        }
    }

    #[test]
    fn a_token_is_over_at_the_second_of_its_expiry() {
        let key = MasterKey::new([7; 16]);
        let claims = Claims { role: Role::Manage, label: Label::new("l").unwrap(), alias: None, expires: 100 };
        let token = issue(&key, &claims);
        assert!(verify(&key, &token, 99).is_ok());
        assert_eq!(verify(&key, &token, 100), Err(BadToken::Expired));
        assert!(read(&key, &token).is_ok());
    }

    #[test]
    fn genuine_plaintexts_that_break_the_rules_are_refused() {
        for (plaintext, why) in [
            ("v1", BadToken::Claims),
            ("v1|manage", BadToken::Claims),
            ("v1|manage|l|0", BadToken::Claims),
            ("v1|root|l||0", BadToken::Claims),
            ("v1|manage|||0", BadToken::Claims),
            ("v1|manage|l||", BadToken::Claims),
            ("v1|manage|l||+5", BadToken::Claims),
            ("v1|manage|l||-1", BadToken::Claims),
            ("v1|manage|l||18446744073709551616", BadToken::Claims),
            ("v1|manage|l|a\u{7}b|0", BadToken::Claims),
            ("v10|manage|l||0", BadToken::Version),
            ("|manage|l||0", BadToken::Version),
        ] {
            assert_eq!(Claims::from_plaintext(plaintext), Err(why), "{plaintext}");
        }
        assert_eq!(Claims::from_plaintext("v1|device|l|a|b||18446744073709551615").unwrap().alias.unwrap().as_str(), "a|b|");
    }

    #[test]
    fn the_key_file_is_read_strictly_and_never_shown() {
        let key = MasterKey::new([0xa5; 16]);
        assert_eq!(MasterKey::parse(&key.to_text()), Some(key));
        for bad in
            ["", "\n", "a5\n", &"A5".repeat(16), &format!("{}\n\n", "a5".repeat(16)), &"a5".repeat(17), &format!(" {}", "a5".repeat(16))]
        {
            assert_eq!(MasterKey::parse(bad), None, "{bad:?}");
        }
        assert!(!format!("{:?}", MasterKey::new([0xa5; 16])).contains("a5"));
    }
}
