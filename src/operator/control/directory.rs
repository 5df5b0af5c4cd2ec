//! The pods that may open a control stream, by uid.
//!
//! The operator's Pod store writes here, and each stream reads: a token's pod uid must be found
//! here for as long as its stream lives. Names are never enough, because a pod that was made anew
//! under the same name is another pod.

use std::collections::HashMap;
use std::sync::Arc;

use fusebox_policy::config::WorkloadId;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Names one pod, and that life of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What the control stream must know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// The pod.
    pub pod: PodRef,
    /// The workload whose configuration it gets.
    pub workload: WorkloadId,
    /// Whether it carries a sidecar at all.
    pub sidecar: Sidecar,
}

/// Whether a pod is marked as having our sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sidecar {
    /// It is marked.
    Present,
    /// It is not, so nothing in it may speak as a sidecar.
    Absent,
}

/// What the directory says about a uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// No list of pods came in yet, so nothing can be said.
    NotReady,
    /// No such pod lives.
    Unknown,
    /// The pod.
    Found(Arc<PodEntry>),
}

/// The living pods by uid; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct PodDirectory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pods: RwLock<Option<HashMap<String, Arc<PodEntry>>>>,
    version: watch::Sender<u64>,
}

impl Default for PodDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl PodDirectory {
    /// A directory that is not ready until the first [`PodDirectory::replace`].
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { pods: RwLock::new(None), version: watch::Sender::new(0) }) }
    }

    /// Takes a complete list: pods that are not in it are gone.
    pub fn replace(&self, entries: impl IntoIterator<Item = PodEntry>) {
        let pods = entries.into_iter().map(|entry| (entry.pod.uid.clone(), Arc::new(entry))).collect();
        *self.shared.pods.write() = Some(pods);
        self.announce();
    }

    /// Adds a pod or takes its new state. Before the first [`PodDirectory::replace`] it does nothing.
    pub fn insert(&self, entry: PodEntry) {
        let uid = entry.pod.uid.clone();
        let changed = match self.shared.pods.write().as_mut() {
            None => false,
            Some(pods) if pods.get(&uid).is_some_and(|old| **old == entry) => false,
            Some(pods) => {
                pods.insert(uid, Arc::new(entry));
                true
            }
        };
        if changed {
            self.announce();
        }
    }

    /// Says that a pod is gone: its streams end.
    pub fn remove(&self, uid: &str) {
        let removed = self.shared.pods.write().as_mut().is_some_and(|pods| pods.remove(uid).is_some());
        if removed {
            self.announce();
        }
    }

    /// The pod with this uid.
    #[must_use]
    pub fn lookup(&self, uid: &str) -> Lookup {
        match self.shared.pods.read().as_ref() {
            None => Lookup::NotReady,
            Some(pods) => pods.get(uid).map_or(Lookup::Unknown, |entry| Lookup::Found(Arc::clone(entry))),
        }
    }

    /// Tells of each change; look the pod up again then.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    fn announce(&self) {
        self.shared.version.send_modify(|version| *version += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(uid: &str) -> PodEntry {
        PodEntry {
            pod: PodRef { namespace: "shop".into(), name: "web".into(), uid: uid.into() },
            workload: WorkloadId { namespace: "shop".into(), kind: "Deployment".into(), name: "web".into() },
            sidecar: Sidecar::Present,
        }
    }

    #[test]
    fn nothing_is_said_before_the_first_list() {
        let directory = PodDirectory::new();
        directory.insert(entry("a"));
        assert_eq!(directory.lookup("a"), Lookup::NotReady);
    }

    #[test]
    fn a_pod_made_anew_under_the_same_name_is_another_pod() {
        let directory = PodDirectory::new();
        directory.replace([entry("a")]);
        directory.replace([entry("b")]);
        assert_eq!(directory.lookup("a"), Lookup::Unknown);
        assert!(matches!(directory.lookup("b"), Lookup::Found(_)));
    }

    #[test]
    fn an_equal_entry_wakes_nobody() {
        let directory = PodDirectory::new();
        directory.replace([entry("a")]);
        let mut changes = directory.subscribe();
        changes.mark_unchanged();
        directory.insert(entry("a"));
        directory.remove("unknown");
        assert!(!changes.has_changed().unwrap());
        directory.remove("a");
        assert!(changes.has_changed().unwrap());
    }
}
