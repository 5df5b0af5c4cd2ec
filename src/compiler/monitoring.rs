//! The Prometheus objects that go with policies: rules for each policy, scraping for each namespace.
//!
//! Owns their names, alerts and PromQL. It must not apply them, nor know whether their CRDs are installed: the operator
//! does. Alerts come with the resource because an alert that everyone writes by hand is one that many forget.

mod alerts;
mod circuit_breaker;
mod objects;
mod promql;
mod rate_limit;

use std::collections::BTreeMap;

use fusebox_api::names;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest as _, Sha256};

use crate::kind::{Kind, PolicyKey};

pub use alerts::{AlertSubject, RuleTimeout, Watched};
pub use objects::{
    AlertRule, Endpoint, LabelSelector, PrometheusRule, PrometheusRuleSpec, RuleGroup, ServiceMonitor,
    ServiceMonitorSpec,
};

/// The API group and version of Prometheus' own resources.
pub const PROMETHEUS_API_VERSION: &str = "monitoring.coreos.com/v1";

/// The name of the headless Service and of the ServiceMonitor in each namespace with sidecars.
pub const PROXIES_NAME: &str = "fusebox-proxies";

/// The name of the sidecars' metrics port in that Service.
pub const METRICS_PORT_NAME: &str = "metrics";

/// The label by which the ServiceMonitor finds the Service.
const NAME_LABEL: &str = "app.kubernetes.io/name";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// The longest name of an object.
const MAX_NAME: usize = 253;
const HASH_BYTES: usize = 8;

/// What an installation may want otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitoringOptions {
    /// More labels for PrometheusRules and ServiceMonitors, such as the `release` that a Prometheus selects by. Default: none.
    pub labels: BTreeMap<String, String>,
    /// The port of the sidecars' admin listener. Default: 15020.
    pub metrics_port: u16,
    /// How often sidecars are scraped, in seconds. Default: 15.
    pub interval_seconds: u32,
    /// Samples that one sidecar may expose; Prometheus refuses the scrape beyond. Default: 20000.
    pub sample_limit: u64,
    /// Labels that one sample may have. Default: 32.
    pub label_limit: u64,
    /// Where the runbooks are; `/<Alert>.md` is appended.
    pub runbook_base_url: String,
}

/// The PrometheusRule of one policy, in the policy's namespace. Its owner reference is the operator's to add.
#[must_use]
pub fn prometheus_rule(subject: &AlertSubject, options: &MonitoringOptions) -> PrometheusRule {
    let group = match subject.policy.kind {
        Kind::CircuitBreakerPolicy => "fusebox-circuit-breaker",
        Kind::RateLimit => "fusebox-rate-limit",
    };
    PrometheusRule {
        api_version: PROMETHEUS_API_VERSION.to_owned(),
        kind: "PrometheusRule".to_owned(),
        metadata: metadata(&subject.policy.id.namespace, rule_name(&subject.policy), &options.labels),
        spec: PrometheusRuleSpec {
            groups: vec![RuleGroup { name: group.to_owned(), rules: alerts::all(subject, options) }],
        },
    }
}

/// The headless Service over a namespace's sidecars, ready or not: a pod in trouble is one to watch.
#[must_use]
pub fn proxies_service(namespace: &str, options: &MonitoringOptions) -> Service {
    let port = i32::from(options.metrics_port);
    Service {
        metadata: metadata(namespace, PROXIES_NAME.to_owned(), &BTreeMap::new()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some([(names::SIDECAR_LABEL.to_owned(), names::SIDECAR_INJECTED.to_owned())].into()),
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![ServicePort {
                name: Some(METRICS_PORT_NAME.to_owned()),
                port,
                target_port: Some(IntOrString::Int(port)),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The ServiceMonitor that has a namespace's sidecars scraped.
#[must_use]
pub fn service_monitor(namespace: &str, options: &MonitoringOptions) -> ServiceMonitor {
    ServiceMonitor {
        api_version: PROMETHEUS_API_VERSION.to_owned(),
        kind: "ServiceMonitor".to_owned(),
        metadata: metadata(namespace, PROXIES_NAME.to_owned(), &options.labels),
        spec: ServiceMonitorSpec {
            selector: LabelSelector { match_labels: own_labels() },
            endpoints: vec![Endpoint {
                port: METRICS_PORT_NAME.to_owned(),
                path: "/metrics".to_owned(),
                interval: format!("{}s", options.interval_seconds),
                honor_labels: false,
            }],
            sample_limit: options.sample_limit,
            label_limit: options.label_limit,
        },
    }
}

/// The name of a policy's PrometheusRule. No two policies of a namespace share one: each kind has a beginning of its own, and a
/// name that has to be shortened gets a second dash, which no policy's name can start with, and a hash of the whole.
#[must_use]
pub fn rule_name(policy: &PolicyKey) -> String {
    let (prefix, name) = (rule_prefix(policy.kind), &policy.id.name);
    if prefix.len() + name.len() <= MAX_NAME {
        return format!("{prefix}{name}");
    }
    let hash: String = Sha256::digest(name).iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
    let room = MAX_NAME - prefix.len() - hash.len() - 2;
    let cut = name.char_indices().map(|(index, _)| index).take_while(|index| *index <= room).last().unwrap_or(0);
    let kept = name[..cut].trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
    format!("{prefix}-{kept}-{hash}")
}

const fn rule_prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::CircuitBreakerPolicy => "fusebox-cb-",
        Kind::RateLimit => "fusebox-rl-",
    }
}

impl Default for MonitoringOptions {
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            metrics_port: 15020,
            interval_seconds: 15,
            sample_limit: 20_000,
            label_limit: 32,
            runbook_base_url: "https://github.com/fusebox-dev/fusebox/blob/main/docs/runbooks".to_owned(),
        }
    }
}

fn metadata(namespace: &str, name: String, more_labels: &BTreeMap<String, String>) -> ObjectMeta {
    let mut labels = more_labels.clone();
    labels.extend(own_labels());
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

fn own_labels() -> BTreeMap<String, String> {
    [(NAME_LABEL, PROXIES_NAME), (MANAGED_BY_LABEL, names::FIELD_MANAGER)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

#[cfg(test)]
mod tests;
