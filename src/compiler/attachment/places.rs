//! Claims on places, and who goes first.
//!
//! It must rank by facts that every replica sees alike (standing, precision, age, name), never
//! by the order in which objects arrived.

use std::collections::BTreeMap;

use fusebox_api::common::Side;
use fusebox_policy::config::{PolicyId, WorkloadId};
use jiff::Timestamp;

use super::{Claim, Direction, Fleet, Judged, JudgedTarget, Place, Precision, Rank, Resolved, Source, Standing};
use crate::kind::Kind;

/// The older goes first, then namespace and name. A policy from a file has no age and goes last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seniority {
    created: Timestamp,
    id: PolicyId,
}

/// A target on its way to its claims.
struct Claimant<'c, 'a> {
    kind: Kind,
    policy: usize,
    position: usize,
    resolved: &'c Resolved<'a>,
    rank: Rank,
}

impl Seniority {
    pub(super) fn of(source: Source<'_>) -> Self {
        Self { created: source.created().unwrap_or(Timestamp::MAX), id: source.id().clone() }
    }
}

/// The claims on every place, the winner first.
pub(super) fn claimed<'a>(policies: &[Judged<'a>], fleet: &Fleet<'a>) -> BTreeMap<Place, Vec<Claim<'a>>> {
    let mut places: BTreeMap<Place, Vec<Claim<'a>>> = BTreeMap::new();
    for (index, policy) in policies.iter().enumerate() {
        for (position, target) in policy.targets.iter().enumerate() {
            let Some(resolved) = &target.resolved else { continue };
            let rank = rank_of(policy.source, target, position);
            let claimant = Claimant { kind: policy.source.kind(), policy: index, position, resolved, rank };
            match policy.source.side() {
                Side::Client => claimant.claim_outbound(fleet, &mut places),
                Side::Server => claimant.claim_inbound(fleet, &mut places),
            }
        }
    }
    for claims in places.values_mut() {
        claims.sort_by(|left, right| left.rank.cmp(&right.rank));
    }
    places
}

impl<'a> Claimant<'_, 'a> {
    fn claim_outbound(&self, fleet: &Fleet<'a>, places: &mut BTreeMap<Place, Vec<Claim<'a>>>) {
        for namespace in &self.resolved.callers {
            for (workload, _) in fleet.in_namespace(namespace) {
                for port in &self.resolved.ports {
                    let direction = Direction::Outbound(self.resolved.service.id.clone(), port.port);
                    self.claim(self.place(workload, direction), port, places);
                }
            }
        }
    }

    fn claim_inbound(&self, fleet: &Fleet<'a>, places: &mut BTreeMap<Place, Vec<Claim<'a>>>) {
        for (workload, member) in fleet.in_namespace(&self.resolved.service.id.namespace) {
            for port in &self.resolved.ports {
                for container_port in member.container_ports(self.resolved.service, port) {
                    self.claim(self.place(workload, Direction::Inbound(container_port)), port, places);
                }
            }
        }
    }

    fn place(&self, workload: &WorkloadId, direction: Direction) -> Place {
        Place { workload: workload.clone(), direction, kind: self.kind }
    }

    fn claim(
        &self,
        place: Place,
        service_port: &'a crate::snapshot::ServicePort,
        places: &mut BTreeMap<Place, Vec<Claim<'a>>>,
    ) {
        places.entry(place).or_default().push(Claim {
            rank: self.rank.clone(),
            policy: self.policy,
            target: self.position,
            service: self.resolved.service,
            service_port,
        });
    }
}

fn rank_of(source: Source<'_>, target: &JudgedTarget<'_>, position: usize) -> Rank {
    let standing = if source.id().namespace == target.id.namespace { Standing::Owner } else { Standing::Consumer };
    let precision = if target.id.section.is_empty() { Precision::Whole } else { Precision::Section };
    Rank { standing, precision, seniority: Seniority::of(source), position }
}
