//! The state file: breakers' states, written now and then, so that they survive their process.
//!
//! It must never be trusted and never stand in the way: a file that is torn, foreign, too long, too old or from the
//! future makes the proxy start clean and say so. The first line tells what the rest must be, to the last byte.

mod keeper;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::circuit_breaker::{Origin, SNAPSHOT_FORMAT, Settings, SharedBreaker, Snapshot};
use fusebox_policy::config::{BreakerKey, BreakerParameters};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use self::keeper::Keeper;

/// The format this build writes, and with [`SNAPSHOT_FORMAT`] the only one it reads.
pub(crate) const STATE_FORMAT: u32 = 1;

/// The longest file that is read or written, in bytes.
pub(crate) const MAX_STATE_BYTES: usize = 16 << 20;

/// What is older than this counts for nothing: no open time is longer.
pub(crate) const MAX_STATE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How far in the future a file may be dated, since the clocks of a node are set now and then.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// For how long after the start what was read waits for a configuration or an endpoint that has the breaker.
pub(crate) const WAIT_FOR_OWNER: Duration = Duration::from_secs(600);

/// What can become of reading the file, as metrics name it.
pub(crate) const RESULTS: [&str; 8] =
    ["restored", "missing", "unreadable", "too_long", "torn", "foreign", "future", "too_old"];

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateFileError {
    /// It can't be read.
    #[error("state file can't be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is longer than the bound.
    #[error("state file is longer than {MAX_STATE_BYTES} bytes")]
    TooLong,
    /// It is not what was written.
    #[error("state file is torn or was changed: {0}")]
    Torn(&'static str),
    /// Another version wrote it.
    #[error("state file has format {found}, and this proxy reads {expected}")]
    Foreign {
        /// Its format.
        found: String,
        /// The one this build reads.
        expected: String,
    },
    /// It was written in the future.
    #[error("state file is dated {ahead_ms} ms in the future")]
    Future {
        /// How far.
        ahead_ms: i64,
    },
    /// It was written too long ago.
    #[error("state file is {age_s} s old")]
    TooOld {
        /// How old.
        age_s: u64,
    },
}

/// What an earlier process left of its breakers, until their owners come.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    entries: BTreeMap<BreakerKey, (String, Snapshot)>,
    /// When it was read, and how old it was then.
    read: Option<(Instant, Duration)>,
}

/// One breaker in the file, on a line of its own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Entry {
    /// Which breaker.
    pub(crate) key: BreakerKey,
    /// A hash of what it was made from: another breaker starts anew.
    pub(crate) parameters: String,
    /// Its state.
    pub(crate) snapshot: Snapshot,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    snapshot_format: u32,
    written_unix_ms: i64,
    /// Of all that follows the first line.
    sha256: String,
}

impl StateFileError {
    /// One of [`RESULTS`].
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::TooLong => "too_long",
            Self::Torn(_) => "torn",
            Self::Foreign { .. } => "foreign",
            Self::Future { .. } => "future",
            Self::TooOld { .. } => "too_old",
        }
    }
}

impl Saved {
    /// What `path` holds at Unix time `unix_ms`; none when there is no such file.
    pub(crate) fn read(path: &Path, unix_ms: i64, now: Instant) -> Result<Option<Self>, StateFileError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateFileError::Unreadable(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_STATE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(StateFileError::Unreadable)?;
        if bytes.len() > MAX_STATE_BYTES {
            return Err(StateFileError::TooLong);
        }
        Self::parse(&bytes, unix_ms, now).map(Some)
    }

