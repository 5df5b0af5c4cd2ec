//! The operator as a whole: what starts in which order, and how it ends.
//!
//! Starting never waits for anything that can be absent for long: without CRDs, peers or a collector
//! the operator runs, says what is missing, and goes on as soon as it is there.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fusebox_compiler::injection::InjectionOptions;
use fusebox_compiler::monitoring::MonitoringOptions;
use fusebox_compiler::snapshot::Prometheus;
use kube::Config;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::admission::{self, Admission, AdmissionMetrics};
use crate::api_calls::{CallBudget, Clients};
use crate::apply::{Applier, MonitoringResults, OutputKind};
use crate::certificates::{Certificates, Names, Publisher, Purpose, Target, Tls, TlsSource, Trust};
use crate::control::{
    Commands, ConfigSource, Control, ControlMetrics, EndpointDirectory, PodDirectory, ReferenceValues, ReplicaCounts,
    ReportBook, Seats, serve,
};
use crate::discovery::Discovery;
use crate::events;
use crate::health::{Component, Health, Status};
use crate::lease::{self, Candidate, Leadership, Role, Timing};
use crate::metrics::Metrics;
use crate::ops::{self, Desk, LeadsSince, Operations, OperationsMetrics};
use crate::peer::{Forwarder, forward};
use crate::reconcile::{Compiled, Reconciler};
use crate::references::{ReferenceSurroundings, References};
use crate::settings::Settings;
use crate::status::{StatusWriter, count_conditions};
use crate::stores::{self, OutputStores, Scope, Signal, Stores, Surroundings, Synced, Watches};
use crate::token::TokenVerifier;
use crate::touched::Touched;

/// The Lease that the replicas share.
pub const LEASE: &str = "fusebox-operator";

/// How long everything gets to end.
const DRAIN: Duration = Duration::from_secs(4);

/// How often health is brought up to date.
const TEND_EVERY: Duration = Duration::from_secs(1);

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

/// The ports that speak TLS, and so wait for a certificate.
struct Listeners {
    control: TcpListener,
    webhook: TcpListener,
    operations: TcpListener,
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
    statuses: Touched<fusebox_compiler::PolicyKey>,
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
        let listeners = Listeners {
            control: listen(settings.control_listen, "--control-listen").await?,
            webhook: listen(settings.webhook_listen, "--webhook-listen").await?,
            operations: listen(settings.ops_listen, "--ops-listen").await?,
        };
        let shared = Shared {
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
            trust: Trust::new(settings.schedule()?.fresh_for()),
            published: watch::Sender::new(None),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
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
    pub fn admin_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.admin.local_addr()
    }

