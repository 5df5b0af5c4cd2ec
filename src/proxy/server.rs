//! A whole proxy: started, running, drained.
//!
//! It must come up without an operator and without a configuration: traffic has to flow before
//! anybody can tell it anything.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::config::ProxyConfig;
use fusebox_policy::stream::{Answer, Command, LiveReplicas, ReferenceValue};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::access_log::AccessLog;
use crate::admin::{self, Admin};
use crate::bootstrap;
use crate::clock;
use crate::config_error::ConfigError;
use crate::control;
use crate::enforcer::{Applied, Enforcer};
use crate::health::{Component, Health, HealthReport};
use crate::interception;
use crate::listener::Serving;
use crate::options::{Options, ServicePort};
use crate::pipeline::hop::Direction;
use crate::probes::Prober;
use crate::rate_limit::commands;
use crate::snapshot::{Destination, Topology};
use crate::state_file::{Keeper, Saved};
use crate::view::{self, ListenerView, StateView};

/// How often breakers that are not closed are asked whether something is due.
const ADVANCE_INTERVAL: Duration = Duration::from_millis(100);

/// How many of those steps pass between two sweeps of idle connections.
const STEPS_PER_SWEEP: u32 = 10;

/// The kinds of listeners that take what was going elsewhere.
const TRANSPARENT_INBOUND: &str = "transparent-inbound";
const TRANSPARENT_OUTBOUND: &str = "transparent-outbound";

/// A running proxy. Dropped, it stops at once; [`Proxy::drain`] ends it gently.
#[derive(Debug)]
pub struct Proxy {
    enforcer: Arc<Enforcer>,
    health: Arc<Health>,
    listeners: Arc<[ListenerView]>,
    serving: Serving,
    keeper: Option<Keeper>,
    drain_timeout: Duration,
    stopping: DropGuard,
}

/// How draining ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All requests in flight were finished.
    Complete,
    /// The time was over first, and connections were cut.
    CutOff,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address could not be bound.
    #[error("{kind} listener on {address} can't be bound: {source}")]
    Bind {
        /// `inbound`, `outbound`, `transparent-inbound`, `transparent-outbound` or `admin`.
        kind: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The command line contradicts itself.
    #[error(transparent)]
    Options(#[from] ConfigError),
    /// The control stream can't be used as asked.
    #[error("--control needs {missing}")]
    Control {
        /// The missing argument.
        missing: &'static str,
    },
}

/// A listener that is bound but not yet served.
struct Bound {
    listener: TcpListener,
    view: ListenerView,
    /// Its place among [`Topology::listeners`]; two may share one.
    place: usize,
}

impl Proxy {
    /// Binds all listeners, reads the configuration file if there is one, and serves.
    ///
    /// # Errors
    /// [`StartError`] when an address can't be bound. A missing or torn configuration file is no error.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let enforcer = Arc::new(Enforcer::new(topology(&options))?);
        if let Some(log) = AccessLog::start(options.access_log, Box::new(io::stdout())) {
            enforcer.log_to(log);
        }
        let health = Arc::new(Health::default());
        let keeper = recall(&options, &enforcer, &health).await;
        load_file(&options, &enforcer, &health).await;
        let bound = bind_all(&options)?;
        let admin = bind_admin(options.admin)?;
        let probes = Prober::new(options.probes.clone(), options.pod_ip);
        let listeners: Arc<[ListenerView]> = bound.iter().chain(&admin).map(|bound| bound.view.clone()).collect();
        let stopped = CancellationToken::new();
        let serving = Serving {
            enforcer: Arc::clone(&enforcer),
            draining: stopped.child_token(),
            cut: stopped.clone(),
            tasks: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS))),
            own: listeners.iter().map(|listener| listener.address).collect(),
        };
        let control = control::Client::new(&options, &enforcer, &health)?;
        for Bound { listener, place, .. } in bound {
            tokio::spawn(serving.clone().accept(listener, place));
        }
        health.listeners(Component::healthy());
        let pages = Admin {
            enforcer: Arc::clone(&enforcer),
            health: Arc::clone(&health),
            listeners: Arc::clone(&listeners),
            probes: Arc::new(probes),
        };
        for Bound { listener, .. } in admin {
            background(&stopped, serve_admin(listener, pages.clone()));
        }
        background(&stopped, tick(Arc::clone(&enforcer)));
        if let Some(client) = control {
            background(&stopped, client.run());
        }
        if let Some(keeper) = keeper.clone() {
            background(&stopped, keeper.run());
        }
        Ok(Self {
            enforcer,
            health,
            listeners,
            serving,
            keeper,
            drain_timeout: options.drain_timeout,
            stopping: stopped.drop_guard(),
        })
    }

    /// Bound listeners, with the ports they got; the admin port is the last.
    #[must_use]
    pub fn listeners(&self) -> &[ListenerView] {
        &self.listeners
    }

    /// Enforces `config` from now on, whole or not at all.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field that can't be enforced; what was in force stays so.
    pub fn apply(&self, config: &ProxyConfig) -> Result<Applied, ConfigError> {
        let applied = self
            .enforcer
            .apply(config, &config.revision())
            .inspect_err(|_| self.enforcer.counters().refused_config())?;
        self.health.config(Component::healthy());
        Ok(applied)
    }

    /// Takes the values that policies refer to, as the operator would send them: keys of tokens, quotas, credentials. One that
    /// can't be used leaves the one before it in use and shows in [`StateView::broken_references`].
    pub fn tell_references(&self, values: Vec<ReferenceValue>) {
        self.enforcer.references(values, Instant::now());
    }

    /// Says how many proxies share each policy's limits, as the operator would; without a word each is taken to be alone.
    pub fn tell_replicas(&self, policies: Vec<LiveReplicas>) {
        self.enforcer.replicas(policies);
    }

    /// Does what a person asks of the limits, as the operator would pass it on.
    pub async fn obey(&self, command: Command) -> Answer {
        commands::answer(&self.enforcer, command).await
    }

    /// What the admin port shows under `/state`.
    #[must_use]
    pub fn state(&self) -> StateView {
        view::state(&self.enforcer, &self.listeners, Instant::now())
    }

    /// What the admin port shows under `/health`.
    #[must_use]
    pub fn health(&self) -> HealthReport {
        self.health.report()
    }

    /// Takes no new connections, finishes the requests in flight within the drain timeout, and ends.
    pub async fn drain(self) -> Drained {
        self.health.listeners(Component::unhealthy("proxy is draining"));
        self.serving.draining.cancel();
        self.serving.tasks.close();
        let drained = match tokio::time::timeout(self.drain_timeout, self.serving.tasks.wait()).await {
            Ok(()) => Drained::Complete,
            Err(_) => Drained::CutOff,
        };
        if let Some(keeper) = &self.keeper {
            keeper.save().await;
        }
        tracing::info!(?drained, "drained");
        drop(self.stopping);
        drained
    }
}

