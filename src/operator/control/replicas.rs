//! How many proxies share each policy's limits now, as the last plan says.
//!
//! The reconcile writes here, and each stream reads the policies of its own configuration that have shared limits. It must not
//! end up in a ConfigMap, because it changes with every pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use fusebox_policy::config::PolicyId;
use fusebox_policy::stream::LiveReplicas;
use tokio::sync::watch;

use super::configurations::Configuration;

/// The counts; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct ReplicaCounts {
    sender: Arc<watch::Sender<BTreeMap<PolicyId, u32>>>,
}

impl Default for ReplicaCounts {
    fn default() -> Self {
        Self { sender: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }
}

impl ReplicaCounts {
    /// Takes the counts of a plan; streams are woken where one changed.
    pub fn replace(&self, counts: BTreeMap<PolicyId, u32>) {
        self.sender.send_if_modified(|known| {
            let changed = *known != counts;
            *known = counts;
            changed
        });
    }

    /// What a workload with this configuration is told, sorted.
    #[must_use]
    pub fn told(&self, configuration: &Configuration) -> Vec<LiveReplicas> {
        let counts = self.sender.borrow();
        let count = |policy: &PolicyId| counts.get(policy).copied().unwrap_or(1).max(1);
        let told = configuration.shared();
        told.map(|policy| LiveReplicas { policy: policy.clone(), replicas: count(policy) }).collect()
    }

    /// Tells of each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<PolicyId, u32>> {
        self.sender.subscribe()
    }
}
