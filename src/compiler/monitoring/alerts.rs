//! The alerts of a CircuitBreakerPolicy.
//!
//! Owns conditions, thresholds and texts. It must not hold text that users chose outside of quoted PromQL. Each alert
//! needs some traffic before it may speak, because one failed request at night is 100 % of one.

use std::collections::BTreeMap;

use fusebox_api::CircuitBreakerPolicySpec;
use fusebox_api::common::Mode;
use fusebox_policy::config::PolicyId;
use fusebox_policy::metrics::{
    BREAKER_LABELS, BREAKER_STATE, ERROR, ERROR_CIRCUIT_OPEN, ERROR_CLIENT_ABORT, ERROR_CONNECT_FAILURE, ERROR_RESET,
    ERROR_TIMEOUT, POLICY, POLICY_NAMESPACE, REQUEST_DURATION, REQUESTS, RULE, SIDE, STATE, STATE_CLOSED, STATUS_CLASS,
    TARGET, TARGET_NAMESPACE,
};

use super::MonitoringOptions;
use super::objects::AlertRule;
use super::promql::Matchers;

/// What a fleet's alerts are told apart by.
const FLEET_LABELS: [&str; 6] = [POLICY_NAMESPACE, POLICY, TARGET_NAMESPACE, TARGET, SIDE, RULE];

/// What scraping adds, and names one pod.
const POD_LABELS: [&str; 2] = ["namespace", "pod"];

/// The share of failures above which HighErrorRate speaks.
const ERROR_RATIO: &str = "0.05";

/// The p99 above which HighLatency speaks where no timeout says otherwise, in seconds.
const LATENCY_SECONDS: &str = "0.5";

/// The share of timeouts that is the same as a p99 at the timeout.
const TIMEOUT_RATIO: &str = "0.01";

/// Requests within five minutes below which rates mean nothing.
const MIN_REQUESTS: &str = "20";

/// What the alerts of one policy depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertSubject {
    /// The policy.
    pub policy: PolicyId,
    /// Each of its rules, the unnamed last one too, and whether it bounds its requests.
    pub rules: Vec<RuleTimeout>,
}

/// Whether a rule bounds its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTimeout {
    /// The rule's name; empty for the policy's own breaker.
    pub rule: String,
    /// The bound, in milliseconds; absent is none.
    pub timeout_ms: Option<u64>,
}

struct Text {
    alert: &'static str,
    severity: &'static str,
    hold: &'static str,
    keep_firing_for: &'static str,
    summary: &'static str,
    description: &'static str,
}

impl AlertSubject {
    /// What the alerts of a policy with this spec depend on; none for a disabled one, which does nothing to watch.
    #[must_use]
    pub fn of(policy: &PolicyId, spec: &CircuitBreakerPolicySpec) -> Option<Self> {
        if spec.mode == Mode::Disabled {
            return None;
        }
        let named = spec.rules.iter().map(|rule| RuleTimeout {
            rule: rule.name.clone(),
            timeout_ms: rule.overrides.timeout.or(spec.timeout).map(fusebox_api::Duration::as_millis),
        });
        let own = RuleTimeout { rule: String::new(), timeout_ms: spec.timeout.map(fusebox_api::Duration::as_millis) };
        Some(Self { policy: policy.clone(), rules: named.chain([own]).collect() })
    }
}

/// All alerts of one policy.
pub(super) fn circuit_breaker(subject: &AlertSubject, options: &MonitoringOptions) -> Vec<AlertRule> {
    let mut alerts = vec![open(subject), high_error_rate(subject)];
    alerts.extend(high_latency(subject));
    alerts.extend(timeouts(subject));
    for alert in &mut alerts {
        let url = format!("{}/{}.md", options.runbook_base_url.trim_end_matches('/'), alert.alert);
        alert.annotations.insert("runbook_url".to_owned(), url);
    }
    alerts
}

/// Not closed, rather than open: flips between open and half-open must not start the wait anew.
fn open(subject: &AlertSubject) -> AlertRule {
    let matchers = of_policy(subject);
    let labels = [&BREAKER_LABELS[..], &POD_LABELS[..]].concat().join(", ");
    let state = matchers.clone().equal(STATE, STATE_CLOSED).select(BREAKER_STATE);
    let requests = matchers.select(REQUESTS);
    let expr = format!("min by ({labels}) ({state}) == 0\nand\nsum by ({labels}) (increase({requests}[5m])) > 0");
    Text {
        alert: "CircuitBreakerOpen",
        severity: "warning",
        hold: "1m",
        keep_firing_for: "2m",
        summary: "Circuit breaker of {{ $labels.policy_namespace }}/{{ $labels.policy }} is not closed in a pod.",
        description: "Pod {{ $labels.namespace }}/{{ $labels.pod }} has had the breaker for Service {{ $labels.target_namespace }}/{{ $labels.target }} port {{ $labels.port }}{{ with $labels.rule }}, rule {{ . }}{{ end }} open or half-open for over a minute while requests arrive: most of them are refused.",
    }
    .rule(expr, BTreeMap::new())
}

