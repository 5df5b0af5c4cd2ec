//! Who enforces what: every policy's references become places at which it has the word, or has not.
//!
//! This is the only file tree that decides about tenants: nobody steers the traffic of another
//! namespace's pods without that namespace's word. It must not know what a policy does: kinds differ in `source` alone, and each has
//! its own winner at a place.

mod coverage;
mod fleet;
mod judge;
mod places;
mod policies;
mod source;

use std::collections::BTreeMap;

use fusebox_api::common::Side;
use fusebox_policy::config::{ServiceId, WorkloadId};

use crate::kind::Kind;
use crate::plan::{Guarded, Verdict};
use crate::snapshot::{Service, ServicePort, Snapshot};

pub(crate) use fleet::{Fleet, selects};
pub(crate) use source::{Asked, Demand, Source};

/// Every policy judged, and every place with the policies that claim it.
#[derive(Debug)]
pub struct Attachments<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) fleet: Fleet<'a>,
    pub(crate) policies: Vec<Judged<'a>>,
    /// The claims on each place, the winner first.
    pub(crate) places: BTreeMap<Place, Vec<Claim<'a>>>,
}

/// One policy with the verdicts on its references.
#[derive(Debug)]
pub(crate) struct Judged<'a> {
    pub(crate) source: Source<'a>,
    /// What it asks for at its places.
    pub(crate) demand: Demand<'a>,
    pub(crate) targets: Vec<JudgedTarget<'a>>,
}

/// One reference.
#[derive(Debug)]
pub(crate) struct JudgedTarget<'a> {
    pub(crate) id: fusebox_policy::config::TargetId,
    pub(crate) verdict: Verdict,
    /// What it resolves to; absent where it is refused.
    pub(crate) resolved: Option<Resolved<'a>>,
}

/// What an accepted reference means.
#[derive(Clone, Debug)]
pub(crate) struct Resolved<'a> {
    pub(crate) service: &'a Service,
    pub(crate) ports: Vec<&'a ServicePort>,
    /// The namespaces whose callers obey, on side Client.
    pub(crate) callers: Vec<&'a str>,
}

/// Where one policy of a kind at most can stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) workload: WorkloadId,
    pub(crate) direction: Direction,
    pub(crate) kind: Kind,
}

/// Which traffic of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// Into this container port.
    Inbound(u16),
    /// Out to this port of this Service.
    Outbound(ServiceId, u16),
}

/// A policy's claim on a place.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) rank: Rank,
    /// Index into [`Attachments::policies`].
    pub(crate) policy: usize,
    /// Index into the policy's targets.
    pub(crate) target: usize,
    pub(crate) service: &'a Service,
    pub(crate) service_port: &'a ServicePort,
}

/// Who goes first; the least wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) standing: Standing,
    pub(crate) precision: Precision,
    pub(crate) seniority: places::Seniority,
    /// Position among the policy's own references.
    pub(crate) position: usize,
}

/// Whose policy it is, as the caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// The callers' namespace's own policy for a Service elsewhere.
    Consumer,
    /// The policy of the Service's namespace.
    Owner,
}

/// How exactly a reference names the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Precision {
    /// By the port's name.
    Section,
    /// By the Service alone.
    Whole,
}

/// Judges every policy and gives each place to one of them.
#[must_use]
pub fn resolve(snapshot: &Snapshot) -> Attachments<'_> {
    let fleet = Fleet::new(snapshot);
    let policies = judge::all(snapshot);
    let places = places::claimed(&policies, &fleet);
    Attachments { snapshot, fleet, policies, places }
}

impl Attachments<'_> {
    /// The Services that have an accepted policy, as far as injection needs to know.
    pub(crate) fn guarded(&self) -> Guarded {
        let mut guarded = Guarded::default();
        for policy in &self.policies {
            for resolved in policy.targets.iter().filter_map(|target| target.resolved.as_ref()) {
                match policy.source.side() {
                    Side::Client => {
                        for caller in &resolved.callers {
                            guarded.by_caller(caller, resolved.service);
                        }
                    }
                    Side::Server => guarded.at_server(resolved.service),
                }
            }
        }
        guarded
    }

    /// The places of one workload, with their claims.
    pub(crate) fn places_of(&self, workload: &WorkloadId) -> impl Iterator<Item = (&Place, &Vec<Claim<'_>>)> {
        let first =
            Place { workload: workload.clone(), direction: Direction::Inbound(0), kind: Kind::CircuitBreakerPolicy };
        let id = workload.clone();
        self.places.range(first..).take_while(move |(place, _)| place.workload == id)
    }
}
