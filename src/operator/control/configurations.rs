//! The configurations that the control stream serves: the last Plan's, by workload.
//!
//! Each is put into its line once, however many proxies get it. This module must not decide what
//! is in them: the compiler does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fusebox_policy::config::{LimitScope, PolicyId, ProxyConfig, RateLimit, Reference, WorkloadId};
use fusebox_policy::stream::{Down, encode};
use tokio::sync::watch;

use fusebox_compiler::PolicyKey;

/// One workload's configuration, ready to be sent.
#[derive(Clone, Debug)]
pub struct Configuration {
    revision: String,
    config: Arc<ProxyConfig>,
    policies: BTreeSet<PolicyKey>,
    references: Vec<Reference>,
    shared: BTreeSet<PolicyId>,
    line: Bytes,
}

/// Every workload's configuration. A workload that has a sidecar has an entry, if only an empty one.
#[derive(Clone, Debug, Default)]
pub struct Configurations {
    workloads: BTreeMap<WorkloadId, Arc<Configuration>>,
}

/// Where the control stream gets configurations from; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    sender: Arc<watch::Sender<Option<Arc<Configurations>>>>,
}

impl Configuration {
    /// Makes the line and the revision.
    ///
    /// # Errors
    /// When the configuration can't be written as JSON, which plain data always can.
    pub fn new(config: Arc<ProxyConfig>) -> Result<Self, serde_json::Error> {
        let revision = config.revision();
        let down = Down::Config { revision: revision.clone(), config: (*config).clone() };
        let policies = config.policies.iter().filter_map(PolicyKey::of).collect();
        let (references, shared) = (references(&config), shared(&config));
        Ok(Self { revision, policies, references, shared, line: Bytes::from(encode(&down)?), config })
    }

    /// The content's version.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The content.
    #[must_use]
    pub fn config(&self) -> &ProxyConfig {
        &self.config
    }

    /// Whether the policy is bound to this workload's pods.
    #[must_use]
    pub fn binds(&self, policy: &PolicyKey) -> bool {
        self.policies.contains(policy)
    }

    /// The values that the workload's sidecars must be sent, sorted: entries of their own namespace, by policies of it.
    #[must_use]
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The policies in it with limits of scope Shared.
    pub fn shared(&self) -> impl Iterator<Item = &PolicyId> {
        self.shared.iter()
    }

    /// The line that tells it to a proxy.
    #[must_use]
    pub fn line(&self) -> Bytes {
        self.line.clone()
    }
}

fn rate_limits(config: &ProxyConfig) -> impl Iterator<Item = &RateLimit> {
    let inbound = config.inbound.iter().filter_map(|route| route.rate_limit.as_ref());
    inbound.chain(config.outbound.iter().filter_map(|route| route.rate_limit.as_ref()))
}

fn references(config: &ProxyConfig) -> Vec<Reference> {
    let own = &config.workload.namespace;
    let limits = rate_limits(config).filter(|limit| limit.policy.namespace == *own);
    let named = limits.flat_map(RateLimit::references).filter(|reference| reference.namespace == *own);
    named.cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

fn shared(config: &ProxyConfig) -> BTreeSet<PolicyId> {
    let is_shared = |limit: &&RateLimit| limit.limits.iter().any(|limit| limit.scope == LimitScope::Shared);
    rate_limits(config).filter(is_shared).map(|limit| limit.policy.clone()).collect()
}

impl Configurations {
    /// Makes the next content from a Plan's configurations; lines of `previous` whose content is equal are kept.
    ///
    /// # Errors
    /// When a configuration can't be written as JSON, which plain data always can.
    pub fn next(
        previous: Option<&Configurations>,
        configs: impl IntoIterator<Item = Arc<ProxyConfig>>,
    ) -> Result<Self, serde_json::Error> {
        let mut workloads = BTreeMap::new();
        for config in configs {
            let kept = previous
                .and_then(|previous| previous.workloads.get(&config.workload))
                .filter(|kept| *kept.config == *config);
            let entry = match kept {
                Some(kept) => Arc::clone(kept),
                None => Arc::new(Configuration::new(Arc::clone(&config))?),
            };
            workloads.insert(config.workload.clone(), entry);
        }
        Ok(Self { workloads })
    }

    /// The configuration of a workload; None when it was not compiled (yet).
    #[must_use]
    pub fn get(&self, workload: &WorkloadId) -> Option<&Arc<Configuration>> {
        self.workloads.get(workload)
    }
}

impl Default for ConfigSource {
    fn default() -> Self {
        Self::new()
    }
}

impl ConfigSource {
    /// A source that is not ready until the first [`ConfigSource::publish`].
    #[must_use]
    pub fn new() -> Self {
        Self { sender: Arc::new(watch::Sender::new(None)) }
    }

    /// Takes a Plan's configurations; streams whose workload's revision changed send it at once.
    ///
    /// # Errors
    /// When a configuration can't be written as JSON, which plain data always can.
    pub fn publish(&self, configs: impl IntoIterator<Item = Arc<ProxyConfig>>) -> Result<(), serde_json::Error> {
        let next = Configurations::next(self.current().as_deref(), configs)?;
        self.sender.send_replace(Some(Arc::new(next)));
        Ok(())
    }

    /// What was published last; None before the first time.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Configurations>> {
        self.sender.borrow().clone()
    }

    /// Tells of each publication.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Configurations>>> {
        self.sender.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> WorkloadId {
        WorkloadId { namespace: "shop".into(), kind: "Deployment".into(), name: name.into() }
    }

    #[test]
    fn an_equal_configuration_keeps_its_line() {
        let source = ConfigSource::new();
        source.publish([Arc::new(ProxyConfig::empty(workload("web")))]).unwrap();
        let first = Arc::clone(source.current().unwrap().get(&workload("web")).unwrap());
        source.publish([Arc::new(ProxyConfig::empty(workload("web")))]).unwrap();
        let second = Arc::clone(source.current().unwrap().get(&workload("web")).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn a_workload_that_was_not_compiled_has_no_configuration() {
        let source = ConfigSource::new();
        assert!(source.current().is_none());
        source.publish([]).unwrap();
        assert!(source.current().unwrap().get(&workload("web")).is_none());
    }
}
