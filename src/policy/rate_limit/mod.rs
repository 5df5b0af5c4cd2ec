//! Rate limits: which requests pass, which wait, and which are refused until when.
//!
//! It must not read a clock, log, wait or speak to a store: every call is told the time and returns what came of it, so that
//! any history can be replayed exactly and held against a reference model. Which bucket a request spends from is the proxy's
//! to find out; this module knows digests of keys alone.
//!
//! [`decide`] is what callers use; [`Buckets`] hold what clients have spent.

mod bucket;
mod buckets;
mod counters;
mod decide;
mod digest;
mod quota_file;
mod rate;
mod recent;
mod refused_until;
mod settings;
mod top_keys;
mod verdict;
mod waiting;

pub use buckets::{Buckets, MAX_TRACKED_KEYS, Reservation, Source};
pub use counters::{Counters, Counts};
pub use decide::{Decision, Demand, Reservations, Verdicts, decide};
pub use digest::{
    DigestError, KeyDigest, KeyId, KeyPrefix, LEAST_PREFIX_DIGITS, MAX_REDACTED_CHARACTERS, digest, redacted,
};
pub use quota_file::{MAX_QUOTA_FILE_BYTES, MAX_QUOTAS, QuotaFile, QuotaFileError};
pub use rate::{MAX_BURST, MAX_FILL, MAX_PERIOD, MAX_REQUESTS, MIN_INTERVAL, Rate, RateError};
pub use recent::{Lately, RECENT_WINDOW, Recent, Totals};
pub use refused_until::{MAX_REMEMBERED, RefusedUntil};
pub use settings::{
    LimitSettings, MAX_BLOCK, MAX_COSTS, MAX_KEY_PARTS, MAX_LIMITS, MAX_RULES, Settings, SettingsError,
};
pub use top_keys::{MAX_SHOWN_BYTES, MAX_TOP_KEYS, TopKey, TopKeys};
pub use verdict::{Ask, Exceed, Outcome, Refusal, Verdict};
pub use waiting::{Entry, MAX_DELAY, MAX_PRIORITY, MAX_QUEUED, Place, SHARE_OF_LOWER, Turn, Waiting, WaitingRoom};

#[cfg(test)]
mod tests;
