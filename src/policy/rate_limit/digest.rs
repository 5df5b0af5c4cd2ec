//! Who a client is: the digest of what tells it from others, and how a key may be shown.
//!
//! It must not keep a key: buckets, stores, reports and commands know digests alone, so that a key that is a secret
//! stands in none of them.

use std::fmt;

use sha2::{Digest, Sha256};

/// Characters shown at either end of a redacted part.
const SHOWN_CHARACTERS: usize = 2;

/// A part with fewer characters is not shown at all, since the ones that are shown would say too much of it.
const LEAST_SHOWN: usize = 12;

/// The longest text of a redacted key, in characters.
pub const MAX_REDACTED_CHARACTERS: usize = 128;

/// The fewest hexadecimal digits that name a client in a command.
pub const LEAST_PREFIX_DIGITS: usize = 16;

/// The digest of a key: SHA-256 of its one part, or of the digests of its parts in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest([u8; 32]);

/// The first 128 bits of a [`KeyDigest`], by which buckets are found.
///
/// Two words rather than one of 128 bits, which would make every bucket as wide as its alignment asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    high: u64,
    low: u64,
}

/// The first digits of a digest, as a person gives them to name a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPrefix {
    bits: u128,
    mask: u128,
}

/// Why a text is not the beginning of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// It is too short or too long.
    #[error("a digest has {LEAST_PREFIX_DIGITS} to 64 hexadecimal digits, not {digits}")]
    Length {
        /// How many there are.
        digits: usize,
    },
    /// It has a character that is no hexadecimal digit.
    #[error("a digest has hexadecimal digits only; character {position} is none")]
    NotHexadecimal {
        /// Where, from 1.
        position: usize,
    },
}

/// The digest of a key's parts; that of none is the digest of an empty text, one bucket for all.
#[must_use]
pub fn digest(parts: &[&[u8]]) -> KeyDigest {
    match parts {
        [] => KeyDigest(Sha256::digest([]).into()),
        [part] => KeyDigest(Sha256::digest(part).into()),
        parts => {
            let mut all = Sha256::new();
            for part in parts {
                all.update(Sha256::digest(part));
            }
            KeyDigest(all.finalize().into())
        }
    }
}

/// A key's parts with all but the ends hidden, for people: two characters at either end of a part that is long enough.
#[must_use]
pub fn redacted(parts: &[&[u8]]) -> String {
    let mut text = String::new();
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            text.push('/');
        }
        redact(part, &mut text);
    }
    text.chars().take(MAX_REDACTED_CHARACTERS).collect()
}

impl KeyDigest {
    /// Requests that lack a part of the key share this one. No key has it, since nobody knows a text with this SHA-256.
    pub const MISSING_KEY: Self = Self([0; 32]);

    /// Keys that a quota file does not name share this one, where they share.
    pub const UNKNOWN_KEY: Self = Self([0xff; 32]);

    /// The first 128 bits.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let (high, low) = (&self.0[..8], &self.0[8..16]);
        KeyId { high: word(high), low: word(low) }
    }

    /// All 64 hexadecimal digits, as `sha256sum` writes them.
    #[must_use]
    pub fn hex(&self) -> String {
        self.to_string()
    }

    /// The first 16 hexadecimal digits, by which people name a client.
    #[must_use]
    pub fn short_hex(&self) -> String {
        self.id().short_hex()
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`DigestError`] without the text, which may be a key that somebody wrote in place of its digest.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        if text.len() != 64 {
            return Err(DigestError::Length { digits: text.chars().count() });
        }
        let mut bytes = [0; 32];
        for (position, character) in text.bytes().enumerate() {
            bytes[position / 2] = bytes[position / 2] << 4 | hexadecimal(character, position)?;
        }
        Ok(Self(bytes))
    }
}

impl KeyId {
    /// As one number.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// The first 16 hexadecimal digits of the digest.
    #[must_use]
    pub fn short_hex(self) -> String {
        format!("{:016x}", self.high)
    }

    /// Both words.
    pub(super) const fn words(self) -> (u64, u64) {
        (self.high, self.low)
    }
}

impl From<u128> for KeyId {
    #[allow(clippy::cast_possible_truncation, reason = "the two halves are taken apart")]
    fn from(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }
}

impl KeyPrefix {
    /// Reads 16 to 64 hexadecimal digits; those after the 32nd name nothing more.
    ///
    /// # Errors
    /// [`DigestError`] when it has too few or too many characters, or others.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let digits = text.chars().count();
        if !(LEAST_PREFIX_DIGITS..=64).contains(&digits) {
            return Err(DigestError::Length { digits });
        }
        let mut bits: u128 = 0;
        for (position, character) in text.bytes().enumerate() {
            let digit = hexadecimal(character, position)?;
            if position < 32 {
                bits = bits << 4 | u128::from(digit);
            }
        }
        let unknown = 4 * (32 - digits.min(32));
        Ok(Self { bits: bits << unknown, mask: u128::MAX << unknown })
    }

    /// Whether the client's digest begins so.
    #[must_use]
    pub const fn matches(&self, id: KeyId) -> bool {
        id.as_u128() & self.mask == self.bits
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}{:016x}", self.high, self.low)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn hexadecimal(character: u8, position: usize) -> Result<u8, DigestError> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        b'A'..=b'F' => Ok(character - b'A' + 10),
        _ => Err(DigestError::NotHexadecimal { position: position + 1 }),
    }
}

/// Control characters and what is no UTF-8 never reach a terminal or a log.
fn redact(part: &[u8], text: &mut String) {
    let part = String::from_utf8_lossy(part);
    let characters = part.chars().take(LEAST_SHOWN).count();
    if characters < LEAST_SHOWN {
        text.push_str("***");
        return;
    }
    let shown = |character: char| if character.is_control() { '?' } else { character };
    text.extend(part.chars().take(SHOWN_CHARACTERS).map(shown));
    text.push_str("***");
    let mut last: Vec<char> = part.chars().rev().take(SHOWN_CHARACTERS).map(shown).collect();
    last.reverse();
    text.extend(last);
}
