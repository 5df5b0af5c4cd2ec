//! The circuit breaker: when it trips, how long it refuses, and what makes it close again.
//!
//! It must not read a clock, log or wait: every call is told the time and returns what changed,
//! so that any history can be replayed exactly and held against a reference model.
//!
//! [`SharedBreaker`] is what callers use; [`Breaker`] inside it is the state machine alone.

mod admission;
mod endpoints;
mod engine;
mod failure_classifier;
mod probes;
mod ramp;
mod random;
mod settings;
mod shared;
mod snapshot;
mod statistics;
mod stripes;
mod sync;
mod transition;
mod window;

pub use admission::{Admission, Decision, Ended, Force, Outcome, Refusal, Ticket};
pub use endpoints::{MaxOpenPercent, PercentError, Standing, Use, choose, uses};
pub use engine::Breaker;
pub use failure_classifier::{Answer, ClassifierError, FailureClassifier, MAX_STATUS_RANGES};
pub use settings::{MAX_COUNT, MAX_DURATION, MAX_PROBES, MAX_WINDOW_CALLS, MIN_WINDOW, Settings, SettingsError};
pub use shared::{Permit, SharedBreaker};
pub use snapshot::{
    BucketsSnapshot, MAX_AGE, MAX_SNAPSHOT_BYTES, Origin, SNAPSHOT_FORMAT, Snapshot, SnapshotError, WindowSnapshot,
};
pub use statistics::Statistics;
pub use transition::{Transition, TransitionCounts, TransitionReason};
pub use window::{DEFAULT_WINDOW, WINDOW_BUCKETS};

#[cfg(test)]
mod tests;

#[cfg(test)]
#[cfg(loom)]
mod interleavings;