    /// What the file's `bytes` hold at Unix time `unix_ms`.
    pub(crate) fn parse(bytes: &[u8], unix_ms: i64, now: Instant) -> Result<Self, StateFileError> {
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(StateFileError::Torn("it has no first line"))?;
        let (first, body) = (&bytes[..end], &bytes[end + 1..]);
        let header: Header =
            serde_json::from_slice(first).map_err(|_| StateFileError::Torn("its first line is not one of ours"))?;
        let Header { format, snapshot_format, written_unix_ms, sha256 } = header;
        if (format, snapshot_format) != (STATE_FORMAT, SNAPSHOT_FORMAT) {
            let name = |format: u32, snapshot: u32| format!("{format}.{snapshot}");
            let (found, expected) = (name(format, snapshot_format), name(STATE_FORMAT, SNAPSHOT_FORMAT));
            return Err(StateFileError::Foreign { found, expected });
        }
        if sha256 != hash(body) {
            return Err(StateFileError::Torn("its content is not what its first line says"));
        }
        let age = age(written_unix_ms, unix_ms)?;
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let entries = lines
            .map(serde_json::from_slice)
            .collect::<Result<Vec<Entry>, _>>()
            .map_err(|_| StateFileError::Torn("one of its lines is not one of ours"))?;
        let entries = entries.into_iter().map(|Entry { key, parameters, snapshot }| (key, (parameters, snapshot)));
        Ok(Self { entries: entries.collect(), read: Some((now, age)) })
    }

    /// How many breakers are in it.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The breaker of `key` as it was left, if it was made from the same parameters.
    pub(crate) fn restore(
        &self,
        key: &BreakerKey,
        parameters: &BreakerParameters,
        start: (&Settings, u64, Instant),
    ) -> Option<Arc<SharedBreaker>> {
        let (settings, seed, now) = start;
        let (read_at, age) = self.read?;
        let (saved_parameters, snapshot) = self.entries.get(key)?;
        if *saved_parameters != fingerprint(parameters) {
            tracing::info!(?key, "breaker starts anew: its parameters changed since its state was saved");
            return None;
        }
        let elapsed = age + now.saturating_duration_since(read_at);
        SharedBreaker::restore(settings.clone(), snapshot, Origin { seed, elapsed, now })
            .inspect_err(|error| tracing::warn!(?key, %error, reason = error.reason(), "breaker starts anew"))
            .ok()
    }

    /// Forgets what has found its owner, and after a time all the rest.
    pub(crate) fn forget(&mut self, owned: impl Fn(&BreakerKey) -> bool, now: Instant) {
        let over = self.is_over(now);
        self.entries.retain(|key, _| !over && !owned(key));
    }

    /// Whether what waits has waited for long enough.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        !self.is_empty() && self.read.is_some_and(|(at, _)| now.saturating_duration_since(at) >= WAIT_FOR_OWNER)
    }

    /// Whether nothing waits for its owner.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A short hash of what a breaker is made from.
pub(crate) fn fingerprint(parameters: &BreakerParameters) -> String {
    // Plain data with string keys always becomes JSON; an empty text would only start the breaker anew.
    hash(&serde_json::to_vec(parameters).unwrap_or_default())[..16].to_owned()
}

/// The file's content; entries that do not fit within its bound are left out, the last first.
pub(crate) fn encode(entries: &[Entry], unix_ms: i64) -> serde_json::Result<Vec<u8>> {
    /// More than the first line ever has.
    const HEADER_BYTES: usize = 512;
    let mut body = Vec::new();
    for entry in entries {
        let line = serde_json::to_vec(entry)?;
        if body.len() + line.len() + 1 > MAX_STATE_BYTES - HEADER_BYTES {
            break;
        }
        body.extend(line);
        body.push(b'\n');
    }
    let header = Header {
        format: STATE_FORMAT,
        snapshot_format: SNAPSHOT_FORMAT,
        written_unix_ms: unix_ms,
        sha256: hash(&body),
    };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend(body);
    Ok(bytes)
}

/// Puts `bytes` in the place of the file, whole or not at all, and on the disk before it returns.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = directory.join(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

