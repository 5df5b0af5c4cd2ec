//! Which pods of the enforcing side go without a policy, as far as the pods themselves show it.
//!
//! Plain data for conditions and statuses, bounded: a thousand policies over ten thousand pods must fit. What only the
//! sidecars' own words show (a stream that is down, an old configuration) is not here.

use std::collections::{BTreeMap, BTreeSet};

use fusebox_policy::config::WorkloadId;

/// Pods that are named for one gap, at most; the rest is counted.
pub const MAX_NAMED_PODS: usize = 16;

/// The enforcing side of one policy, by its sidecars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Pods that have a sidecar or ask for one.
    pub expected: usize,
    /// Pods that have one.
    pub injected: usize,
    /// Pods that neither have nor ask for one, by namespace.
    pub unasked: BTreeMap<String, usize>,
    /// Pods that can't have one: in a namespace in which none gets one, or on their node's network.
    pub exempt: usize,
    /// Pods for which the policy does not work as it should.
    pub gaps: BTreeMap<Gap, GapPods>,
}

/// Why a policy does not work for a pod as it should, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// It asks for a sidecar and has none.
    SidecarMissing,
    /// It has no host alias for a Service, since the policy came after it.
    RestartNeeded,
    /// The Service leads to the application by number, past the sidecar.
    Bypassed,
    /// An older version injected its sidecar. It works all the same.
    SidecarOld,
}

/// The pods of one gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GapPods {
    /// How many there are.
    pub total: usize,
    /// The first of them by namespace and name, at most [`MAX_NAMED_PODS`].
    pub named: Vec<GapPod>,
}

/// One pod with a gap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GapPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its workload, which must be restarted.
    pub workload: WorkloadId,
    /// What it is about: a Service and its port, or the sidecar's version; empty where the gap says it all.
    pub subject: String,
}

impl Coverage {
    /// Pods without a sidecar, whether they ask for one or not.
    #[must_use]
    pub fn bare(&self) -> usize {
        self.unasked.values().sum::<usize>() + self.exempt + self.missing()
    }

    /// Pods that ask for a sidecar and have none.
    #[must_use]
    pub const fn missing(&self) -> usize {
        self.expected.saturating_sub(self.injected)
    }

    /// Takes the pods of a gap; each pod counts once.
    pub(crate) fn take(&mut self, gap: Gap, pods: BTreeSet<GapPod>) {
        let mut pods: Vec<GapPod> = pods.into_iter().collect();
        pods.dedup_by(|later, earlier| (&later.namespace, &later.name) == (&earlier.namespace, &earlier.name));
        if pods.is_empty() {
            return;
        }
        let total = pods.len();
        pods.truncate(MAX_NAMED_PODS);
        self.gaps.insert(gap, GapPods { total, named: pods });
    }
}
