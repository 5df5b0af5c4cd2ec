//! PrometheusRule and ServiceMonitor, as far as Fusebox writes them.
//!
//! Plain data in the words of `monitoring.coreos.com/v1`; a test holds them to the real CRDs' schema. It must not
//! grow fields that nothing sets: what is not written is left to whoever installed Prometheus.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// Rules for Prometheus to evaluate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusRule {
    /// `monitoring.coreos.com/v1`.
    pub api_version: String,
    /// `PrometheusRule`.
    pub kind: String,
    /// Where it stands, and its labels.
    pub metadata: ObjectMeta,
    /// The rules; this part alone is also a rule file of Prometheus.
    pub spec: PrometheusRuleSpec,
}

/// Groups of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrometheusRuleSpec {
    /// Evaluated independently of each other.
    pub groups: Vec<RuleGroup>,
}

/// Rules that are evaluated one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleGroup {
    /// Its name, unique in the object.
    pub name: String,
    /// Its rules.
    pub rules: Vec<AlertRule>,
}

/// One alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRule {
    /// The alert's name.
    pub alert: String,
    /// PromQL: each series it returns is an alert.
    pub expr: String,
    /// How long it must hold before the alert fires.
    #[serde(rename = "for")]
    pub hold: String,
    /// How long the alert goes on firing when the condition has gone.
    pub keep_firing_for: String,
    /// Added to those of the series.
    pub labels: BTreeMap<String, String>,
    /// Texts for people; Go templates.
    pub annotations: BTreeMap<String, String>,
}

/// Which Services Prometheus scrapes, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitor {
    /// `monitoring.coreos.com/v1`.
    pub api_version: String,
    /// `ServiceMonitor`.
    pub kind: String,
    /// Where it stands, and its labels.
    pub metadata: ObjectMeta,
    /// What is scraped.
    pub spec: ServiceMonitorSpec,
}

/// What a ServiceMonitor has scraped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// Which Services of its namespace.
    pub selector: LabelSelector,
    /// Which of their ports.
    pub endpoints: Vec<Endpoint>,
    /// Samples that one scrape may bring.
    pub sample_limit: u64,
    /// Labels that one sample may have.
    pub label_limit: u64,
}

/// Chooses objects by their labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// All of these.
    pub match_labels: BTreeMap<String, String>,
}

/// One port that is scraped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The port's name in the Service.
    pub port: String,
    /// The path of the metrics.
    pub path: String,
    /// How often.
    pub interval: String,
    /// Whether scraped labels win over those of the target: never, or a pod could speak for another.
    pub honor_labels: bool,
}
