//! The Fusebox operator: stores, reconcile, apply, control stream, status writer.
//!
//! It does I/O and decides nothing about breakers: the compiler says what should be, and this
//! crate makes it so.

pub mod admin;
pub mod admission;
pub mod api_calls;
pub mod apply;
pub mod backoff;
pub mod bucket;
pub mod certificates;
pub mod cleanup;
pub mod control;
pub mod discovery;
pub mod events;
pub mod fence;
pub mod health;
pub mod lease;
pub mod metrics;
pub mod ops;
pub mod peer;
pub mod probe;
mod problem;
pub mod reconcile;
pub mod references;
pub mod run;
pub mod settings;
pub mod status;
pub mod stores;
pub mod telemetry;
pub mod token;
pub mod touched;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod operator_tests;
