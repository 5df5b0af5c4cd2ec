//! The alerts of a RateLimit.
//!
//! Owns their conditions, thresholds and texts. It must not hold text that users chose outside of quoted PromQL. Shares need
//! some traffic before they may speak, because one refused request at night is 100 % of one.

use std::collections::BTreeMap;

use fusebox_policy::metrics::{
    DECISION, DECISION_ALLOWED, DECISION_DELAYED, LIMIT, POLICY, POLICY_NAMESPACE, RATE_LIMIT_BLOCKED_CLIENTS,
    RATE_LIMIT_DECISIONS, RATE_LIMIT_REMAINING_RATIO, SIDE, SOURCE, SOURCE_FALLBACK, TARGET, TARGET_NAMESPACE,
};

use super::alerts::Text;
use super::objects::AlertRule;
use super::promql::Matchers;
use crate::kind::PolicyKey;

/// What a fleet's alerts are told apart by.
const FLEET_LABELS: [&str; 6] = [POLICY_NAMESPACE, POLICY, TARGET_NAMESPACE, TARGET, SIDE, LIMIT];

/// The share of refusals above which RateLimitSaturated speaks, as a warning and as critical.
const SATURATED: [(&str, &str); 2] = [("warning", "0.1"), ("critical", "0.5")];

/// The share of a quota that is left, below which RateLimitNearLimit speaks.
const NEARLY_USED: &str = "0.2";

/// Requests within five minutes below which shares mean nothing.
const MIN_REQUESTS: &str = "20";

/// All alerts over a policy's limits, of which some may be counted in a store and some may block clients.
pub(super) fn alerts(policy: &PolicyKey, (shared, blocking): (bool, bool)) -> Vec<AlertRule> {
    let matchers = Matchers::of_policy(policy);
    let mut alerts: Vec<AlertRule> =
        SATURATED.into_iter().map(|(severity, share)| saturated(&matchers, severity, share)).collect();
    alerts.push(near_limit(&matchers));
    if shared {
        alerts.push(store_degraded(&matchers));
    }
    if blocking {
        alerts.push(client_blocked(&matchers));
    }
    alerts
}

fn saturated(matchers: &Matchers, severity: &'static str, share: &str) -> AlertRule {
    let labels = FLEET_LABELS.join(", ");
    let all = matchers.select(RATE_LIMIT_DECISIONS);
    let limited =
        matchers.clone().none_of(DECISION, &[DECISION_ALLOWED, DECISION_DELAYED]).select(RATE_LIMIT_DECISIONS);
    let expr = format!(
        "sum by ({labels}) (rate({limited}[5m]))\n/ sum by ({labels}) (rate({all}[5m]))\n> {share}\nand\n\
         sum by ({labels}) (increase({all}[5m])) >= {MIN_REQUESTS}"
    );
    Text {
        alert: "RateLimitSaturated",
        severity,
        hold: "10m",
        keep_firing_for: "5m",
        summary: "{{ $value | humanizePercentage }} of requests to {{ $labels.target_namespace }}/{{ $labels.target }} are beyond limit {{ $labels.limit }}.",
        description: "Limit {{ $labels.limit }} of RateLimit {{ $labels.policy_namespace }}/{{ $labels.policy }} has found {{ $value | humanizePercentage }} of the requests to Service {{ $labels.target_namespace }}/{{ $labels.target }} to be too many for over ten minutes (side {{ $labels.side }}).",
    }
    .rule(expr, BTreeMap::new())
}

fn near_limit(matchers: &Matchers) -> AlertRule {
    let labels = FLEET_LABELS.join(", ");
    let left = matchers.select(RATE_LIMIT_REMAINING_RATIO);
    Text {
        alert: "RateLimitNearLimit",
        severity: "info",
        hold: "15m",
        keep_firing_for: "5m",
        summary: "Over 80 % of limit {{ $labels.limit }} for {{ $labels.target_namespace }}/{{ $labels.target }} is used.",
        description: "A client of Service {{ $labels.target_namespace }}/{{ $labels.target }} has had no more than {{ $value | humanizePercentage }} of limit {{ $labels.limit }} of RateLimit {{ $labels.policy_namespace }}/{{ $labels.policy }} left for over fifteen minutes (side {{ $labels.side }}).",
    }
    .rule(format!("min by ({labels}) ({left}) < {NEARLY_USED}"), BTreeMap::new())
}

/// Single decisions may be late; it must not have ended within five minutes.
fn store_degraded(matchers: &Matchers) -> AlertRule {
    let labels = [POLICY_NAMESPACE, POLICY].join(", ");
    let fallback = matchers.clone().equal(SOURCE, SOURCE_FALLBACK).select(RATE_LIMIT_DECISIONS);
    Text {
        alert: "RateLimitStoreDegraded",
        severity: "warning",
        hold: "5m",
        keep_firing_for: "2m",
        summary: "RateLimit {{ $labels.policy_namespace }}/{{ $labels.policy }} decides without its store.",
        description: "{{ $value | humanize }} decisions a second of RateLimit {{ $labels.policy_namespace }}/{{ $labels.policy }} have been made without the store for over five minutes, as its onStoreFailure says. Condition StoreReachable of the policy says why.",
    }
    .rule(format!("sum by ({labels}) (rate({fallback}[2m])) > 0"), BTreeMap::new())
}

fn client_blocked(matchers: &Matchers) -> AlertRule {
    let labels = FLEET_LABELS.join(", ");
    let blocked = matchers.select(RATE_LIMIT_BLOCKED_CLIENTS);
    Text {
        alert: "RateLimitClientBlocked",
        severity: "info",
        hold: "0m",
        keep_firing_for: "2m",
        summary: "Clients of {{ $labels.target_namespace }}/{{ $labels.target }} are blocked by limit {{ $labels.limit }}.",
        description: "Limit {{ $labels.limit }} of RateLimit {{ $labels.policy_namespace }}/{{ $labels.policy }} refuses {{ $value }} clients of Service {{ $labels.target_namespace }}/{{ $labels.target }} for a time (side {{ $labels.side }}); status.targets of the policy names the first.",
    }
    .rule(format!("max by ({labels}) ({blocked}) > 0"), BTreeMap::new())
}
