//! What became of every policy, told from the places it has and has not.
//!
//! It must only tell: every decision has been made before, and status and `explain` read it here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fusebox_api::circuit_breaker::FallbackType;
use fusebox_api::common::Mode;
use fusebox_policy::config::{BreakerKey, PolicyId, PolicyVersion, Protocol, WorkloadId};

use super::{Attachments, Claim, Direction, Judged, JudgedTarget, Place, Resolved};
use crate::breaker_config;
use crate::monitoring::AlertSubject;
use crate::plan::{
    Attached, BoundPod, Cause, Doubt, Name, Overruled, PolicyPlan, Readiness, Refusal, TargetPlan, Verdict,
    WorkloadPlan,
};
use crate::snapshot::Pod;

/// The kind as it stands in acknowledgements.
pub(crate) const KIND: &str = "CircuitBreakerPolicy";

/// Where each target of each policy stands.
#[derive(Default)]
struct Standings {
    /// Places that a target has, by policy and target.
    won: BTreeMap<(usize, usize), Vec<Place>>,
    /// Places that another policy has instead.
    lost: BTreeMap<(usize, usize), BTreeSet<Overruled>>,
}

impl Standings {
    /// The places that a policy with so many targets has.
    fn places_of(&self, (policy, targets): (usize, usize)) -> impl Iterator<Item = &Place> {
        self.won.range((policy, 0)..(policy, targets)).flat_map(|(_, places)| places)
    }
}

impl Attachments<'_> {
    /// The plan of every policy.
    pub(crate) fn policies(&self, workloads: &BTreeMap<WorkloadId, WorkloadPlan>) -> BTreeMap<PolicyId, PolicyPlan> {
        let standings = self.standings();
        let plan = |(index, judged)| self.policy(index, judged, (&standings, workloads));
        self.policies.iter().enumerate().map(plan).map(|plan| (plan.version.id.clone(), plan)).collect()
    }

    fn standings(&self) -> Standings {
        let mut standings = Standings::default();
        for (place, claims) in &self.places {
            let Some((winner, losers)) = claims.split_first() else { continue };
            standings.won.entry((winner.policy, winner.target)).or_default().push(place.clone());
            for loser in losers {
                if let Some(overruled) = self.overruled(place, winner, loser) {
                    standings.lost.entry((loser.policy, loser.target)).or_default().insert(overruled);
                }
            }
        }
        standings
    }

    /// Why one claim yields to another; nothing where both are of one policy.
    fn overruled(&self, place: &Place, winner: &Claim<'_>, loser: &Claim<'_>) -> Option<Overruled> {
        if winner.policy == loser.policy {
            return None;
        }
        let cause = if winner.service.id != loser.service.id {
            Cause::Conflict
        } else if winner.rank.standing != loser.rank.standing {
            Cause::ConsumerPolicy
        } else {
            Cause::MoreSpecific
        };
        let port = match &place.direction {
            Direction::Inbound(port) | Direction::Outbound(_, port) => *port,
        };
        let by = self.policies[winner.policy].source.id.clone();
        Some(Overruled { cause, by, workload: place.workload.clone(), port })
    }

    fn policy(
        &self,
        index: usize,
        judged: &Judged<'_>,
        (standings, workloads): (&Standings, &BTreeMap<WorkloadId, WorkloadPlan>),
    ) -> PolicyPlan {
        let spec = &judged.source.spec;
        let targets = judged.targets.iter().enumerate().zip(&spec.target_refs);
        PolicyPlan {
            version: version(judged),
            side: breaker_config::side(spec.side),
            mode: spec.mode,
            scope: spec.scope,
            targets: targets
                .map(|((position, target), reference)| {
                    let lost = standings.lost.get(&(index, position)).cloned().unwrap_or_default();
                    let won = standings.won.contains_key(&(index, position));
                    let rules = judged.rules.iter().map(|rule| rule.name.clone()).collect();
                    TargetPlan {
                        reference: reference.clone(),
                        target: target.id.clone(),
                        rules,
                        verdict: verdict(target, &lost, won),
                        overruled: lost.into_iter().collect(),
                        attached: if won { Attached::Somewhere } else { Attached::Nowhere },
                        doubts: target.resolved.as_ref().map(|it| doubts(judged, it)).unwrap_or_default(),
                    }
                })
                .collect(),
            pods: self.bound_pods(index, judged, (standings, workloads)),
            coverage: self.coverage(judged, standings.places_of((index, judged.targets.len()))),
            alerts: AlertSubject::of(&judged.source.id, &judged.source.spec),
            force: judged.force.clone(),
            prometheus: self.snapshot.prometheus,
        }
    }

    fn bound_pods(
        &self,
        index: usize,
        judged: &Judged<'_>,
        (standings, workloads): (&Standings, &BTreeMap<WorkloadId, WorkloadPlan>),
    ) -> BTreeMap<String, BoundPod> {
        let mut breakers: BTreeMap<&WorkloadId, BTreeSet<BreakerKey>> = BTreeMap::new();
        for (position, target) in judged.targets.iter().enumerate() {
            for place in standings.won.get(&(index, position)).into_iter().flatten() {
                breakers.entry(&place.workload).or_default().extend(keys(judged, target, &place.direction));
            }
        }
        let mut bound = BTreeMap::new();
        for (workload, keys) in breakers {
            let Some(plan) = workloads.get(workload) else { continue };
            let keys: Arc<[BreakerKey]> = keys.into_iter().collect();
            for pod in self.fleet.pods_of(workload).filter(|pod| pod.sidecar) {
                bound.insert(uid_of(pod), bound_pod(pod, plan, &keys));
            }
        }
        bound
    }
}

