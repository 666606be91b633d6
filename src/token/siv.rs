//! The cryptography of tokens: CMAC and counter mode over XTEA, put together as SIV (Protocol §11). The vectors in `fixtures/tokens.json` bind it.
//!
//! It turns bytes into bytes and knows nothing of claims, files or hexadecimal text. Numbers are big-endian here; that the
//! cipher itself reads little-endian words is the `xtea` crate's affair and must stay so, or other tokens come out.

use subtle::ConstantTimeEq;
use xtea::Xtea;
use xtea::cipher::{Array, BlockCipherEncrypt, KeyInit};

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 16;
/// Bytes of a block and of a tag.
pub(crate) const TAG_BYTES: usize = 8;

/// XTEA under one key.
pub(crate) struct Cipher(Xtea);

impl Cipher {
    /// The cipher under `key`.
    pub(crate) fn new(key: &[u8; KEY_BYTES]) -> Cipher {
        Cipher(Xtea::new(&Array(*key)))
    }

    /// One block, as a big-endian number.
    pub(crate) fn encrypt(&self, block: u64) -> u64 {
        let mut bytes = Array(block.to_be_bytes());
        self.0.encrypt_block(&mut bytes);
        u64::from_be_bytes(bytes.0)
    }

    /// The CMAC of `message` (Rb is 0x1B for blocks of 64 bits).
    pub(crate) fn cmac(&self, message: &[u8]) -> u64 {
        let whole_key = double(self.encrypt(0));
        // The last block, full or not, is masked; an empty message is one empty block.
        let blocks_before = message.len().div_ceil(TAG_BYTES).saturating_sub(1);
        let (before, tail) = message.split_at(blocks_before * TAG_BYTES);
        let chained = before.chunks_exact(TAG_BYTES).fold(0, |state, block| self.encrypt(state ^ number(block)));
        let masked = if tail.len() == TAG_BYTES {
            number(tail) ^ whole_key
        } else {
            number(tail) ^ (0x80 << (56 - 8 * tail.len())) ^ double(whole_key)
        };
        self.encrypt(chained ^ masked)
    }

    /// XORs `text` with the keystream whose block i is E(`start` + i mod 2^64).
    fn apply_keystream(&self, start: u64, text: &mut [u8]) {
        for (i, block) in (0u64..).zip(text.chunks_mut(TAG_BYTES)) {
            let stream = self.encrypt(start.wrapping_add(i)).to_be_bytes();
            block.iter_mut().zip(stream).for_each(|(byte, key)| *byte ^= key);
        }
    }
}

/// The key that belongs to the constants `first` and `first + 1`: CMAC(master, first 00×7) ‖ CMAC(master, first+1 00×7).
pub(crate) fn derive(master: &Cipher, first: u8) -> [u8; KEY_BYTES] {
    let half = |constant: u8| u128::from(master.cmac(&[constant, 0, 0, 0, 0, 0, 0, 0]));
    (half(first) << 64 | half(first + 1)).to_be_bytes()
}

/// The tag of `plaintext` under `authentic`, then its ciphertext under `secret`.
pub(crate) fn seal(authentic: &Cipher, secret: &Cipher, plaintext: &[u8]) -> Vec<u8> {
    let tag = authentic.cmac(plaintext);
    let mut sealed = tag.to_be_bytes().to_vec();
    sealed.extend_from_slice(plaintext);
    secret.apply_keystream(tag, &mut sealed[TAG_BYTES..]);
    sealed
}

/// The plaintext of what [`seal`] made under the same keys; of anything else `None`. The tag is compared in constant time,
/// before anybody looks at the plaintext.
pub(crate) fn open(authentic: &Cipher, secret: &Cipher, sealed: &[u8]) -> Option<Vec<u8>> {
    let (tag, ciphertext) = sealed.split_first_chunk::<TAG_BYTES>()?;
    let mut plaintext = ciphertext.to_vec();
    secret.apply_keystream(u64::from_be_bytes(*tag), &mut plaintext);
    let genuine = authentic.cmac(&plaintext).to_be_bytes().ct_eq(tag);
    bool::from(genuine).then_some(plaintext)
}

/// 128 bits that nobody can foresee or collide without both keys.
pub(crate) fn fingerprint(keys: &[Cipher; 2], message: &[u8]) -> u128 {
    u128::from(keys[0].cmac(message)) << 64 | u128::from(keys[1].cmac(message))
}

/// Doubling in GF(2^64), which gives CMAC its masks.
fn double(x: u64) -> u64 {
    (x << 1) ^ if x >> 63 == 1 { 0x1b } else { 0 }
}

/// Up to eight bytes as a big-endian number, zeros behind them.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().zip(0..TAG_BYTES).fold(0, |sum, (byte, i)| sum | u64::from(*byte) << (56 - 8 * i))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (Cipher, Cipher) {
        (Cipher::new(&[1; 16]), Cipher::new(&[2; 16]))
    }

    #[test]
    fn what_is_sealed_opens_at_every_length() {
        let (authentic, secret) = keys();
        for len in 0..40u8 {
            let text: Vec<u8> = (0..len).collect();
            let sealed = seal(&authentic, &secret, &text);
            assert_eq!(sealed.len(), TAG_BYTES + text.len());
            assert_eq!(open(&authentic, &secret, &sealed).as_deref(), Some(&text[..]));
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_is_noticed() {
        let (authentic, secret) = keys();
        let sealed = seal(&authentic, &secret, b"v1|manage|admin||0");
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&authentic, &secret, &altered), None, "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert_eq!(open(&authentic, &secret, &sealed[..len]), None, "length {len}");
        }
    }

    #[test]
    fn the_counter_wraps_at_64_bits() {
        let (_, secret) = keys();
        let mut text = [0u8; 16];
        secret.apply_keystream(u64::MAX, &mut text);
        assert_eq!(text[..8], secret.encrypt(u64::MAX).to_be_bytes());
        assert_eq!(text[8..], secret.encrypt(0).to_be_bytes());
    }

    #[test]
    fn padding_does_not_collide_with_the_same_bytes_written_out() {
        let (authentic, _) = keys();
        assert_ne!(authentic.cmac(b"abc"), authentic.cmac(b"abc\x80"));
        assert_ne!(authentic.cmac(b""), authentic.cmac(b"\0"));
        assert_ne!(authentic.cmac(b"abc"), authentic.cmac(b"abc\x80\0\0\0\0"));
    }
}
