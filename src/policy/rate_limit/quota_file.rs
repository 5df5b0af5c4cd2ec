//! A quota file: own rates of named keys, each named by the SHA-256 of its key.
//!
//! It must not print what stands in the file: somebody may have written a key in place of its digest. Errors name an entry by its
//! number. A file is taken whole or not at all, so that a broken one leaves the one before it in use.

mod read;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::digest::{DigestError, KeyDigest, KeyId};
use super::rate::{Rate, RateError};

/// The longest file, in bytes; that of the largest ConfigMap.
pub const MAX_QUOTA_FILE_BYTES: usize = 1 << 20;

/// The most entries of a file.
pub const MAX_QUOTAS: usize = 10_000;

/// Rates by the digests of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuotaFile {
    rates: HashMap<KeyId, (KeyDigest, Rate)>,
}

/// Why a file can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaFileError {
    /// It is too long.
    #[error("the file has {bytes} bytes, more than {MAX_QUOTA_FILE_BYTES}; split the policy, or leave entries out")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// It is no YAML, or YAML of another shape.
    #[error(
        "the file is no quota file, at line {line}: it holds `quotas:` and below it `<SHA-256>: {{requests: 60, per: 1m, burst: 10}}` for each key"
    )]
    Malformed {
        /// Where, from 1; 0 where that is not known.
        line: usize,
    },
    /// It has too many entries.
    #[error("the file has more than {MAX_QUOTAS} entries; leave some out")]
    TooMany,
    /// An entry is not named by a digest.
    #[error(
        "the name of entry {entry} is not the SHA-256 of a key: {source}; make it with `printf %s KEY | sha256sum`"
    )]
    Name {
        /// Its number, from 1.
        entry: usize,
        /// Why.
        #[source]
        source: DigestError,
    },
    /// Two entries of one digest.
    #[error("entry {entry} has the same name as entry {first}; leave one out")]
    Duplicate {
        /// The number of the second, from 1.
        entry: usize,
        /// That of the first.
        first: usize,
    },
    /// An entry's fields are wrong.
    #[error("entry {entry}: {problem}")]
    Field {
        /// Its number, from 1.
        entry: usize,
        /// What is wrong, and how to mend it.
        problem: &'static str,
    },
    /// An entry's rate can't be kept.
    #[error("entry {entry}: {source}")]
    Rate {
        /// Its number, from 1.
        entry: usize,
        /// Why.
        #[source]
        source: RateError,
    },
}

impl QuotaFile {
    /// Reads a file: YAML, or JSON, which is YAML too.
    ///
    /// # Errors
    /// [`QuotaFileError`] naming the entry and what to do, and nothing that stands in the file.
    pub fn parse(text: &str) -> Result<Self, QuotaFileError> {
        if text.len() > MAX_QUOTA_FILE_BYTES {
            return Err(QuotaFileError::TooLong { bytes: text.len() });
        }
        let mut rates = HashMap::new();
        let mut first = HashMap::new();
        for (number, (name, quota)) in read::entries(text)?.into_iter().enumerate() {
            let entry = number + 1;
            let digest = KeyDigest::parse(&name).map_err(|source| QuotaFileError::Name { entry, source })?;
            if let Some(first) = first.insert(digest.id(), entry) {
                return Err(QuotaFileError::Duplicate { entry, first });
            }
            rates.insert(digest.id(), (digest, read::rate(entry, &quota)?));
        }
        Ok(Self { rates })
    }

    /// A file of these rates, the same for the same entries.
    #[must_use]
    pub fn render<'a>(entries: impl IntoIterator<Item = (&'a KeyDigest, &'a Rate)>) -> String {
        let mut lines: Vec<String> = entries.into_iter().map(|(digest, rate)| line(digest, rate)).collect();
        lines.sort();
        lines.dedup();
        if lines.is_empty() { "quotas: {}\n".into() } else { format!("quotas:\n{}", lines.concat()) }
    }

    /// The rate of a key, if the file names it.
    #[must_use]
    pub fn lookup(&self, key: &KeyDigest) -> Option<&Rate> {
        self.rates.get(&key.id()).filter(|(digest, _)| digest == key).map(|(_, rate)| rate)
    }

    /// The rate of a key of which only the first half of the digest is known.
    #[must_use]
    pub fn lookup_id(&self, key: KeyId) -> Option<&Rate> {
        self.rates.get(&key).map(|(_, rate)| rate)
    }

    /// How many keys it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rates.len()
    }

    /// Whether it names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }
}

impl QuotaFileError {
    /// The stable word for conditions, Events and metric labels.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "TooLong",
            Self::Malformed { .. } => "Malformed",
            Self::TooMany => "TooMany",
            Self::Name { .. } => "NotADigest",
            Self::Duplicate { .. } => "Duplicate",
            Self::Field { .. } => "InvalidQuota",
            Self::Rate { source, .. } => source.reason(),
        }
    }
}

fn line(digest: &KeyDigest, rate: &Rate) -> String {
    let (requests, burst) = (rate.requests(), rate.burst());
    format!("  {digest}: {{requests: {requests}, per: {}, burst: {burst}}}\n", written(rate.per()))
}

/// As GEP-2257 writes it, at most five digits a part.
fn written(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= length {
            // Writing to a string can't fail.
            let _ = write!(text, "{}{unit}", rest / length);
            rest %= length;
        }
    }
    text
}
