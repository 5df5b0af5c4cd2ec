//! The entries of a quota file as they stand there, in bounds.
//!
//! It must not let an error of the parser out: such errors quote what they did not expect.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_yaml::Value;

use super::super::rate::Rate;
use super::{MAX_QUOTAS, QuotaFileError};

/// What the visitor says where there are too many entries; the parser passes it on as text.
const TOO_MANY: &str = "fusebox: too many entries";

/// The units of a duration, longest first, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("ms", 1), ("m", 60_000), ("s", 1_000)];

const MAX_PARTS: usize = 4;
const MAX_DIGITS: usize = 5;

const SHAPE: &str = "it is not like {requests: 60, per: 1m, burst: 10}";
const REQUESTS: &str = "requests is not a whole number; set it to one like 60";
const PER: &str = "per is not a duration; set it to one like 30s, 1m30s or 24h";
const BURST: &str = "burst is not a whole number; set it to one like 10, or leave it out to have that of requests";

/// A file's content.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    quotas: Entries,
}

/// In their order, so that errors can number them.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("quotas by the digests of keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            if entries.len() == MAX_QUOTAS {
                return Err(A::Error::custom(TOO_MANY));
            }
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// The entries of a file, in their order, at most [`MAX_QUOTAS`].
pub(super) fn entries(text: &str) -> Result<Vec<(String, Value)>, QuotaFileError> {
    match serde_yaml::from_str::<File>(text) {
        Ok(File { quotas: Entries(entries) }) => Ok(entries),
        Err(error) if error.to_string().contains(TOO_MANY) => Err(QuotaFileError::TooMany),
        Err(error) => Err(QuotaFileError::Malformed { line: error.location().map_or(0, |place| place.line()) }),
    }
}

/// The rate of one entry.
pub(super) fn rate(entry: usize, quota: &Value) -> Result<Rate, QuotaFileError> {
    let error = |problem| QuotaFileError::Field { entry, problem };
    let fields = quota.as_mapping().ok_or(error(SHAPE))?;
    let known = ["requests", "per", "burst"];
    if fields.keys().any(|name| !name.as_str().is_some_and(|name| known.contains(&name))) {
        return Err(error(SHAPE));
    }
    let requests = fields.get("requests").and_then(number).ok_or(error(REQUESTS))?;
    let per = fields.get("per").and_then(Value::as_str).and_then(duration).ok_or(error(PER))?;
    let burst = fields.get("burst").map_or(Some(requests), number).ok_or(error(BURST))?;
    Rate::new(requests, per, burst).map_err(|source| QuotaFileError::Rate { entry, source })
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// A duration as GEP-2257 writes it: at most four parts of up to five digits and a unit.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis: u64 = 0;
    for _ in 0..MAX_PARTS {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=MAX_DIGITS).contains(&digits) {
            return None;
        }
        let (number, tail) = rest.split_at(digits);
        let (unit, length) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit))?;
        millis = millis.checked_add(number.parse::<u64>().ok()? * length)?;
        rest = &tail[unit.len()..];
        if rest.is_empty() {
            return Some(Duration::from_millis(millis));
        }
    }
    None
}
