//! The reconcile: stores -> snapshot -> compile -> publish, once for all changes of a moment.
//!
//! Every replica runs it, leader or not, because every replica serves configurations. It writes
//! nothing to the cluster: what it publishes, the applier and the status writer carry out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_compiler::monitoring::MonitoringOptions;
use fusebox_compiler::objects::ObjectError;
use fusebox_compiler::snapshot::{Operator, Prometheus};
use fusebox_compiler::{Kind, Plan, PolicyKey, Snapshot, compile};
use fusebox_policy::config::{PolicyId, WorkloadId};
use jiff::Timestamp;
use opentelemetry::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::apply::{Outputs, outputs};
use crate::certificates::{Bundle, Trust, config_maps, places};
use crate::control::{ConfigSource, ReplicaCounts};
use crate::metrics::{MAX_POLICY_SERIES, Metrics};
use crate::references::References;
use crate::stores::Synced;

/// Under constant change a compilation waits for at most this many times the debounce.
const MAX_DEBOUNCES: u32 = 5;

/// An override's end is compiled this long after it, so that it has surely passed.
const AFTER_OVERRIDE: Duration = Duration::from_millis(10);

/// What one compilation gave.
#[derive(Debug)]
pub struct Compiled {
    /// The plan.
    pub plan: Plan,
    /// The objects that should stand.
    pub outputs: Outputs,
    /// The authorities that the outputs tell sidecars of; None while none is known, and then nothing is said of them.
    pub bundle: Option<Bundle>,
    /// The policies that each workload's sidecars enforce.
    pub bound: BTreeMap<WorkloadId, BTreeSet<PolicyKey>>,
    /// The span that what follows from it is a part of.
    pub context: Context,
}

/// What should stand, and the authorities that were known then.
struct Objects {
    outputs: Outputs,
    bundle: Option<Bundle>,
}

/// The last compilation; None before the first.
pub type Published = watch::Receiver<Option<Arc<Compiled>>>;

/// Why a compilation was not published.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The compiler broke; what was published before stays.
    #[error("the compiler stopped unexpectedly")]
    Compiler(#[source] tokio::task::JoinError),
    /// An output can't be made.
    #[error(transparent)]
    Output(#[from] ObjectError),
    /// A configuration can't be put into a line.
    #[error("a configuration can't be written as JSON")]
    Configuration(#[source] serde_json::Error),
}

/// What the reconcile works with.
pub struct Reconciler {
    /// What is compiled.
    pub stores: Synced,
    /// Rung when something changed that decides.
    pub inputs: watch::Receiver<u64>,
    /// Whether the Prometheus CRDs are installed.
    pub prometheus: watch::Receiver<Prometheus>,
    /// Whose certificates sidecars trust.
    pub trust: Trust,
    /// Where configurations are served from.
    pub configurations: ConfigSource,
    /// What policies name.
    pub references: References,
    /// Where it is served how many proxies share each policy's limits.
    pub replicas: ReplicaCounts,
    /// Where plans go.
    pub published: watch::Sender<Option<Arc<Compiled>>>,
    /// How long changes are collected.
    pub debounce: Duration,
    /// What generated monitoring objects say besides.
    pub monitoring: MonitoringOptions,
    /// Where durations and errors show.
    pub metrics: Metrics,
    /// What the compiler must know of this operator.
    pub operator: Operator,
}

impl ReconcileError {
    /// A stable word for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Compiler(_) => "Compiler",
            Self::Output(_) => "Output",
            Self::Configuration(_) => "Configuration",
        }
    }
}