/// The policy at its generation.
pub(crate) fn version(judged: &Judged<'_>) -> PolicyVersion {
    let source = judged.source;
    PolicyVersion {
        kind: KIND.to_owned(),
        id: source.id.clone(),
        uid: source.uid.clone(),
        generation: source.generation,
    }
}

/// A target that another policy has everywhere is refused.
fn verdict(target: &JudgedTarget<'_>, lost: &BTreeSet<Overruled>, won: bool) -> Verdict {
    let conflict = lost.iter().find(|overruled| overruled.cause == Cause::Conflict);
    let (Verdict::Accepted, false, Some(conflict)) = (&target.verdict, won, conflict) else {
        return target.verdict.clone();
    };
    let Overruled { by, workload, port, cause: _ } = conflict;
    let service = Name { namespace: target.id.namespace.clone(), name: target.id.name.clone() };
    let what = format!("port {port} of {} {}, behind Service {service},", workload.kind, workload.name);
    Verdict::Refused(Refusal::Conflicted { winner: Name::from(by), what })
}

/// What of an accepted target is hardly meant.
fn doubts(judged: &Judged<'_>, resolved: &Resolved<'_>) -> Vec<Doubt> {
    let spec = &judged.source.spec;
    let looks_into_requests = !spec.rules.is_empty() || spec.fallback.kind != FallbackType::None;
    let plain = resolved.ports.iter().filter(|port| looks_into_requests && port.spoken == Protocol::Tcp);
    let plain = plain.map(|port| Doubt::PlainTcp(port.port));
    plain.chain(resolved.service.stray_opaque_ports.iter().cloned().map(Doubt::NoSuchOpaquePort)).collect()
}

fn keys(judged: &Judged<'_>, target: &JudgedTarget<'_>, direction: &Direction) -> Vec<BreakerKey> {
    if judged.source.spec.mode == Mode::Disabled {
        return Vec::new();
    }
    let port = match direction {
        Direction::Inbound(port) | Direction::Outbound(_, port) => *port,
    };
    let key = |rule: &fusebox_policy::config::BreakerRule| BreakerKey {
        policy: judged.source.id.clone(),
        target: target.id.clone(),
        side: breaker_config::side(judged.source.spec.side),
        port,
        rule: rule.name.clone(),
        endpoint: String::new(),
    };
    judged.rules.iter().map(key).collect()
}

fn bound_pod(pod: &Pod, plan: &WorkloadPlan, keys: &Arc<[BreakerKey]>) -> BoundPod {
    BoundPod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        workload: pod.workload.clone(),
        revision: plan.revision.clone(),
        readiness: if pod.ready { Readiness::Ready } else { Readiness::NotReady },
        breakers: Arc::clone(keys),
    }
}

/// A pod's uid; for one from a file its namespace and name, which no uid looks like.
fn uid_of(pod: &Pod) -> String {
    if pod.uid.is_empty() { format!("{}/{}", pod.namespace, pod.name) } else { pod.uid.clone() }
}
