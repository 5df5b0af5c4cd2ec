//! The operator as a whole: what starts in which order, and how it ends.
//!
//! Starting never waits for anything that can be absent for long: without CRDs, peers or a collector
//! the operator runs, says what is missing, and goes on as soon as it is there.

mod ports;
mod tending;
mod work;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fusebox_compiler::PolicyKey;
use fusebox_compiler::injection::InjectionOptions;
use kube::Config;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::ports::{Listeners, listen};
use crate::admission::{Admission, AdmissionMetrics};
use crate::api_calls::{CallBudget, Clients};
use crate::apply::MonitoringResults;
use crate::certificates::Trust;
use crate::control::{
    Commands, ConfigSource, ControlMetrics, EndpointDirectory, PodDirectory, ReferenceValues, ReplicaCounts, ReportBook,
};
use crate::health::{Component, Health};
use crate::lease::{self, Candidate, Leadership, Timing};
use crate::metrics::Metrics;
use crate::ops::{Operations, OperationsMetrics};
use crate::reconcile::Compiled;
use crate::settings::Settings;
use crate::stores::{OutputStores, Scope, Signal, Stores, Watches};
use crate::touched::Touched;

/// The Lease that the replicas share.
pub const LEASE: &str = "fusebox-operator";

/// How long everything gets to end.
const DRAIN: Duration = Duration::from_secs(4);

/// An operator that is set up and not running yet.
pub struct Operator {
    settings: Settings,
    timing: Timing,
    config: Config,
    clients: Clients,
    admin: TcpListener,
    listeners: Listeners,
    admission: Admission,
    shared: Shared,
}

/// What the operator's parts have in common.
#[derive(Clone)]
struct Shared {
    health: Health,
    metrics: Metrics,
    control_metrics: ControlMetrics,
    operations: Operations,
    operations_metrics: OperationsMetrics,
    leadership: Leadership,
    watches: Watches,
    stores: Stores,
    outputs: OutputStores,
    directory: PodDirectory,
    endpoints: EndpointDirectory,
    source: ConfigSource,
    references: ReferenceValues,
    replicas: ReplicaCounts,
    commands: Commands,
    book: ReportBook,
    inputs: Signal,
    statuses: Touched<PolicyKey>,
    monitoring: MonitoringResults,
    trust: Trust,
    published: watch::Sender<Option<Arc<Compiled>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The components that an operator's health consists of.
#[must_use]
pub fn components() -> [Component; 9] {
    [
        Component::Api,
        Component::Stores,
        Component::Resources,
        Component::Lease,
        Component::Control,
        Component::Webhooks,
        Component::Operations,
        Component::Certificates,
        Component::Bundles,
    ]
}

impl Operator {
    /// Sets everything up that can fail by wrong settings, and opens the ports.
    ///
    /// # Errors
    /// When settings don't fit together, the cluster's configuration can't be used, or a port can't be opened.
    pub async fn new(settings: Settings, mut config: Config, health: Health, metrics: Metrics) -> anyhow::Result<Self> {
        let timing = settings.check()?;
        let agent = format!("fusebox-operator/{} {}", env!("CARGO_PKG_VERSION"), settings.identity);
        let agent = http::HeaderValue::from_str(&agent).context("--identity can't be sent in a header")?;
        config.headers.push((http::header::USER_AGENT, agent));
        let budget = CallBudget::new(health.clone(), metrics.clone());
        let leadership = Leadership::new(&timing);
        let clients =
            Clients::new(&config, &budget, &leadership).context("the cluster's configuration can't be used")?;
        let admin = listen(settings.admin_listen, "--admin-listen").await?;
        let listeners = Listeners::open(&settings).await?;
        let trust = Trust::new(settings.schedule()?.fresh_for());
        let shared = Shared::new(health, metrics, leadership, trust)?;
        let admission = Admission {
            options: injection_options(settings.injection_config.as_deref())?.map(Arc::new),
            operator: Arc::new(settings.operator()),
            stores: shared.stores.clone(),
            published: shared.published.subscribe(),
            inputs: shared.inputs.clone(),
            metrics: AdmissionMetrics::register(&shared.metrics.registry)?,
        };
        Ok(Self { settings, timing, config, clients, admin, listeners, admission, shared })
    }

