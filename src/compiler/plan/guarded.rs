//! The Services that have an accepted policy, for the injection of pods that are not there yet.
//!
//! It must not know pods: an answer that changed with them would give two pods of one workload different sidecars.

use std::collections::{BTreeMap, BTreeSet};

use fusebox_policy::config::ServiceId;

use crate::snapshot::Service;

/// The Services that have an accepted policy. Which pods there are decides nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    by_callers: BTreeMap<String, BTreeSet<ServiceId>>,
    at_servers: BTreeSet<ServiceId>,
}

impl Guarded {
    /// The Services whose policies on side Client the callers of a namespace obey.
    pub fn by_callers(&self, namespace: &str) -> impl Iterator<Item = &ServiceId> {
        self.by_callers.get(namespace).into_iter().flatten()
    }

    /// The Services of a namespace that have a policy on side Server.
    pub fn at_servers(&self, namespace: &str) -> impl Iterator<Item = &ServiceId> {
        self.at_servers.iter().filter(move |id| id.namespace == namespace)
    }

    pub(crate) fn by_caller(&mut self, namespace: &str, service: &Service) {
        self.by_callers.entry(namespace.to_owned()).or_default().insert(service.id.clone());
    }

    pub(crate) fn at_server(&mut self, service: &Service) {
        self.at_servers.insert(service.id.clone());
    }
}
