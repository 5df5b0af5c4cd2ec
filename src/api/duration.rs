//! Durations as the Gateway API writes them (GEP-2257): `30s`, `1m30s`, `250ms`.
//!
//! The type must accept exactly what the schema's pattern accepts, because the API server
//! decides by the pattern and every later reader by this type.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The pattern of a duration: at most four parts of up to five digits and a unit.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The units, longest first, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const MAX_PARTS: usize = 4;
const MAX_DIGITS: usize = 5;

/// A length of time in whole milliseconds, written as a GEP-2257 string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration {
    millis: u64,
}

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("duration {text:?} is not like 30s, 1m30s or 250ms (units h, m, s, ms; up to four parts of up to five digits)")]
pub struct DurationError {
    text: String,
}

impl Duration {
    /// A duration of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self { millis: seconds.saturating_mul(1_000) }
    }

    /// Its length in milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.millis
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let error = || DurationError { text: text.to_owned() };
        let mut rest = text;
        let mut millis: u64 = 0;
        for _ in 0..MAX_PARTS {
            let (part, tail) = parse_part(rest).ok_or_else(error)?;
            millis = millis.saturating_add(part);
            rest = tail;
            if rest.is_empty() {
                return Ok(Self { millis });
            }
        }
        Err(error())
    }
}

impl TryFrom<String> for Duration {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, DurationError> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return formatter.write_str("0s");
        }
        let mut rest = self.millis;
        for (unit, length) in UNITS {
            if rest >= length {
                write!(formatter, "{}{unit}", rest / length)?;
                rest %= length;
            }
        }
        Ok(())
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": 28 })
    }
}

/// Reads one number with its unit and returns it in milliseconds, with what is left.
fn parse_part(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > MAX_DIGITS {
        return None;
    }
    let (number, tail) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
    let (unit, tail) = tail.split_at(letters);
    let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some((number * length, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_in_their_shortest_form() {
        for (text, millis, shortest) in [
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "1m30s"),
            ("1m30s", 90_000, "1m30s"),
            ("250ms", 250, "250ms"),
            ("1h0m0s5ms", 3_600_005, "1h5ms"),
            ("0s", 0, "0s"),
            ("99999h", 359_996_400_000, "99999h"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!((duration.as_millis(), duration.to_string().as_str()), (millis, shortest), "{text}");
        }
    }

    #[test]
    fn what_the_pattern_refuses_is_refused() {
        for text in ["", "5", "-1s", "1y", "1.5s", "1s ", "s", "100000s", "1s1s1s1s1s", "30S", "1d"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }
}