/// Runs a proxy until `shutdown` ends, then drains it.
///
/// # Errors
/// [`StartError`] when it does not start.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let proxy = Proxy::start(options).await?;
    shutdown.await;
    proxy.drain().await;
    Ok(())
}

/// Ends at the first termination signal: SIGTERM, or SIGINT from a terminal.
///
/// # Errors
/// When the system does not let signals be caught.
pub fn termination() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn topology(options: &Options) -> Topology {
    let inbound = options
        .inbound
        .iter()
        .map(|spec| Destination::Application { address: spec.application.clone(), port: spec.port });
    let outbound = options.outbound.iter().map(|spec| match &spec.destination {
        Some(place) => Destination::Service(place.clone()),
        None => Destination::ByHost,
    });
    let redirected_in = options.transparent_inbound.iter().map(|_| Destination::Original(Direction::Inbound));
    let redirected_out = options.transparent_outbound.iter().map(|_| Destination::Original(Direction::Outbound));
    Topology {
        listeners: inbound.chain(outbound).chain(redirected_in).chain(redirected_out).collect(),
        upstreams: options.upstream.clone(),
        endpoints_max_age: options.endpoints_max_age,
        limits: options.limits,
    }
}

/// Reads what an earlier process left of its breakers; who keeps it from now on, if that is wanted.
async fn recall(options: &Options, enforcer: &Arc<Enforcer>, health: &Arc<Health>) -> Option<Keeper> {
    let path = options.state_file.clone()?;
    let shown = path.display().to_string();
    let reading = path.clone();
    let read = tokio::task::spawn_blocking(move || Saved::read(&reading, clock::unix_now_ms(), Instant::now())).await;
    let (result, note) = match read {
        Ok(Ok(Some(saved))) => {
            tracing::info!(path = shown, breakers = saved.len(), "state file read");
            enforcer.recall(saved);
            ("restored", String::new())
        }
        Ok(Ok(None)) => ("missing", String::new()),
        Ok(Err(error)) => (error.reason(), error.to_string()),
        Err(_) => ("unreadable", "state file could not be read to its end".to_owned()),
    };
    enforcer.counters().read_state_file(result);
    let note = if note.is_empty() { note } else { format!("{shown}: {note}; all breakers started closed") };
    if !note.is_empty() {
        tracing::error!(path = shown, reason = result, error = note, "state file is not used; starting clean");
        health.state_file(Component::degraded(note.clone()));
    }
    Some(Keeper::new(path, enforcer, health, note))
}

