//! A cluster with Fusebox installed: CRDs, rights, and any number of operator processes.
//!
//! Owns the order in which the parts start. It must not know any policy; scenes are made on top of it. Every operator
//! runs under its own name and only the rights of `config/rbac`, so that the audit log says who wrote what.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fusebox_testkit::process::binary_path;
use fusebox_testkit::{AuditEvent, Cluster, ClusterOptions, eventually};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

use crate::operator::{OperatorOptions, OperatorProcess};

/// The operator's own namespace, from `config/rbac/operator.yaml`.
pub const SYSTEM_NAMESPACE: &str = "fusebox-system";
/// How long anything may take before a test gives up: far more than it should, for machines are noisy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The ConfigMap with the operator's certificate authority.
pub const CONTROL_CA: &str = "fusebox-ca";
/// Where an operator of the version before publishes it.
const PREVIOUS_CA: &str = "fusebox-control-ca";

/// A cluster with Fusebox in it. Ends with everything in it when dropped.
pub struct Fleet {
    /// The operators, in the order they were started. Dropped before the cluster.
    pub operators: Vec<OperatorProcess>,
    /// A client with full rights.
    pub client: Client,
    /// The control plane.
    pub cluster: Cluster,
}

impl Fleet {
    /// Starts a cluster of its own, installs CRDs and rights, and starts `replicas` operators with the given options.
    ///
    /// # Errors
    /// When a part does not become ready; the message holds the end of its log.
    pub async fn start(replicas: usize, options: &OperatorOptions) -> Result<Self> {
        let mut fleet = Self::without_operator(ClusterOptions::default()).await?;
        for _ in 0..replicas {
            fleet.add_operator(options).await?;
        }
        Ok(fleet)
    }

    /// Starts a cluster of its own and installs CRDs and rights.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub async fn without_operator(options: ClusterOptions) -> Result<Self> {
        let cluster = Cluster::start_with(options).await?;
        cluster.install_crds(&repository("crds")).await?;
        for rights in ["config/rbac/operator.yaml", "config/rbac/roles.yaml"] {
            cluster.apply(&std::fs::read_to_string(repository(rights))?).await?;
        }
        let client = cluster.client().await?;
        Ok(Self { operators: Vec::new(), client, cluster })
    }

    /// Starts one more operator and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn add_operator(&mut self, options: &OperatorOptions) -> Result<&OperatorProcess> {
        let identity = format!("fusebox-operator-{}", self.operators.len());
        let kubeconfig = self.cluster.kubeconfig_for_user(&identity, Some("fusebox-operators"))?;
        let operator = OperatorProcess::start(&identity, &kubeconfig, options).await?;
        self.operators.push(operator);
        self.operators.last().context("an operator was just added")
    }

    /// The control URLs of all operators, as a proxy takes them.
    #[must_use]
    pub fn control_urls(&self) -> Vec<String> {
        self.operators.iter().map(OperatorProcess::control_url).collect()
    }

    /// The certificate authority that proxies trust, as PEM; waits until the leader has made it.
    ///
    /// # Errors
    /// When there is none within [`PATIENCE`].
    pub async fn control_ca(&self) -> Result<String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        eventually(PATIENCE, "the control stream's certificate authority is published", async || {
            let map = match maps.get_opt(CONTROL_CA).await? {
                Some(map) => map,
                None => maps.get(PREVIOUS_CA).await?,
            };
            map.data.unwrap_or_default().remove("ca.crt").context("no ca.crt in the ConfigMap")
        })
        .await
    }

    /// What kubectl prints.
    ///
    /// # Errors
    /// When it exits with another code than 0.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl_ok(arguments).await
    }

    /// What our own command prints, against this cluster.
    ///
    /// # Errors
    /// When it exits with another code than 0.
    pub async fn fusebox(&self, arguments: &[&str]) -> Result<String> {
        let output = self.fusebox_as(&self.cluster.kubeconfig_path(), arguments).await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "fusebox {} failed: {printed}{errors}", arguments.join(" "));
        Ok(printed)
    }

    /// What our own command does for the user of a kubeconfig, whether it succeeds or not.
    ///
    /// # Errors
    /// When it can't be run.
    pub async fn fusebox_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = tokio::process::Command::new(binary_path("fusebox")?);
        command.args(arguments).env("KUBECONFIG", kubeconfig).kill_on_drop(true);
        command.output().await.context("cannot run fusebox")
    }

    /// The index of the operator that holds the lease.
    ///
    /// # Errors
    /// When none does within [`PATIENCE`].
    pub async fn leader(&self) -> Result<usize> {
        eventually(PATIENCE, "one operator holds the lease", async || {
            let holder = self
                .kubectl(&[
                    "get",
                    "lease",
                    "fusebox-operator",
                    "-n",
                    SYSTEM_NAMESPACE,
                    "-o",
                    "jsonpath={.spec.holderIdentity}",
                ])
                .await?;
            self.operators
                .iter()
                .position(|operator| holder.strip_prefix(operator.identity()).is_some_and(|rest| rest.starts_with('_')))
                .with_context(|| format!("the lease is held by {holder:?}"))
        })
        .await
    }

    /// The writes that one operator made and the API server accepted.
    ///
    /// # Errors
    /// When the audit log can't be read.
    pub fn writes_of(&self, identity: &str) -> Result<Vec<AuditEvent>> {
        let events = self.cluster.audit_events()?;
        Ok(events
            .into_iter()
            .filter(|event| event.user.username == identity && event.is_write() && event.succeeded())
            .collect())
    }
}

/// A path in this repository.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    root.join(path)
}
