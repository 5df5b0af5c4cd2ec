//! The Fusebox resources as Rust types, and the schema they are installed with.
//!
//! This crate must hold no client and no behaviour: operator, command and tests share the
//! types, and whoever reads a spec must not thereby pull in a runtime.

// The schema derive repeats each type inside a function, where `pub` reaches nobody.
#![allow(unreachable_pub)]
// Each printer column repeats the names of its attributes.
#![allow(clippy::duplicated_attributes)]

pub mod circuit_breaker;
pub mod common;
pub mod crd;
pub mod duration;
pub mod names;
pub mod operations;
pub mod rate_limit;
mod schemas;
pub mod status;

pub use circuit_breaker::{CircuitBreakerPolicy, CircuitBreakerPolicySpec};
pub use duration::Duration;
pub use rate_limit::{RateLimit, RateLimitSpec, RateLimitStatus};
pub use status::CircuitBreakerPolicyStatus;
