//! What a sidecar claims, cut down to what it may say: of policies that are bound to its pod, within bounds.
//!
//! A sidecar belongs to a tenant and may be wrong or hostile. It must not speak for a policy that it does not enforce, nor fill
//! the memory of those who listen.

use fusebox_policy::config::{LimitKey, PolicyVersion, Reference};
use fusebox_policy::report::{BrokenReference, LimitReport, MAX_TOP_BLOCKED, ProxyReport};

use super::{Session, cut};
use crate::control::configurations::Configuration;
use fusebox_compiler::Kind;

/// The longest name within a key, in bytes: that of anything in Kubernetes.
const MAX_NAME: usize = 253;

/// The longest key of a client as it is shown, in bytes.
const MAX_CLIENT: usize = 128;

/// The longest problem that is kept, in bytes.
const MAX_PROBLEM: usize = 512;

/// The longest word on why a store does not answer, in bytes.
const MAX_STORE_ERROR: usize = 256;

impl Session {
    /// Of what a sidecar says it enforces, what is bound to its pod, and no generation that does not exist.
    pub(super) fn bound(&self, mut claimed: Vec<PolicyVersion>) -> Vec<PolicyVersion> {
        let Some(current) = self.configuration() else { return Vec::new() };
        let policies = &current.config().policies;
        claimed.retain(|claim| {
            policies.iter().any(|bound| {
                (&bound.kind, &bound.id, &bound.uid) == (&claim.kind, &claim.id, &claim.uid)
                    && claim.generation <= bound.generation
            })
        });
        claimed.truncate(policies.len());
        claimed
    }

    /// Of a report, what is of policies that are bound to the pod, and of values that its configuration names.
    pub(super) fn bound_report(&self, report: ProxyReport) -> ProxyReport {
        let ProxyReport { full, mut breakers, mut limits, broken_references } = report;
        let all = breakers.len() + limits.len();
        let current = self.configuration();
        let binds = |key| current.as_ref().is_some_and(|current| current.binds(&key));
        breakers.retain(|breaker| binds(Kind::CircuitBreakerPolicy.key(&breaker.key.policy)));
        limits.retain(|limit| binds(Kind::RateLimit.key(&limit.key.policy)) && fits(&limit.key));
        self.count_dropped("PolicyNotBound", all - breakers.len() - limits.len());
        limits.iter_mut().for_each(bound_limit);
        let broken_references = bound_references(current.as_deref(), &broken_references);
        ProxyReport { full, breakers, limits, broken_references }
    }
}

/// Whether all names in a key are as long as names can be.
fn fits(key: &LimitKey) -> bool {
    let LimitKey { policy: _, target, side: _, port: _, limit, rule } = key;
    [&target.kind, &target.namespace, &target.name, &target.section, limit, rule]
        .iter()
        .all(|name| name.len() <= MAX_NAME)
}

fn bound_limit(limit: &mut LimitReport) {
    limit.top_blocked.truncate(MAX_TOP_BLOCKED);
    for client in &mut limit.top_blocked {
        client.key = cut(std::mem::take(&mut client.key), MAX_CLIENT);
    }
    limit.store_error = cut(std::mem::take(&mut limit.store_error), MAX_STORE_ERROR);
}

/// Those that the configuration names, each once.
fn bound_references(current: Option<&Configuration>, claimed: &[BrokenReference]) -> Vec<BrokenReference> {
    let named = current.map(Configuration::references).unwrap_or_default();
    let claim = |reference: &Reference| claimed.iter().find(|broken| broken.reference == *reference);
    let bound = named.iter().filter_map(claim);
    bound
        .map(|BrokenReference { reference, problem }| BrokenReference {
            reference: reference.clone(),
            problem: cut(problem.clone(), MAX_PROBLEM),
        })
        .collect()
}
