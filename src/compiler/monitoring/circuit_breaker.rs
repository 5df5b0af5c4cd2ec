//! The alerts of a CircuitBreakerPolicy.
//!
//! Owns their conditions, thresholds and texts. It must not hold text that users chose outside of quoted PromQL. Each alert
//! needs some traffic before it may speak, because one failed request at night is 100 % of one.

use std::collections::BTreeMap;

use fusebox_policy::metrics::{
    BREAKER_LABELS, BREAKER_STATE, ERROR, ERROR_CIRCUIT_OPEN, ERROR_CLIENT_ABORT, ERROR_CONNECT_FAILURE,
    ERROR_RATE_LIMITED, ERROR_RESET, ERROR_TIMEOUT, POLICY, POLICY_NAMESPACE, REQUEST_DURATION, REQUESTS, RULE, SIDE,
    STATE, STATE_CLOSED, STATUS_CLASS, TARGET, TARGET_NAMESPACE,
};

use super::alerts::{POD_LABELS, RuleTimeout, Text};
use super::objects::AlertRule;
use super::promql::Matchers;
use crate::kind::PolicyKey;

/// What a fleet's alerts are told apart by.
const FLEET_LABELS: [&str; 6] = [POLICY_NAMESPACE, POLICY, TARGET_NAMESPACE, TARGET, SIDE, RULE];

/// The share of failures above which HighErrorRate speaks.
const ERROR_RATIO: &str = "0.05";

/// The p99 above which HighLatency speaks where no timeout says otherwise, in seconds.
const LATENCY_SECONDS: &str = "0.5";

/// The share of timeouts that is the same as a p99 at the timeout.
const TIMEOUT_RATIO: &str = "0.01";

/// Requests within five minutes below which rates mean nothing.
const MIN_REQUESTS: &str = "20";

/// What both of HighLatency's alerts have in common.
const HIGH_LATENCY: Text =
    Text { alert: "HighLatency", severity: "warning", hold: "5m", keep_firing_for: "5m", summary: "", description: "" };

/// All alerts over a policy's breakers.
pub(super) fn alerts(policy: &PolicyKey, rules: &[RuleTimeout]) -> Vec<AlertRule> {
    let matchers = Matchers::of_policy(policy);
    let mut alerts = vec![open(&matchers), high_error_rate(&matchers)];
    alerts.extend(high_latency(&matchers, rules));
    alerts.extend(timeouts(&matchers, rules));
    alerts
}

/// Not closed, rather than open: flips between open and half-open must not start the wait anew.
fn open(matchers: &Matchers) -> AlertRule {
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

fn high_error_rate(matchers: &Matchers) -> AlertRule {
    let labels = FLEET_LABELS.join(", ");
    let broken = matchers.clone().one_of(ERROR, &[ERROR_TIMEOUT, ERROR_CONNECT_FAILURE, ERROR_RESET]).select(REQUESTS);
    let failed = matchers.clone().equal(ERROR, "").equal(STATUS_CLASS, "5xx").select(REQUESTS);
    let all = upstream(matchers.clone()).select(REQUESTS);
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
fn high_latency(matchers: &Matchers, rules: &[RuleTimeout]) -> Option<AlertRule> {
    let (timed, untimed): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.timeout_ms.is_some());
    if untimed.is_empty() {
        return None;
    }
    let labels = FLEET_LABELS.join(", ");
    let matchers = timed.iter().fold(matchers.clone(), |matchers, rule| matchers.not_equal(RULE, &rule.rule));
    let buckets = matchers.select(&format!("{REQUEST_DURATION}_bucket"));
    let count = matchers.select(&format!("{REQUEST_DURATION}_count"));
    let expr = format!(
        "histogram_quantile(0.99, sum by (le, {labels}) (rate({buckets}[5m]))) > {LATENCY_SECONDS}\nand\n\
         sum by ({labels}) (increase({count}[5m])) >= {MIN_REQUESTS}"
    );
    let text = Text {
        summary: "p99 latency of {{ $labels.target_namespace }}/{{ $labels.target }} is over 500 ms.",
        description: "One of a hundred requests to Service {{ $labels.target_namespace }}/{{ $labels.target }}{{ with $labels.rule }}, rule {{ . }}{{ end }} takes {{ $value | humanizeDuration }} or longer (policy {{ $labels.policy_namespace }}/{{ $labels.policy }}, side {{ $labels.side }}).",
        ..HIGH_LATENCY
    };
    Some(text.rule(expr, [("limit".to_owned(), "500ms".to_owned())].into()))
}

/// For rules with a timeout: one timeout in a hundred is a p99 at the timeout, and exact where a histogram only guesses.
fn timeouts(matchers: &Matchers, rules: &[RuleTimeout]) -> Option<AlertRule> {
    rules.iter().find(|rule| rule.timeout_ms.is_some())?;
    let labels = FLEET_LABELS.join(", ");
    let timed_out = matchers.clone().equal(ERROR, ERROR_TIMEOUT).select(REQUESTS);
    let all = upstream(matchers.clone()).select(REQUESTS);
    let expr = format!(
        "sum by ({labels}) (rate({timed_out}[5m]))\n/ sum by ({labels}) (rate({all}[5m]))\n> {TIMEOUT_RATIO}\nand\n\
         sum by ({labels}) (increase({all}[5m])) >= {MIN_REQUESTS}"
    );
    let text = Text {
        summary: "p99 latency of {{ $labels.target_namespace }}/{{ $labels.target }} is at the policy's timeout.",
        description: "{{ $value | humanizePercentage }} of the requests to Service {{ $labels.target_namespace }}/{{ $labels.target }}{{ with $labels.rule }}, rule {{ . }}{{ end }} ran into the timeout (policy {{ $labels.policy_namespace }}/{{ $labels.policy }}, side {{ $labels.side }}).",
        ..HIGH_LATENCY
    };
    Some(text.rule(expr, [("limit".to_owned(), "timeout".to_owned())].into()))
}

/// Requests that the upstream had to answer: neither refused here nor given up by the client.
fn upstream(matchers: Matchers) -> Matchers {
    matchers.none_of(ERROR, &[ERROR_CIRCUIT_OPEN, ERROR_RATE_LIMITED, ERROR_CLIENT_ABORT])
}