    /// Where the control port listens.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn control_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.listeners.control.local_addr()
    }

    /// Where the operations port listens.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn operations_address(&self) -> std::io::Result<std::net::SocketAddr> {
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
    pub fn webhook_address(&self) -> std::io::Result<std::net::SocketAddr> {
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
        shared.spawn(tend(shared.clone()));
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
    fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task);
    }

    fn serve_admin(&self, listener: TcpListener) {
        let stop = self.stop.clone();
        let router = admin::router(self.health.clone(), self.metrics.clone());
        self.spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "the admin port ended");
            }
        });
    }

    /// Watches for as long as the process lives: a list that is cut by the shutdown does no harm.
    fn start_stores(&self, clients: &Clients, (scope, own): (Scope, &str)) -> Surroundings {
        let around = Surroundings {
            clients: clients.clone(),
            metrics: self.metrics.clone(),
            watches: self.watches.clone(),
            inputs: self.inputs.clone(),
            statuses: self.statuses.clone(),
            directory: self.directory.clone(),
            endpoints: self.endpoints.clone(),
            outputs_scope: scope.and(own),
            scope,
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        };
        stores::spawn(&self.stores, &around);
        for kind in OutputKind::ALL.into_iter().filter(|kind| !kind.is_prometheus()) {
            self.outputs.watch(kind, &around);
        }
        around
    }

    /// Starts what keeps certificates. An own authority may take a while; a directory must be good from the start.
    fn keep_certificates(&self, settings: &Settings, clients: &Clients, address: &str) -> anyhow::Result<TlsSource> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let certificates = Certificates {
            client: clients.write.clone(),
            namespace: settings.namespace.clone(),
            leadership: self.leadership.clone(),
            schedule: settings.schedule()?,
            names: Names::new(&settings.namespace, settings.sans.iter().cloned().chain([host.to_owned()])),
            trust: self.trust.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
        };
        let Some(directory) = settings.tls_dir.clone() else {
            let (tls, keeping) = certificates.own(self.stop.clone());
            self.spawn(keeping);
            return Ok(tls);
        };
        let kept = certificates.directory(directory, self.stop.clone());
        let (tls, keeping) = kept.context("--tls-dir can't be used")?;
        self.spawn(keeping);
        Ok(tls)
    }

    /// Webhooks need a certificate and nothing else: what they don't know yet, they say.
    async fn serve_webhooks(self, mut tls: TlsSource, listener: TcpListener, admission: Admission) {
        let Some(Some(tls)) = self.stop.run_until_cancelled(tls.ready()).await else {
            return;
        };
        let config = move || tls.server_config(Purpose::Webhook).ok();
        self.health.set(Component::Webhooks, Status::healthy());
        admission::serve(listener, config, admission, self.stop.clone()).await;
        self.health.set(Component::Webhooks, Status::unhealthy("the webhook port is closed"));
    }

    async fn serve_control(
        self,
        mut tls: TlsSource,
        clients: Clients,
        (control_listener, operations): (TcpListener, TcpListener),
        identity: String,
    ) {
        let Some(Some(tls)) = self.stop.run_until_cancelled(tls.ready()).await else {
            return;
        };
        let control = Arc::new(Control {
            directory: self.directory.clone(),
            endpoints: self.endpoints.clone(),
            source: self.source.clone(),
            references: self.references.clone(),
            replicas: self.replicas.clone(),
            commands: self.commands.clone(),
            book: self.book.clone(),
            verifier: TokenVerifier::new(clients.call.clone()),
            leadership: self.leadership.clone(),
            operations: self.operations.clone(),
            metrics: self.control_metrics.clone(),
            seats: Seats::default(),
            peers: Seats::default(),
        });
        self.forward(tls.clone(), identity);
        self.serve_operations(operations, &tls, &clients);
        self.health.set(Component::Control, Status::healthy());
        serve(control_listener, tls, control, self.stop.clone()).await;
        self.health.set(Component::Control, Status::unhealthy("the control port is closed"));
    }

    fn serve_operations(&self, listener: TcpListener, tls: &Tls, clients: &Clients) {
        let replica =
            ops::Replica { operations: self.operations.clone(), leadership: self.leadership.clone(), tls: tls.clone() };
        let server = ops::Server::new(replica, clients.call.clone(), self.operations_metrics.clone());
        self.spawn(server.follow_front_proxy(clients.watch.clone(), self.metrics.clone(), self.stop.clone()));
        let (health, stop) = (self.health.clone(), self.stop.clone());
        self.spawn(async move {
            health.set(Component::Operations, Status::healthy());
            ops::serve(listener, server, stop).await;
            health.set(Component::Operations, Status::unhealthy("the operations port is closed"));
        });
    }

    fn forward(&self, tls: Tls, identity: String) {
        let (book, commands) = (self.book.clone(), self.commands.clone());
        let forwarder = Forwarder { book, commands, leadership: self.leadership.clone(), tls, identity };
        self.spawn(forward(forwarder, self.stop.clone()));
    }

    /// Everything that needs filled stores.
    async fn reconcile(self, settings: Settings, clients: Clients, around: Surroundings, identity: String) {
        let (prometheus_sender, prometheus) = watch::channel(Prometheus::Missing);
        let discovery = Discovery {
            client: clients.call.clone(),
            interval: settings.discovery_interval,
            prometheus: prometheus_sender,
            outputs: self.outputs.clone(),
            around,
            health: self.health.clone(),
        };
        self.spawn(discovery.run(self.stop.clone()));
        let Some(synced) = self.stop.run_until_cancelled(self.stores.clone().synced(&self.watches)).await else {
            return;
        };
        self.health.set(Component::Stores, Status::healthy());
        let (published_sender, published) = (self.published.clone(), self.published.subscribe());
        self.publish_bundles(&settings, &clients, &published);
        self.start_writers(&clients, &synced, &published, identity);
        let operator = settings.operator();
        let references = References::new(ReferenceSurroundings {
            client: clients.references.clone(),
            values: self.references.clone(),
            inputs: self.inputs.clone(),
            metrics: self.metrics.clone(),
            own_namespace: operator.namespace.clone(),
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        });
        let reconciler = Reconciler {
            operator,
            stores: synced,
            inputs: self.inputs.subscribe(),
            prometheus,
            trust: self.trust.clone(),
            configurations: self.source.clone(),
            references,
            replicas: self.replicas.clone(),
            published: published_sender,
            debounce: settings.debounce,
            monitoring: MonitoringOptions {
                labels: settings.service_monitor_labels.into_iter().collect(),
                ..MonitoringOptions::default()
            },
            metrics: self.metrics.clone(),
        };
        reconciler.run(self.stop.clone()).await;
    }

    fn publish_bundles(
        &self,
        settings: &Settings,
        clients: &Clients,
        published: &watch::Receiver<Option<Arc<Compiled>>>,
    ) {
        let name = &settings.webhook_configuration;
        let publisher = Publisher {
            client: clients.write.clone(),
            leadership: self.leadership.clone(),
            trust: self.trust.clone(),
            // Who keeps the certificates writes these, too.
            targets: if settings.tls_dir.is_some() { Vec::new() } else { Target::all(name) },
            published: published.clone(),
            outputs: self.outputs.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
        };
        self.spawn(publisher.run(self.stop.clone()));
    }

    fn start_writers(
        &self,
        clients: &Clients,
        synced: &Synced,
        published: &watch::Receiver<Option<Arc<Compiled>>>,
        identity: String,
    ) {
        self.open_operations(clients, synced, published, &identity);
        let (recorder, events) =
            events::recorder(clients.write.clone(), self.leadership.clone(), identity, self.metrics.clone());
        self.spawn(events.run(self.stop.clone()));
        let applier = Applier {
            client: clients.write.clone(),
            leadership: self.leadership.clone(),
            stores: self.outputs.clone(),
            published: published.clone(),
            trust: self.trust.clone(),
            monitoring: self.monitoring.clone(),
            statuses: self.statuses.clone(),
            metrics: self.metrics.clone(),
        };
        self.spawn(applier.run(self.stop.clone()));
        let writer = StatusWriter {
            client: clients.write.clone(),
            leadership: self.leadership.clone(),
            stores: synced.clone(),
            published: published.clone(),
            book: self.book.clone(),
            monitoring: self.monitoring.clone(),
            touched: self.statuses.clone(),
            events: recorder,
            metrics: self.metrics.clone(),
        };
        self.spawn(writer.run(self.stop.clone()));
        self.spawn(count(synced.clone(), self.metrics.clone(), self.stop.clone()));
    }

    /// Lets the operations API answer, now that the stores are filled.
    fn open_operations(
        &self,
        clients: &Clients,
        synced: &Synced,
        published: &watch::Receiver<Option<Arc<Compiled>>>,
        identity: &str,
    ) {
        let (recorder, events) =
            events::recorder(clients.write.clone(), self.leadership.clone(), identity.to_owned(), self.metrics.clone());
        self.spawn(events.run(self.stop.clone()));
        let leads_since = LeadsSince::default();
        self.spawn(leads_since.clone().follow(self.leadership.clone(), self.stop.clone()));
        let desk = Desk {
            call: clients.call.clone(),
            write: clients.write.clone(),
            leadership: self.leadership.clone(),
            published: published.clone(),
            book: self.book.clone(),
            commands: self.commands.clone(),
            events: parking_lot::Mutex::new(recorder),
            leads_since,
        };
        self.operations.open(desk, synced.clone());
    }
}