    /// Where the admin port listens.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Where the control port listens.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn control_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.control.local_addr()
    }

    /// Where the operations port listens.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn operations_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.operations.local_addr()
    }

    /// The webhooks, for tests that serve them with certificates of their own.
    #[cfg(test)]
    pub(crate) fn admission(&self) -> Admission {
        self.admission.clone()
    }

    /// Where the webhook port listens.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn webhook_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.webhook.local_addr()
    }

    /// Runs until `shutdown`, then gives the lease back, ends streams and returns within a few seconds.
    ///
    /// # Errors
    /// When a client for the lease can't be made.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { settings, timing, config, clients, admin, listeners, admission, shared } = self;
        let stop = shared.stop.clone();
        let control = listeners.control.local_addr()?;
        let address =
            settings.advertise.as_ref().map_or_else(|| control.to_string(), |it| it.with_port(control.port()));
        let identity = lease::unique_identity(&settings.identity)?;
        tracing::info!(identity, address, namespace = settings.namespace, serves = ?settings.namespaces, "starting");
        let tls = shared.keep_certificates(&settings, &clients, &address)?;
        shared.serve_admin(admin);
        shared.spawn(tending::tend(shared.clone()));
        let around = shared.start_stores(&clients, (Scope::of(&settings.namespaces), &settings.namespace));
        let candidate = Candidate {
            namespace: settings.namespace.clone(),
            name: LEASE.to_owned(),
            identity: identity.clone(),
            address: address.clone(),
            timing,
        };
        let lease_client = lease::client(config, &timing)?;
        shared.spawn(lease::run(lease_client, candidate, shared.leadership.clone(), stop.clone()));
        let Listeners { control, webhook, operations } = listeners;
        shared.spawn(shared.clone().serve_webhooks(tls.clone(), webhook, admission));
        shared.spawn(shared.clone().serve_control(tls, clients.clone(), (control, operations), identity.clone()));
        shared.spawn(shared.clone().reconcile(settings, clients, around, identity));
        shutdown.cancelled().await;
        tracing::info!("stopping");
        stop.cancel();
        shared.tasks.close();
        if tokio::time::timeout(DRAIN, shared.tasks.wait()).await.is_err() {
            tracing::warn!("not everything ended in time");
        }
        Ok(())
    }
}

impl Shared {
    /// What nothing has been put into yet, with the metrics registered.
    fn new(health: Health, metrics: Metrics, leadership: Leadership, trust: Trust) -> anyhow::Result<Self> {
        Ok(Self {
            control_metrics: ControlMetrics::register(&metrics.registry)?,
            operations: Operations::default(),
            operations_metrics: OperationsMetrics::register(&metrics.registry)?,
            leadership,
            health,
            metrics,
            watches: Watches::default(),
            stores: Stores::default(),
            outputs: OutputStores::default(),
            directory: PodDirectory::new(),
            endpoints: EndpointDirectory::new(),
            source: ConfigSource::new(),
            references: ReferenceValues::default(),
            replicas: ReplicaCounts::default(),
            commands: Commands::default(),
            book: ReportBook::new(),
            inputs: Signal::default(),
            statuses: Touched::default(),
            monitoring: MonitoringResults::default(),
            trust,
            published: watch::Sender::new(None),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Runs `task` beside the others; [`Operator::run`] waits for its end.
    fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task);
    }
}

/// What sidecars are made of, where the installation says it.
fn injection_options(file: Option<&Path>) -> anyhow::Result<Option<InjectionOptions>> {
    let Some(file) = file else { return Ok(None) };
    let context = || format!("--injection-config {} can't be used", file.display());
    let text = std::fs::read_to_string(file).with_context(context)?;
    InjectionOptions::parse(&text).map(Some).with_context(context)
}