fn high_error_rate(subject: &AlertSubject) -> AlertRule {
    let labels = FLEET_LABELS.join(", ");
    let matchers = of_policy(subject);
    let broken = matchers.clone().one_of(ERROR, &[ERROR_TIMEOUT, ERROR_CONNECT_FAILURE, ERROR_RESET]).select(REQUESTS);
    let failed = matchers.clone().equal(ERROR, "").equal(STATUS_CLASS, "5xx").select(REQUESTS);
    let all = upstream(matchers).select(REQUESTS);
    let expr = format!(
        "sum by ({labels}) (rate({broken}[5m]) or rate({failed}[5m]))\n\
         / sum by ({labels}) (rate({all}[5m]))\n> {ERROR_RATIO}\nand\n\
         sum by ({labels}) (increase({all}[5m])) >= {MIN_REQUESTS}"
    );
    Text {
        alert: "HighErrorRate",
        severity: "critical",
        hold: "5m",
        keep_firing_for: "5m",
        summary: "Over 5 % of requests to {{ $labels.target_namespace }}/{{ $labels.target }} fail.",
        description: "{{ $value | humanizePercentage }} of the requests that reached Service {{ $labels.target_namespace }}/{{ $labels.target }}{{ with $labels.rule }}, rule {{ . }}{{ end }} over the last five minutes ended with a 5xx status, a timeout or a broken connection (policy {{ $labels.policy_namespace }}/{{ $labels.policy }}, side {{ $labels.side }}).",
    }
    .rule(expr, BTreeMap::new())
}

/// For rules without a timeout: p99 from the histogram, whose buckets have a bound at the limit.
fn high_latency(subject: &AlertSubject) -> Option<AlertRule> {
    let (timed, untimed): (Vec<_>, Vec<_>) = subject.rules.iter().partition(|rule| rule.timeout_ms.is_some());
    if untimed.is_empty() {
        return None;
    }
    let labels = FLEET_LABELS.join(", ");
    let matchers = timed.iter().fold(of_policy(subject), |matchers, rule| matchers.not_equal(RULE, &rule.rule));
    let buckets = matchers.select(&format!("{REQUEST_DURATION}_bucket"));
    let count = matchers.select(&format!("{REQUEST_DURATION}_count"));
    let expr = format!(
        "histogram_quantile(0.99, sum by (le, {labels}) (rate({buckets}[5m]))) > {LATENCY_SECONDS}\nand\n\
         sum by ({labels}) (increase({count}[5m])) >= {MIN_REQUESTS}"
    );
    let text = Text {
        summary: "p99 latency of {{ $labels.target_namespace }}/{{ $labels.target }} is over 500 ms.",
        description: "One of a hundred requests to Service {{ $labels.target_namespace }}/{{ $labels.target }}{{ with $labels.rule }}, rule {{ . }}{{ end }} takes {{ $value | humanizeDuration }} or longer (policy {{ $labels.policy_namespace }}/{{ $labels.policy }}, side {{ $labels.side }}).",
        ..Text::HIGH_LATENCY
    };
    Some(text.rule(expr, [("limit".to_owned(), "500ms".to_owned())].into()))
}

/// For rules with a timeout: one timeout in a hundred is a p99 at the timeout, and exact where a histogram only guesses.
fn timeouts(subject: &AlertSubject) -> Option<AlertRule> {
    subject.rules.iter().find(|rule| rule.timeout_ms.is_some())?;
    let labels = FLEET_LABELS.join(", ");
    let matchers = of_policy(subject);
    let timed_out = matchers.clone().equal(ERROR, ERROR_TIMEOUT).select(REQUESTS);
    let all = upstream(matchers).select(REQUESTS);
    let expr = format!(
        "sum by ({labels}) (rate({timed_out}[5m]))\n/ sum by ({labels}) (rate({all}[5m]))\n> {TIMEOUT_RATIO}\nand\n\
         sum by ({labels}) (increase({all}[5m])) >= {MIN_REQUESTS}"
    );
    let text = Text {
        summary: "p99 latency of {{ $labels.target_namespace }}/{{ $labels.target }} is at the policy's timeout.",
        description: "{{ $value | humanizePercentage }} of the requests to Service {{ $labels.target_namespace }}/{{ $labels.target }}{{ with $labels.rule }}, rule {{ . }}{{ end }} ran into the timeout (policy {{ $labels.policy_namespace }}/{{ $labels.policy }}, side {{ $labels.side }}).",
        ..Text::HIGH_LATENCY
    };
    Some(text.rule(expr, [("limit".to_owned(), "timeout".to_owned())].into()))
}

fn of_policy(subject: &AlertSubject) -> Matchers {
    let PolicyId { namespace, name } = &subject.policy;
    Matchers::default().equal(POLICY_NAMESPACE, namespace).equal(POLICY, name)
}

/// Requests that the upstream had to answer: neither refused here nor given up by the client.
fn upstream(matchers: Matchers) -> Matchers {
    matchers.none_of(ERROR, &[ERROR_CIRCUIT_OPEN, ERROR_CLIENT_ABORT])
}

impl Text {
    /// What both of HighLatency's alerts have in common.
    const HIGH_LATENCY: Self = Self {
        alert: "HighLatency",
        severity: "warning",
        hold: "5m",
        keep_firing_for: "5m",
        summary: "",
        description: "",
    };

    fn rule(self, expr: String, mut labels: BTreeMap<String, String>) -> AlertRule {
        let Self { alert, severity, hold, keep_firing_for, summary, description } = self;
        labels.insert("severity".to_owned(), severity.to_owned());
        AlertRule {
            alert: alert.to_owned(),
            expr,
            hold: hold.to_owned(),
            keep_firing_for: keep_firing_for.to_owned(),
            labels,
            annotations: [("summary", summary), ("description", description)]
                .map(|(key, text)| (key.to_owned(), text.to_owned()))
                .into(),
        }
    }
}
