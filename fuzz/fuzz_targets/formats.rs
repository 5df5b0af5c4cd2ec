//! Bytes as a state file, as a breaker's snapshot, and as names in a problem document.
//!
//! A snapshot that is taken must make a breaker that works, and whose own snapshot is taken again.

#![no_main]

use std::time::{Duration, Instant};

use fusebox_policy::circuit_breaker::{Decision, Origin, Outcome, Settings, SharedBreaker, Snapshot};
use fusebox_policy::config::BreakerParameters;
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
    names(&String::from_utf8_lossy(bytes));
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

fn names(text: &str) {
    let mut parts = text.splitn(3, '\n');
    let [policy, target, rule] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let document = fusebox_proxy::fuzzing::problem(policy, target, rule).expect("a problem has a body");
    let read: serde_json::Value = serde_json::from_slice(&document).expect("a problem is JSON");
    for (member, name) in [("policy", policy), ("target", target), ("rule", rule)] {
        assert_eq!(read[member].as_str().unwrap_or_default(), name);
    }
}
