//! Policies on each pod, as somebody who asks sees them now: a kind a file, and what they have in common.
//!
//! The same facts that [`super::fold`] makes a status from, told apart by pod. It must not read more than sidecars said: what
//! only a pod knows is asked of it, and comes with what was heard.

mod circuit_breaker;
mod enforcers;
mod rate_limit;

use std::collections::BTreeMap;

use fusebox_api::operations::Target;
use fusebox_policy::config::{BreakerKey, LimitKey, PolicyVersion, TargetId};
use fusebox_policy::report::{BreakerReport, BrokenReference, LimitReport};

pub use circuit_breaker::live;
pub use rate_limit::{Asked, live_limits};

/// What one pod's sidecar said last.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// Whether its stream is up.
    pub connected: bool,
    /// When that stream was opened, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// The sidecar's version.
    pub version: &'a str,
    /// The revision that it enforces; empty where it enforces none.
    pub revision: &'a str,
    /// The policies in that revision.
    pub policies: &'a [PolicyVersion],
    /// Why it refused the newest revision; empty where it did not.
    pub refused: &'a str,
    /// Its breakers that have seen traffic or a person's word, of all policies.
    pub breakers: &'a BTreeMap<BreakerKey, BreakerReport>,
    /// Its limits that have decided something, of all policies.
    pub limits: &'a BTreeMap<LimitKey, LimitReport>,
    /// Values that it can't use, of all policies.
    pub broken: &'a [BrokenReference],
}

fn target(id: &TargetId) -> Target {
    Target { namespace: id.namespace.clone(), name: id.name.clone(), section_name: id.section.clone() }
}
