//! What became of every policy, told from the places it has and has not.
//!
//! It must only tell: every decision has been made before, and status and `explain` read it here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fusebox_policy::config::WorkloadId;

use super::{Attachments, Claim, Direction, Judged, JudgedTarget, Place};
use crate::common_config;
use crate::kind::PolicyKey;
use crate::plan::{
    Attached, BoundPod, Cause, Name, Overruled, PolicyPlan, Readiness, Refusal, StateKeys, TargetPlan, Verdict,
    WorkloadPlan,
};
use crate::snapshot::Pod;

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
    pub(crate) fn policies(&self, workloads: &BTreeMap<WorkloadId, WorkloadPlan>) -> BTreeMap<PolicyKey, PolicyPlan> {
        let standings = self.standings();
        let plan = |(index, judged)| self.policy(index, judged, (&standings, workloads));
        self.policies.iter().enumerate().map(plan).map(|plan| (plan.key.clone(), plan)).collect()
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
        let by = self.policies[winner.policy].source.id().clone();
        Some(Overruled { cause, by, workload: place.workload.clone(), port })
    }

    fn policy(
        &self,
        index: usize,
        judged: &Judged<'_>,
        (standings, workloads): (&Standings, &BTreeMap<WorkloadId, WorkloadPlan>),
    ) -> PolicyPlan {
        let source = judged.source;
        let targets = judged.targets.iter().enumerate().zip(source.target_refs());
        PolicyPlan {
            key: source.key(),
            version: source.version(),
            side: common_config::side(source.side()),
            mode: source.mode(),
            targets: targets
                .map(|((position, target), reference)| {
                    let lost = standings.lost.get(&(index, position)).cloned().unwrap_or_default();
                    let won = standings.won.contains_key(&(index, position));
                    TargetPlan {
                        reference: reference.clone(),
                        target: target.id.clone(),
                        verdict: verdict(target, &lost, won),
                        overruled: lost.into_iter().collect(),
                        attached: if won { Attached::Somewhere } else { Attached::Nowhere },
                        doubts: target.resolved.as_ref().map(|it| source.doubts(it)).unwrap_or_default(),
                    }
                })
                .collect(),
            pods: self.bound_pods(index, judged, (standings, workloads)),
            coverage: self.coverage(judged, standings.places_of((index, judged.targets.len()))),
            references: judged.demand.references(&self.snapshot.references),
            alerts: source.alerts(),
            part: judged.demand.part(),
            prometheus: self.snapshot.prometheus,
            reader: self.snapshot.operator.reader(),
        }
    }

    fn bound_pods(
        &self,
        index: usize,
        judged: &Judged<'_>,
        (standings, workloads): (&Standings, &BTreeMap<WorkloadId, WorkloadPlan>),
    ) -> BTreeMap<String, BoundPod> {
        let mut keys: BTreeMap<&WorkloadId, StateKeys> = BTreeMap::new();
        for (position, target) in judged.targets.iter().enumerate() {
            for place in standings.won.get(&(index, position)).into_iter().flatten() {
                keys.entry(&place.workload).or_default().extend(judged.demand.keys(&target.id, &place.direction));
            }
        }
        let mut bound = BTreeMap::new();
        for (workload, keys) in keys {
            let Some(plan) = workloads.get(workload) else { continue };
            let keys = Arc::new(keys);
            for pod in self.fleet.pods_of(workload).filter(|pod| pod.sidecar) {
                bound.insert(uid_of(pod), bound_pod(pod, plan, &keys));
            }
        }
        bound
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

fn bound_pod(pod: &Pod, plan: &WorkloadPlan, keys: &Arc<StateKeys>) -> BoundPod {
    BoundPod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        workload: pod.workload.clone(),
        revision: plan.revision.clone(),
        readiness: if pod.ready { Readiness::Ready } else { Readiness::NotReady },
        keys: Arc::clone(keys),
    }
}

/// A pod's uid; for one from a file its namespace and name, which no uid looks like.
fn uid_of(pod: &Pod) -> String {
    if pod.uid.is_empty() { format!("{}/{}", pod.namespace, pod.name) } else { pod.uid.clone() }
}
