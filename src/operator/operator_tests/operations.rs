//! The operations API behind the real API server's aggregation: who may see and do what, and what happens around it.
//!
//! The operator listens on an address of this machine that is not loopback, since Kubernetes takes no other for an
//! endpoint; a Service without selector leads there.

mod answers;
mod callers;
pub(super) mod stage;