fn age(written_unix_ms: i64, unix_ms: i64) -> Result<Duration, StateFileError> {
    let age_ms = unix_ms.saturating_sub(written_unix_ms);
    let tolerance_ms = CLOCK_TOLERANCE.as_millis().try_into().unwrap_or(i64::MAX);
    if age_ms.saturating_neg() > tolerance_ms {
        return Err(StateFileError::Future { ahead_ms: age_ms.saturating_neg() });
    }
    let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
    if age > MAX_STATE_AGE {
        return Err(StateFileError::TooOld { age_s: age.as_secs() });
    }
    Ok(age)
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusebox_policy::config::{HalfOpen, Open, PolicyId, Recovery, Side, TargetId, Trip};

    const WRITTEN: i64 = 1_700_000_000_000;

    fn parameters() -> BreakerParameters {
        BreakerParameters {
            trip: Trip { consecutive_failures: Some(3), ..Trip::default() },
            open: Open {
                base_duration_ms: 30_000,
                max_duration_ms: 60_000,
                jitter_percent: 0,
                honor_retry_after: false,
            },
            half_open: HalfOpen {
                max_probes: 1,
                success_threshold: 1,
                probe_timeout_ms: 1_000,
                max_duration_ms: 1_000,
            },
            recovery: Recovery::default(),
        }
    }

    fn entry(rule: &str) -> Entry {
        let id = |name: &str| PolicyId { namespace: "shop".into(), name: name.into() };
        let target =
            TargetId { kind: "Service".into(), namespace: "shop".into(), name: "pay".into(), section: String::new() };
        let settings = Settings::try_from(&parameters()).unwrap();
        let now = Instant::now();
        Entry {
            key: BreakerKey {
                policy: id("pay"),
                target,
                side: Side::Client,
                port: 80,
                rule: rule.into(),
                endpoint: String::new(),
            },
            parameters: fingerprint(&parameters()),
            snapshot: SharedBreaker::new(settings, 1, now).snapshot(now),
        }
    }

    fn parse(bytes: &[u8], unix_ms: i64) -> Result<Saved, &'static str> {
        Saved::parse(bytes, unix_ms, Instant::now()).map_err(|error| error.reason())
    }

    #[test]
    fn a_file_torn_anywhere_or_with_any_byte_changed_is_refused() {
        let good = encode(&[entry("a"), entry("b")], WRITTEN).unwrap();
        assert_eq!(parse(&good, WRITTEN).map(|saved| saved.len()), Ok(2));
        for end in 0..good.len() {
            assert!(parse(&good[..end], WRITTEN).is_err(), "torn at {end}");
        }
        // The time is what the first line says of itself; everything else vouches for the rest.
        let time = good.windows(13).position(|part| part == WRITTEN.to_string().as_bytes()).unwrap();
        for index in (0..good.len()).filter(|index| !(time..time + 13).contains(index)) {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert!(parse(&bad, WRITTEN).is_err(), "byte {index} changed");
        }
    }

    #[test]
    fn a_file_of_the_version_before_is_read() {
        let recorded = include_bytes!("../../e2e/fixtures/previous/breakers.state");
        let saved = Saved::parse(recorded, 1_795_265_267_035, Instant::now()).unwrap();
        assert_eq!(saved.len(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_a_little_is_borne_and_more_is_not() {
        let good = encode(&[entry("a")], WRITTEN).unwrap();
        for (now, expected) in [
            (WRITTEN - 5_000, None),
            (WRITTEN - 5_001, Some("future")),
            (WRITTEN + 86_400_000, None),
            (WRITTEN + 86_400_001, Some("too_old")),
        ] {
            assert_eq!(parse(&good, now).err(), expected, "{now}");
        }
    }

    #[test]
    fn what_waits_for_its_owner_is_forgotten_when_it_came_and_after_a_time() {
        let good = encode(&[entry("a"), entry("b")], WRITTEN).unwrap();
        let mut saved = parse(&good, WRITTEN).unwrap();
        let now = Instant::now();
        saved.forget(|key| key.rule == "a", now);
        assert_eq!(saved.len(), 1);
        saved.forget(|_| false, now + WAIT_FOR_OWNER);
        assert!(saved.is_empty());
    }

    #[test]
    fn a_file_never_grows_over_its_bound() {
        let long = "x".repeat(1 << 20);
        let entries: Vec<_> = (0..20).map(|_| entry(&long)).collect();
        let bytes = encode(&entries, WRITTEN).unwrap();
        assert!(bytes.len() <= MAX_STATE_BYTES);
        assert!(parse(&bytes, WRITTEN).is_ok());
    }
}
