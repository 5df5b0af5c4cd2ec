//! The whole operator against a real API server: what stands, what is written, and what is not.
//!
//! Each test has a cluster of its own, because an operator watches all namespaces and the audit log
//! must hold nobody else's writes.

mod admission_failing;
mod admission_injecting;
mod admission_stage;
mod admission_validating;
mod certificates;
mod events;
mod fenced_writes;
mod monitoring;
mod namespaced;
mod operations;
mod outputs;
mod rate_limit;
mod replicas;
mod telemetry;
mod truth;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use fusebox_api::CircuitBreakerPolicy;
use fusebox_testkit::pods::{PodBuilder, TestPod};
use fusebox_testkit::services::ServiceBuilder;
use fusebox_testkit::{AuditEvent, Cluster, Workload, eventually};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::{Api, Client, Config};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admission::Admission;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::run::{Operator, components};
use crate::settings::Settings;

const SOON: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "fusebox-system";

/// A running operator in this process. Dropping it stops it.
struct Running {
    health: Health,
    metrics: Metrics,
    admission: Admission,
    control: SocketAddr,
    operations: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<()>>,
    _guard: DropGuard,
}

impl Running {
    async fn start(cluster: &Cluster, identity: &str, flags: &[&str]) -> Result<Self> {
        Self::start_with(cluster.config().await?, identity, flags).await
    }

    /// As [`Running::start`], as whoever the configuration says.
    async fn start_with(config: Config, identity: &str, flags: &[&str]) -> Result<Self> {
        let (health, metrics) = (Health::starting(components()), Metrics::new()?);
        let own = ["fusebox-operator", "--control-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let chosen = flags.contains(&"--ops-listen");
        let operations: &[&str] = if chosen { &[] } else { &["--ops-listen", "127.0.0.1:0"] };
        let own = own.iter().chain(&["--webhook-listen", "127.0.0.1:0"]).chain(operations);
        let named = ["--namespace", NAMESPACE, "--identity", identity, "--discovery-interval", "1s"];
        let settings = Settings::try_parse_from(own.chain(&named).chain(flags))?;
        let operator = Operator::new(settings, config, health.clone(), metrics.clone()).await?;
        let admission = operator.admission();
        let (control, operations) = (operator.control_address()?, operator.operations_address()?);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(operator.run(shutdown.clone()));
        Ok(Self {
            health,
            metrics,
            admission,
            control,
            operations,
            _guard: shutdown.clone().drop_guard(),
            shutdown,
            task,
        })
    }

    async fn leads(&self) -> Result<()> {
        eventually(SOON, "this replica leads", async || {
            ensure!(self.metrics.leader.get() == 1, "it follows; health: {:?}", self.health.report());
            Ok(())
        })
        .await
    }

    async fn stop(self) -> Result<Duration> {
        let begun = std::time::Instant::now();
        self.shutdown.cancel();
        self.task.await??;
        Ok(begun.elapsed())
    }
}

/// A cluster with our CRDs and the operator's namespace.
async fn cluster() -> Result<Cluster> {
    let cluster = Cluster::start().await?;
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    cluster.install_crds(&crds).await?;
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    Api::all(cluster.client().await?).create(&PostParams::default(), &namespace).await?;
    Ok(cluster)
}

/// A namespace with the Service `payments` and one pod of the Deployment `web` that has a sidecar.
async fn shop(cluster: &Cluster) -> Result<(Client, String, TestPod)> {
    let (client, namespace) = (cluster.client().await?, cluster.unique_namespace("shop").await?);
    ServiceBuilder::cluster_ip(&namespace, "payments").selector("app", "payments").create(&client).await?;
    let pod = PodBuilder::of(&namespace, Workload::Deployment("web".to_owned())).with_sidecar().create(&client).await?;
    Ok((client, namespace, pod))
}

async fn apply_policy(cluster: &Cluster, namespace: &str, name: &str, target: &str) -> Result<()> {
    let yaml = format!(
        "apiVersion: fusebox.dev/v1alpha1\nkind: CircuitBreakerPolicy\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
         spec: {{targetRefs: [{{name: {target}}}]}}\n"
    );
    cluster.apply(&yaml).await.map(drop)
}

/// Waits until a condition of a policy has this status and reason.
async fn condition(client: &Client, namespace: &str, name: &str, expected: (&str, &str, &str)) -> Result<()> {
    let api: Api<CircuitBreakerPolicy> = Api::namespaced(client.clone(), namespace);
    let (kind, status, reason) = expected;
    eventually(SOON, &format!("{name} is {kind}={status}, {reason}"), async || {
        let found = api.get(name).await?.status.context("no status")?;
        let condition = found.conditions.iter().find(|it| it.type_ == kind).context("no such condition")?;
        ensure!((condition.status.as_str(), condition.reason.as_str()) == (status, reason), "{found:?}");
        Ok(())
    })
    .await
}

/// Writes of an operator other than those of the election.
fn is_write(event: &AuditEvent) -> bool {
    event.user_agent.starts_with("fusebox-operator") && event.is_write() && event.object.resource != "leases"
}