impl Reconciler {
    /// Compiles once, and again after every change, until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut bundles = self.trust.subscribe();
        loop {
            // What changes from here on is seen by the next round.
            self.inputs.mark_unchanged();
            self.prometheus.mark_unchanged();
            bundles.mark_unchanged();
            let recompile_at = self.reconcile().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed(recompile_at) => {}
                Ok(()) = bundles.changed() => {}
            }
            self.debounced().await;
        }
    }

    async fn changed(&mut self, recompile_at: Option<Timestamp>) {
        let pause = recompile_at
            .map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default() + AFTER_OVERRIDE);
        tokio::select! {
            Ok(()) = self.inputs.changed() => {}
            Ok(()) = self.prometheus.changed() => {}
            () = sleep(pause) => {}
        }
    }

    async fn debounced(&mut self) {
        let limit = tokio::time::Instant::now() + self.debounce * MAX_DEBOUNCES;
        loop {
            let quiet = (tokio::time::Instant::now() + self.debounce).min(limit);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(quiet) => return,
                Ok(()) = self.inputs.changed() => {}
            }
        }
    }

    /// One round. It returns when to compile again although nothing changes.
    async fn reconcile(&mut self) -> Option<Timestamp> {
        let span =
            tracing::info_span!("reconcile", policies = tracing::field::Empty, workloads = tracing::field::Empty);
        let begun = Instant::now();
        let outcome = self.compile().instrument(span.clone()).await;
        self.metrics.reconcile.with_label_values(&["compile"]).inc();
        self.metrics.reconcile_duration.with_label_values(&["compile"]).observe(begun.elapsed().as_secs_f64());
        match outcome.and_then(|(compiled, objects)| self.publish(compiled, objects, &span)) {
            Ok(recompile_at) => recompile_at,
            Err(error) => {
                self.metrics.reconcile_errors.with_label_values(&["compile", error.reason()]).inc();
                tracing::error!(error = &error as &dyn std::error::Error, "not compiled; the last plan stays");
                None
            }
        }
    }

    async fn compile(&self) -> Result<(Plan, Objects), ReconcileError> {
        let prometheus = *self.prometheus.borrow();
        let snapshot = tracing::info_span!("snapshot").in_scope(|| self.stores.snapshot(Timestamp::now(), prometheus));
        let references = self.references.all();
        let snapshot = Snapshot { operator: self.operator.clone(), references, ..snapshot };
        let (options, bundle) = (self.monitoring.clone(), self.trust.known());
        let places = places(&snapshot, &self.operator);
        let span = tracing::info_span!("compile");
        let compiled = tokio::task::spawn_blocking(move || {
            let _entered = span.enter();
            let plan = compile(&snapshot);
            let mut outputs = outputs(&plan, &options)?;
            outputs.extend(bundle.iter().flat_map(|bundle| config_maps(bundle, &places)));
            Ok::<_, ObjectError>((plan, Objects { outputs, bundle }))
        });
        Ok(compiled.await.map_err(ReconcileError::Compiler)??)
    }

    fn publish(&self, plan: Plan, objects: Objects, span: &tracing::Span) -> Result<Option<Timestamp>, ReconcileError> {
        let Objects { outputs, bundle } = objects;
        span.record("policies", plan.policies.len());
        span.record("workloads", plan.workloads.len());
        let recompile_at = plan.recompile_at;
        if self
            .published
            .borrow()
            .as_ref()
            .is_some_and(|last| last.plan == plan && last.outputs == outputs && last.bundle == bundle)
        {
            return Ok(recompile_at);
        }
        let configurations = plan.workloads.values().map(|workload| Arc::new(workload.config.clone()));
        self.configurations.publish(configurations).map_err(ReconcileError::Configuration)?;
        self.replicas.replace(live_replicas(&plan));
        self.references.want(&plan.references);
        self.count(&plan);
        let bound = bound(&plan);
        let compiled = Compiled { plan, outputs, bundle, bound, context: span.context() };
        self.published.send_replace(Some(Arc::new(compiled)));
        Ok(recompile_at)
    }

    fn count(&self, plan: &Plan) {
        self.metrics.resource_generation.reset();
        self.metrics.sidecars_missing.reset();
        for policy in plan.policies.values().take(MAX_POLICY_SERIES) {
            let labels = [policy.version.kind.as_str(), &policy.version.id.namespace, &policy.version.id.name];
            self.metrics.resource_generation.with_label_values(&labels).set(policy.version.generation);
            let missing = i64::try_from(policy.coverage.missing()).unwrap_or(i64::MAX);
            self.metrics.sidecars_missing.with_label_values(&labels).set(missing);
        }
    }
}

fn live_replicas(plan: &Plan) -> BTreeMap<PolicyId, u32> {
    plan.of_kind(Kind::RateLimit, None).map(|(id, policy)| (id.clone(), policy.live_replicas())).collect()
}

fn bound(plan: &Plan) -> BTreeMap<WorkloadId, BTreeSet<PolicyKey>> {
    let mut bound: BTreeMap<WorkloadId, BTreeSet<PolicyKey>> = BTreeMap::new();
    for (id, policy) in &plan.policies {
        for pod in policy.pods.values() {
            bound.entry(pod.workload.clone()).or_default().insert(id.clone());
        }
    }
    bound
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
