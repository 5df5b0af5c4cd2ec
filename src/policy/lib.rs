//! What Fusebox decides, and the two wire types operator and proxy share.
//!
//! This crate must not know Kubernetes, an async runtime or a clock: time is an
//! argument everywhere, so that every decision can be tested and replayed exactly.

pub mod circuit_breaker;
pub mod config;
pub mod matching;
pub mod metrics;
pub mod rate_limit;
pub mod report;
pub mod seal;
pub mod stream;
mod threads;
