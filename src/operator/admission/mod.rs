//! The admission webhooks: `/admission/inject` gives pods their sidecar, `/admission/validate` refuses policies with mistakes.
//!
//! They only carry what the compiler decides, on every replica, from the stores alone: a review asks nobody and writes nothing, so
//! that a dry run is like any other. Whatever comes in, the answer is a review or a 4xx.

mod endpoint;
mod inject;
mod metrics;
mod refusal;
mod review;
mod server;
mod validate;

pub use endpoint::{Admission, MAX_BODY};
pub use metrics::AdmissionMetrics;
pub use server::serve;

/// Where pods are injected.
pub const INJECT_PATH: &str = "/admission/inject";

/// Where policies are checked.
pub const VALIDATE_PATH: &str = "/admission/validate";
