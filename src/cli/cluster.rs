//! The way to a cluster: kubeconfig, context, namespace, and what is read of it.
//!
//! It must only read; the commands that write do so themselves. Errors say what to do next, because most who meet one
//! have merely no cluster at hand, or no right to it.

use anyhow::{Context as _, Result};
use fusebox_api::{CircuitBreakerPolicy, RateLimit};
use fusebox_compiler::Snapshot;
use fusebox_compiler::snapshot::{self, Pod};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::arguments::ClusterArguments;
use crate::refusal::{Role, explained, is_unknown};

/// The field manager of what people set by hand with this command, apart from the operator's own.
pub(crate) const CLI_MANAGER: &str = "fusebox-cli";

/// How many objects one list call brings.
const PAGE: u32 = 500;

/// A cluster that answers.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// A client without kube's own retries, which would go on for minutes while the operator is away.
    pub(crate) impatient: Client,
    /// The namespace that was asked for, else the context's.
    pub(crate) namespace: String,
}

impl ClusterArguments {
    /// A client for the cluster that the arguments name.
    pub(crate) async fn connect(&self) -> Result<Session> {
        let config = self.config().await.context(
            "no cluster to talk to: set KUBECONFIG or pass --kubeconfig FILE (without a cluster, `fusebox run` and `fusebox check` work on files)",
        )?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let mut impatient = config.clone();
        impatient.default_retry = false;
        let client = Client::try_from(config).context("the kubeconfig can't be used")?;
        let impatient = Client::try_from(impatient).context("the kubeconfig can't be used")?;
        Ok(Session { client, impatient, namespace })
    }

    async fn config(&self) -> Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("{}", path.display()))?;
            return Ok(Config::from_custom_kubeconfig(kubeconfig, &options).await?);
        }
        if self.context.is_some() {
            return Ok(Config::from_kubeconfig(&options).await?);
        }
        Ok(Config::infer().await?)
    }
}

impl Session {
    /// The policies of one namespace.
    pub(crate) fn policies(&self) -> Api<CircuitBreakerPolicy> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One policy of the session's namespace.
    pub(crate) async fn policy(&self, name: &str) -> Result<CircuitBreakerPolicy> {
        let found = self.policies().get_opt(name).await.map_err(|error| explained(error, Role::View))?;
        found.with_context(|| {
            format!(
                "CircuitBreakerPolicy {}/{name} does not exist: `fusebox status` lists all, -n chooses the namespace",
                self.namespace
            )
        })
    }

    /// Everything the compiler decides from, as it stands now.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot> {
        let mut snapshot = Snapshot::empty(Timestamp::now());
        let policies: Vec<CircuitBreakerPolicy> = list(Api::all(self.client.clone())).await?;
        let services: Vec<core::Service> = list(Api::all(self.client.clone())).await?;
        let pods: Vec<core::Pod> = list(Api::all(self.client.clone())).await?;
        let namespaces: Vec<core::Namespace> = list(Api::all(self.client.clone())).await?;
        let limits: Vec<RateLimit> = where_served(list(Api::all(self.client.clone())).await)?;
        snapshot.rate_limits = limits.iter().map(snapshot::RateLimit::from).collect();
        snapshot.circuit_breakers = policies.iter().map(snapshot::CircuitBreaker::from).collect();
        snapshot.services = services.iter().map(snapshot::Service::from).collect();
        snapshot.pods = pods.iter().filter_map(Pod::from_object).collect();
        snapshot.namespaces = namespaces.iter().map(snapshot::Namespace::from).collect();
        Ok(snapshot)
    }
}

/// Nothing where the cluster does not know the kind, as one of an older release does not know every kind.
fn where_served<K>(listed: Result<Vec<K>>) -> Result<Vec<K>> {
    match listed {
        Err(error) if is_unknown(&error) => Ok(Vec::new()),
        listed => listed,
    }
}

/// All objects of all namespaces, page by page.
async fn list<K>(api: Api<K>) -> Result<Vec<K>>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await.map_err(|error| explained(error, Role::ClusterView))?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
