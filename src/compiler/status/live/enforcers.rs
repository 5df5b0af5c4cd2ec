//! Which pods enforce a policy, as live states of all kinds tell it: its own by name, those of other namespaces only counted.
//!
//! It must know no kind: what is said of one pod, and what is counted of it elsewhere, is the kind's own.

use std::collections::BTreeMap;

use fusebox_api::operations::{Elsewhere, Enforcers};
use fusebox_policy::config::PolicyVersion;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Heard;
use crate::plan::{BoundPod, PolicyPlan};
use crate::status::Completeness;
use crate::status::words::time;

/// What a kind says of one pod.
pub(super) trait LivePod {
    /// What is counted of it where it belongs to another namespace.
    type Counts: Default;

    /// The pod's name.
    fn name(&self) -> &str;
    /// How many breakers, limits or the like it has.
    fn size(&self) -> usize;
    /// Leaves out all beyond the first few.
    fn truncate(&mut self, most: usize);
    /// Counts it.
    fn count(&self, counts: &mut Self::Counts);
}

/// All pods of a policy, with `most` breakers, limits or the like in all; `heard` is by the pods' uids.
pub(super) fn enforcers<P: LivePod>(
    plan: &PolicyPlan,
    (heard, completeness): (&BTreeMap<&str, Heard<'_>>, Completeness),
    most: usize,
    pod_of: impl Fn(&str, &BoundPod, Option<&Heard<'_>>) -> P,
) -> Enforcers<P, P::Counts> {
    let (mut pods, mut elsewhere, mut room, mut truncated) = (Vec::new(), BTreeMap::new(), most, false);
    for (uid, bound) in &plan.pods {
        let heard = heard.get(uid.as_str());
        let mut pod = pod_of(uid, bound, heard);
        if bound.namespace == plan.version.id.namespace {
            truncated |= pod.size() > room;
            pod.truncate(room);
            room -= pod.size();
            pods.push(pod);
        } else {
            let counts = elsewhere.entry(bound.namespace.clone()).or_insert_with(|| nobody(&bound.namespace));
            count(counts, (plan, bound, heard), &pod);
        }
    }
    pods.sort_by(|one, other| one.name().cmp(other.name()));
    Enforcers {
        incomplete: completeness == Completeness::Settling,
        truncated,
        pods,
        elsewhere: elsewhere.into_values().collect(),
    }
}

/// The pod's workload, as live states name it.
pub(super) fn workload(bound: &BoundPod) -> String {
    format!("{}/{}", bound.workload.kind, bound.workload.name)
}

/// Since when the pod's sidecar has had its stream, where it has one.
pub(super) fn connected_since(heard: &Heard<'_>) -> Option<Time> {
    heard.connected.then(|| time(heard.since_unix_ms)).flatten()
}

/// The policy's generation that a pod enforces, if it enforces any.
pub(super) fn generation(plan: &PolicyPlan, heard: &Heard<'_>) -> Option<i64> {
    let own = |version: &&PolicyVersion| plan.key.is(version);
    heard.policies.iter().find(own).map(|version| version.generation)
}

fn nobody<M: Default>(namespace: &str) -> Elsewhere<M> {
    Elsewhere { namespace: namespace.to_owned(), pods: 0, ready: 0, current: 0, more: M::default() }
}

fn count<P: LivePod>(
    counts: &mut Elsewhere<P::Counts>,
    (plan, bound, heard): (&PolicyPlan, &BoundPod, Option<&Heard<'_>>),
    pod: &P,
) {
    let ready = bound.is_ready();
    let enforced = heard.and_then(|heard| generation(plan, heard));
    counts.pods += 1;
    counts.ready += i64::from(ready);
    counts.current += i64::from(ready && enforced >= Some(plan.version.generation));
    pod.count(&mut counts.more);
}
