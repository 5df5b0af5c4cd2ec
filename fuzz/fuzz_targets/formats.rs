//! Bytes as a state file, as a breaker's snapshot, as a file of quotas, and as names in a problem document.
//!
//! A snapshot that is taken must make a breaker that works, and whose own snapshot is taken again. A file of quotas that is taken
//! must say the same when it is written anew.

#![no_main]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fusebox_policy::circuit_breaker::{Decision, Origin, Outcome, Settings, SharedBreaker, Snapshot};
use fusebox_policy::config::BreakerParameters;
use fusebox_policy::rate_limit::{KeyDigest, QuotaFile, QuotaFileError, Rate};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;

#[derive(Deserialize)]
struct Saved {
    parameters: BreakerParameters,
    snapshot: Snapshot,
    elapsed_ms: u64,
}

fuzz_target!(|bytes: &[u8]| {
    fusebox_proxy::fuzzing::state_file(bytes);
    if let Ok(saved) = serde_json::from_slice::<Saved>(bytes) {
        restore(&saved);
    }
    let text = String::from_utf8_lossy(bytes);
    match QuotaFile::parse(&text) {
        Ok(file) => quotas(&text, &file),
        Err(error) => refused(&error),
    }
    names(&text);
});

fn restore(saved: &Saved) {
    let Ok(settings) = Settings::try_from(&saved.parameters) else { return };
    let now = Instant::now();
    let origin = |elapsed| Origin { seed: 7, elapsed, now };
    let elapsed = Duration::from_millis(saved.elapsed_ms);
    let Ok(breaker) = SharedBreaker::restore(settings.clone(), &saved.snapshot, origin(elapsed)) else { return };
    for step in 0..32 {
        let now = now + Duration::from_millis(step * 250);
        if let Decision::Admitted(permit) = breaker.admit(now).decision {
            let outcome = if step % 3 == 0 { Outcome::Failure } else { Outcome::Success };
            breaker.settle(permit, outcome, now);
        }
        let _ = breaker.statistics(now);
    }
    let again = breaker.snapshot(now + Duration::from_secs(8));
    let text = serde_json::to_vec(&again).expect("a snapshot is plain data");
    let again: Snapshot = serde_json::from_slice(&text).expect("what was written is read");
    SharedBreaker::restore(settings, &again, origin(Duration::ZERO)).expect("a breaker's own snapshot is taken");
}

/// The most bytes that an error takes: it names an entry by its number, and repeats nothing of the file.
const MAX_ERROR_BYTES: usize = 400;

fn quotas(text: &str, file: &QuotaFile) {
    let digits = text.split(|character: char| !character.is_ascii_hexdigit());
    let digests = digits.filter_map(|digits| KeyDigest::parse(digits).ok());
    let rates: BTreeMap<KeyDigest, Rate> = digests.filter_map(|digest| Some((digest, *file.lookup(&digest)?))).collect();
    assert!(rates.len() <= file.len());
    let again = QuotaFile::parse(&QuotaFile::render(&rates)).expect("what was written is read");
    assert_eq!(again.len(), rates.len());
    for (digest, rate) in &rates {
        assert!(again.lookup(digest) == Some(rate) && again.lookup_id(digest.id()) == Some(rate));
    }
}

fn refused(error: &QuotaFileError) {
    let words = error.to_string();
    assert!(!error.reason().is_empty() && words.is_ascii() && words.len() <= MAX_ERROR_BYTES, "{words}");
}

fn names(text: &str) {
    let mut parts = text.splitn(3, '\n');
    let [policy, target, rule] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let document = fusebox_proxy::fuzzing::problem(policy, target, rule).expect("a problem has a body");
    let read: serde_json::Value = serde_json::from_slice(&document).expect("a problem is JSON");
    for (member, name) in [("policy", policy), ("target", target), ("rule", rule)] {
        assert_eq!(read[member].as_str().unwrap_or_default(), name);
    }
}
