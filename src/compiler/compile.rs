//! From a snapshot to the plan: who enforces what, what each sidecar is told, and what became of every policy.
//!
//! It always compiles everything, and must only put together what others decide.

use crate::plan::{Plan, PolicyPlan};
use crate::snapshot::Snapshot;
use crate::{attachment, proxy_config};

/// Compiles everything that the snapshot holds.
#[must_use]
pub fn compile(snapshot: &Snapshot) -> Plan {
    let attachments = attachment::resolve(snapshot);
    let workloads = proxy_config::workloads(&attachments);
    let policies = attachments.policies(&workloads);
    let force = |policy: &PolicyPlan| policy.part.breaker().and_then(|part| part.force.ends_at());
    let recompile_at = policies.values().filter_map(force).min();
    let namespaces_with_sidecars = workloads.keys().map(|id| id.namespace.clone()).collect();
    let references = policies.values().flat_map(|policy| policy.references.keys().cloned()).collect();
    let guarded = attachments.guarded();
    let prometheus = snapshot.prometheus;
    Plan { workloads, policies, references, namespaces_with_sidecars, guarded, prometheus, recompile_at }
}
