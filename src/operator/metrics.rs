//! The operator's own metrics, `fusebox_operator_*`, in a registry of its own.
//!
//! Names and labels are a contract with alerts and dashboards. Labels never carry what a tenant
//! can choose without bound, except policy names, of which there is a fixed number kept.

use fusebox_policy::metrics::{POLICY, POLICY_KIND, POLICY_NAMESPACE};
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Policies that get a series of their own, at most.
pub const MAX_POLICY_SERIES: usize = 10_000;

const SECONDS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The metrics; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The registry that all stand in, for parts that bring their own.
    pub registry: Registry,
    /// Reconciles, by what was done: `compile`, `apply`, `status`.
    pub reconcile: IntCounterVec,
    /// Reconciles that failed, by stage and reason.
    pub reconcile_errors: IntCounterVec,
    /// How long reconciles take, by stage.
    pub reconcile_duration: HistogramVec,
    /// How many resources have a condition, by kind, type and status.
    pub resource_condition: IntGaugeVec,
    /// The generation of each policy that was compiled last.
    pub resource_generation: IntGaugeVec,
    /// Pods that ask for a sidecar and have none, for each policy whose enforcing side they are on.
    pub sidecars_missing: IntGaugeVec,
    /// 1 while this replica holds the lease.
    pub leader: IntGauge,
    /// Sidecars that are known here: those of this replica, and on the leader those that followers forward.
    pub proxies_known: IntGauge,
    /// Status writes that were sent, by kind.
    pub status_writes: IntCounterVec,
    /// Events that were written, by reason.
    pub events: IntCounterVec,
    /// Events that were not written, by why.
    pub events_dropped: IntCounterVec,
    /// Writes of output objects, by kind and operation.
    pub applied: IntCounterVec,
    /// Work that waits, by queue.
    pub queue_length: IntGaugeVec,
    /// Work that a full queue refused, by queue.
    pub queue_refused: IntCounterVec,
    /// Calls of the API server, by method and status code.
    pub api_requests: IntCounterVec,
    /// Objects in the stores, by kind.
    pub store_objects: IntGaugeVec,
    /// ConfigMaps and Secrets that policies name, by what is known of them.
    pub references: IntGaugeVec,
    /// Errors of watches, by kind.
    pub watch_errors: IntCounterVec,
    /// Seconds until a certificate ends, by which one. It has no `operator` in its name.
    pub certificate_expiry: IntGaugeVec,
    /// Spans that were exported.
    pub spans_exported: IntCounter,
    /// Spans that were dropped because the collector was away.
    pub spans_dropped: IntCounter,
}

impl Metrics {
    /// All metrics at zero, registered.
    ///
    /// # Errors
    /// When a name is not valid or not unique, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let make = Maker(Registry::new());
        make.0.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            reconcile: make.counters("reconcile_total", "Reconciles by stage", &["stage"])?,
            reconcile_errors: make.counters("reconcile_errors_total", "Failed reconciles", &["stage", "reason"])?,
            reconcile_duration: make.seconds("reconcile_duration_seconds", "Duration of reconciles", &["stage"])?,
            resource_condition: make.gauges(
                "resource_condition",
                "Resources that have a condition",
                &["kind", "type", "status"],
            )?,
            resource_generation: make.gauges(
                "resource_generation",
                "Generation of the policy that was compiled last",
                &["kind", "policy_namespace", "policy"],
            )?,
            sidecars_missing: make.gauges(
                "sidecars_missing",
                "Pods on a policy's enforcing side that ask for a sidecar and have none",
                &[POLICY_KIND, POLICY_NAMESPACE, POLICY],
            )?,
            leader: make.gauge("leader", "1 while this replica holds the lease")?,
            proxies_known: make
                .gauge("proxies_known", "Sidecars of this replica, and on the leader also of its followers")?,
            status_writes: make.counters("status_writes_total", "Status writes that were sent", &["kind"])?,
            events: make.counters("events_total", "Events that were written", &["reason"])?,
            events_dropped: make.counters("events_dropped_total", "Events that were not written", &["why"])?,
            applied: make.counters("applied_total", "Writes of output objects", &["kind", "operation"])?,
            queue_length: make.gauges("queue_length", "Work that waits or is being done", &["queue"])?,
            queue_refused: make.counters("queue_refused_total", "Work that a full queue refused", &["queue"])?,
            api_requests: make.counters("api_requests_total", "Calls of the API server", &["method", "code"])?,
            store_objects: make.gauges("store_objects", "Objects in the stores", &["kind"])?,
            references: make.gauges("references", "ConfigMaps and Secrets that policies name", &["state"])?,
            watch_errors: make.counters("watch_errors_total", "Errors of watches", &["kind"])?,
            certificate_expiry: make.registered(IntGaugeVec::new(
                Opts::new("fusebox_certificate_expiry_seconds", "Seconds until a certificate of the operator ends"),
                &["certificate"],
            )?)?,
            spans_exported: make.counter("trace_spans_exported_total", "Spans that were exported")?,
            spans_dropped: make.counter("trace_spans_dropped_total", "Spans that could not be exported")?,
            registry: make.0,
        })
    }

    /// All metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// When a metric can't be written, which those made here always can.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut buffer = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }
}

/// Makes metrics under the operator's prefix, and registers each.
pub(crate) struct Maker(pub(crate) Registry);

impl Maker {
    pub(crate) fn registered<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        collector: C,
    ) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    pub(crate) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.registered(IntCounter::new(full(name), help)?)
    }

    pub(crate) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.registered(IntCounterVec::new(Opts::new(full(name), help), labels)?)
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.registered(IntGauge::new(full(name), help)?)
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.registered(IntGaugeVec::new(Opts::new(full(name), help), labels)?)
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        self.registered(HistogramVec::new(HistogramOpts::new(full(name), help).buckets(SECONDS.to_vec()), labels)?)
    }
}

fn full(name: &str) -> String {
    format!("fusebox_operator_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_under_the_prefix() {
        let metrics = Metrics::new().unwrap();
        metrics.status_writes.with_label_values(&["CircuitBreakerPolicy"]).inc();
        let text = metrics.text().unwrap();
        assert!(text.contains("fusebox_operator_status_writes_total{kind=\"CircuitBreakerPolicy\"} 1"), "{text}");
        assert!(text.contains("fusebox_operator_leader 0"), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }

    #[test]
    fn the_operators_dashboard_asks_for_no_metric_that_is_not_made_here() {
        let sources =
            [include_str!("metrics.rs"), include_str!("admission/metrics.rs"), include_str!("control/metrics.rs")]
                .concat();
        let is_made = |name: &str| {
            let name = name.trim_end_matches("_bucket");
            let short = name.trim_start_matches("fusebox_operator_");
            [name, short].iter().any(|name| sources.contains(&format!("\"{name}\"")))
        };
        let dashboards = fusebox_compiler::dashboards::all();
        let model = dashboards.iter().find(|it| it.uid == "fusebox-operator").unwrap().model.to_string();
        let words = model.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let asked: std::collections::BTreeSet<&str> = words.filter(|word| word.starts_with("fusebox_")).collect();
        assert!(asked.len() > 10, "{asked:?}");
        for name in asked {
            assert!(is_made(name), "{name}");
        }
    }
}
