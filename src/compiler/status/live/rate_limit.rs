//! A policy's limits on each pod, as somebody who asks sees them now.
//!
//! The same facts that a status is made from, told apart by pod, with the keys that pods named when they were asked. Pods of other
//! namespaces must only be counted, and their clients' keys never be shown: they belong to people who were not asked.

use std::collections::BTreeMap;

use fusebox_api::operations::{
    API_VERSION, BrokenValue, LimitState, LimitedKey, LimitedRequests, MAX_LIMITED_KEYS, Metadata, PodLimits,
    RateLimitState, State,
};
use fusebox_policy::config::{LimitKey, PolicyId, Reference};
use fusebox_policy::report::{BlockedClient, BrokenReference, LimitReport};
use fusebox_policy::stream::TopKey;

use super::enforcers::{LivePod, connected_since, enforcers, generation, workload};
use super::{Heard, target};
use crate::common_config::side_told;
use crate::plan::{BoundPod, PolicyPlan};
use crate::status::Completeness;
use crate::status::words::time;

/// What one pod said when it was asked for its keys.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// The keys that were refused most, of all its limits.
    Keys(Vec<TopKey>),
    /// Nothing, and why.
    Nothing(String),
}

/// The live state of a policy's limits; `heard` and `asked` are by the pods' uids.
#[must_use]
pub fn live_limits(
    plan: &PolicyPlan,
    heard: &BTreeMap<&str, Heard<'_>>,
    asked: &BTreeMap<String, Asked>,
    completeness: Completeness,
) -> RateLimitState {
    let PolicyId { namespace, name } = plan.version.id.clone();
    RateLimitState {
        api_version: API_VERSION.to_owned(),
        kind: RateLimitState::KIND.to_owned(),
        metadata: Metadata { namespace, name },
        generation: plan.version.generation,
        side: side_told(plan.side),
        mode: plan.mode,
        enforcers: enforcers(plan, (heard, completeness), RateLimitState::MOST, |uid, bound, heard| {
            pod_limits(plan, bound, (heard, asked.get(uid)))
        }),
    }
}

impl LivePod for PodLimits {
    type Counts = LimitedRequests;

    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> usize {
        self.limits.len()
    }

    fn truncate(&mut self, most: usize) {
        self.limits.truncate(most);
    }

    fn count(&self, counts: &mut LimitedRequests) {
        counts.limited += self.limits.iter().map(|limit| limit.limited).sum::<u64>();
    }
}

fn pod_limits(plan: &PolicyPlan, bound: &BoundPod, (heard, asked): (Option<&Heard<'_>>, Option<&Asked>)) -> PodLimits {
    let silent = PodLimits {
        name: bound.name.clone(),
        workload: workload(bound),
        ready: bound.is_ready(),
        unanswered: match asked {
            Some(Asked::Nothing(why)) => why.clone(),
            Some(Asked::Keys(_)) | None => String::new(),
        },
        ..PodLimits::default()
    };
    let Some(heard) = heard else {
        return PodLimits { limits: bound.keys.limits.iter().map(unreported).collect(), ..silent };
    };
    PodLimits {
        connected: heard.connected,
        connected_since: connected_since(heard),
        version: heard.version.to_owned(),
        current: heard.revision == bound.revision,
        generation: generation(plan, heard),
        broken: heard.broken.iter().filter(|it| plan.references.contains_key(&it.reference)).map(broken).collect(),
        limits: bound.keys.limits.iter().map(|key| limit_state(key, heard.limits.get(key), asked)).collect(),
        ..silent
    }
}

fn broken(broken: &BrokenReference) -> BrokenValue {
    let Reference { kind, name, key, .. } = &broken.reference;
    BrokenValue { value: format!("{kind:?} {name}, key {key}"), problem: broken.problem.clone() }
}

fn limit_state(key: &LimitKey, report: Option<&LimitReport>, asked: Option<&Asked>) -> LimitState {
    let mut state = report.map_or_else(|| unreported(key), reported);
    if let Some(Asked::Keys(keys)) = asked {
        let own = keys.iter().filter(|top| top.limit == *key);
        state.keys = own.take(MAX_LIMITED_KEYS).map(limited_key).collect();
    }
    state
}

fn unreported(key: &LimitKey) -> LimitState {
    LimitState {
        target: target(&key.target),
        port: key.port,
        limit: key.limit.clone(),
        rule: key.rule.clone(),
        reported: false,
        allowed: 0,
        limited: 0,
        delayed: 0,
        tracked_keys: 0,
        blocked_clients: 0,
        store_lost_since: None,
        store_error: String::new(),
        keys: Vec::new(),
    }
}

fn reported(report: &LimitReport) -> LimitState {
    LimitState {
        reported: true,
        allowed: report.allowed,
        limited: report.limited,
        delayed: report.delayed,
        tracked_keys: report.tracked_keys,
        blocked_clients: report.blocked_clients,
        store_lost_since: report.store_lost_since_unix_ms.and_then(time),
        store_error: report.store_error.clone(),
        keys: report.top_blocked.iter().map(blocked_key).collect(),
        ..unreported(&report.key)
    }
}

fn limited_key(top: &TopKey) -> LimitedKey {
    LimitedKey {
        key: top.key.clone(),
        digest: top.digest.clone(),
        refused: top.refused,
        remaining: Some(top.remaining),
        blocked_until: top.blocked_until_unix_ms.and_then(time),
    }
}

/// A hashed key is shown as its digest.
fn blocked_key(client: &BlockedClient) -> LimitedKey {
    let is_digest = client.key.len() == 16 && client.key.bytes().all(|byte| byte.is_ascii_hexdigit());
    LimitedKey {
        key: client.key.clone(),
        digest: if is_digest { client.key.clone() } else { String::new() },
        refused: client.refused,
        remaining: None,
        blocked_until: time(client.until_unix_ms),
    }
}
