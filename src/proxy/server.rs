//! A whole proxy: started, running, drained.
//!
//! It must come up without an operator and without a configuration: traffic has to flow before
//! anybody can tell it anything.

mod binding;
mod recalling;

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

use self::binding::{Bound, bind_admin, bind_all, topology};
use self::recalling::{load_file, recall};
use crate::access_log::AccessLog;
use crate::admin::{self, Admin};
use crate::config_error::ConfigError;
use crate::control;
use crate::enforcer::{Applied, Enforcer};
use crate::health::{Component, Health, HealthReport};
use crate::listener::Serving;
use crate::options::Options;
use crate::probes::Prober;
use crate::rate_limit::commands;
use crate::state_file::Keeper;
use crate::view::{self, ListenerView, StateView};

/// How often breakers that are not closed are asked whether something is due.
const ADVANCE_INTERVAL: Duration = Duration::from_millis(100);

/// How many of those steps pass between two sweeps of idle connections.
const STEPS_PER_SWEEP: u32 = 10;

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