/// What sidecars are made of, where the installation says it.
fn injection_options(file: Option<&Path>) -> anyhow::Result<Option<InjectionOptions>> {
    let Some(file) = file else { return Ok(None) };
    let context = || format!("--injection-config {} can't be used", file.display());
    let text = std::fs::read_to_string(file).with_context(context)?;
    InjectionOptions::parse(&text).map(Some).with_context(context)
}

async fn listen(address: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}: choose another {flag}"))
}

/// Keeps health and gauges true to what only shows with time.
async fn tend(shared: Shared) {
    let mut ticks = tokio::time::interval(TEND_EVERY);
    while shared.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let leads = shared.leadership.role() == Role::Leader;
        shared.metrics.leader.set(i64::from(leads));
        shared.health.set(Component::Stores, stores_status(&shared.watches, Instant::now()));
        shared.health.set(Component::Lease, lease_status(&shared.leadership, Instant::now()));
    }
}

async fn count(synced: Synced, metrics: Metrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TEND_EVERY * 5);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        count_conditions(&synced, &metrics);
    }
}

fn stores_status(watches: &Watches, now: Instant) -> Status {
    let (unlisted, failing) = (watches.unlisted(), watches.failing(now));
    let errors: Vec<String> = failing.iter().map(|(kind, error)| format!("{kind}: {error}")).collect();
    match (unlisted.is_empty(), errors.is_empty()) {
        (true, true) => Status::healthy(),
        (true, false) => Status::degraded(format!("watches fail, what is known stays in force: {}", errors.join("; "))),
        (false, _) => Status::unhealthy(format!(
            "not listed yet: {}; if it stays so, check the operator's role and run `kubectl apply --server-side -f crds/` {}",
            unlisted.join(", "),
            errors.join("; ")
        )),
    }
}

fn lease_status(leadership: &Leadership, now: Instant) -> Status {
    match leadership.role() {
        Role::Leader if leadership.may_write(now) => Status::healthy(),
        Role::Leader => Status::degraded("the lease can't be renewed, so nothing is written"),
        Role::Follower { leader: Some(_) } => Status::healthy(),
        Role::Follower { leader: None } => Status::degraded("no replica is known to lead"),
    }
}
