//! Resources in, proxy configurations and statuses out.
//!
//! Two pure functions stand in the middle: [`compile`] makes a [`Plan`] from a [`Snapshot`], and
//! [`fold`] makes a status from a [`PolicyPlan`] and the pods' [`Reports`]. This crate must do no
//! I/O and read no clock, so that everything it decides can be held in golden files.

mod age;
pub mod attachment;
mod breaker_config;
pub mod check;
mod common_config;
mod compile;
pub mod dashboards;
pub mod explanation;
pub mod injection;
mod kind;
pub mod manifest;
pub mod monitoring;
pub mod objects;
pub mod plan;
pub mod proxy_config;
mod rate_limit_config;
pub mod snapshot;
pub mod status;
pub mod yaml;

pub use age::age;
pub use breaker_config::MAX_OVERRIDE;
pub use compile::compile;
pub use kind::{Kind, PolicyKey};
pub use plan::{Plan, PolicyPlan, WorkloadPlan};
pub use snapshot::Snapshot;
pub use status::{PolicyStatus, Reports, fold};

#[cfg(test)]
mod golden;