async fn load_file(options: &Options, enforcer: &Arc<Enforcer>, health: &Health) {
    let Some(path) = options.config.clone() else { return };
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || bootstrap::read_config(&path)).await;
    let problem = match read {
        Ok(Ok(Some(config))) => enforcer.apply(&config, &config.revision()).err().map(|error| error.to_string()),
        Ok(Ok(None)) => {
            tracing::info!(path = shown, "no configuration file yet; starting without policies");
            None
        }
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("configuration file could not be read to its end".to_owned()),
    };
    if let Some(problem) = problem {
        enforcer.counters().refused_config();
        tracing::error!(path = shown, error = problem, "configuration file is not used; starting without policies");
        health.config(Component::degraded(format!(
            "{shown}: {problem}; starting without policies until the operator sends them"
        )));
    }
}

/// All listeners for traffic, in the order of [`topology`]; the two of one address have one place.
fn bind_all(options: &Options) -> Result<Vec<Bound>, StartError> {
    let inbound = options.inbound.iter().map(|spec| {
        let destination = format!("{} (port {})", spec.application, spec.port);
        ("inbound", spec.listen, destination)
    });
    let outbound = options.outbound.iter().map(|spec| {
        let destination = spec.destination.as_ref();
        let named = |to: &ServicePort| format!("{}/{}:{}", to.service.namespace, to.service.name, to.port);
        ("outbound", spec.listen, destination.map(named).unwrap_or_default())
    });
    let transparent = |kind, addresses: &[SocketAddr]| {
        addresses.iter().map(|address| (kind, *address, String::new())).collect::<Vec<_>>()
    };
    let redirected = [
        transparent(TRANSPARENT_INBOUND, &options.transparent_inbound),
        transparent(TRANSPARENT_OUTBOUND, &options.transparent_outbound),
    ];
    let mut bound = Vec::new();
    for (place, (kind, address, destination)) in
        inbound.chain(outbound).chain(redirected.into_iter().flatten()).enumerate()
    {
        let refuse = |source| StartError::Bind { kind, address, source };
        for listener in sockets(kind, address).map_err(refuse)? {
            let listener = Bound::new(kind, listener, destination.clone()).map_err(refuse)?;
            bound.push(Bound { place, ..listener });
        }
    }
    Ok(bound)
}

/// The admin port. The address that was asked for is the last.
fn bind_admin(address: SocketAddr) -> Result<Vec<Bound>, StartError> {
    let kind = "admin";
    let refuse = |source| StartError::Bind { kind, address, source };
    let listeners = sockets(kind, address).map_err(refuse)?;
    listeners.into_iter().rev().map(|listener| Bound::new(kind, listener, String::new()).map_err(refuse)).collect()
}

/// Listens on one address; where it is for all, for the other family too. So does a loopback address that the kernel
/// redirects to, since it redirects both families.
fn sockets(kind: &str, address: SocketAddr) -> io::Result<Vec<TcpListener>> {
    if address.ip().is_unspecified() || [TRANSPARENT_INBOUND, TRANSPARENT_OUTBOUND].contains(&kind) {
        interception::bind(address)
    } else {
        Ok(vec![interception::listen(address)?])
    }
}

impl Bound {
    fn new(kind: &'static str, listener: TcpListener, destination: String) -> io::Result<Self> {
        let address = listener.local_addr()?;
        tracing::info!(kind, %address, destination, "listening");
        Ok(Self { listener, view: ListenerView { kind, address, destination }, place: 0 })
    }
}

/// Runs `work` until the proxy stops.
fn background(stopped: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stopped = stopped.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = work => {}
        }
    });
}

async fn serve_admin(listener: TcpListener, pages: Admin) {
    let pages = admin::router(pages).into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, pages).await {
        tracing::error!(%error, "admin port ended");
    }
}

async fn tick(enforcer: Arc<Enforcer>) {
    let mut interval = tokio::time::interval(ADVANCE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut step = 0_u32;
    loop {
        interval.tick().await;
        let now = Instant::now();
        enforcer.advance(now);
        step = (step + 1) % STEPS_PER_SWEEP;
        if step == 0 {
            enforcer.sweep(now);
        }
    }
}
