//! What the alerts of every kind have in common, and which kind has which.
//!
//! Conditions and texts are each kind's own. It must not hold text that users chose outside of quoted PromQL.

use std::collections::BTreeMap;

use fusebox_api::rate_limit::LimitScope;
use fusebox_api::{CircuitBreakerPolicySpec, RateLimitSpec};
use fusebox_policy::metrics::{OPERATOR_SIDECARS_MISSING, POLICY, POLICY_KIND, POLICY_NAMESPACE};

use super::objects::AlertRule;
use super::promql::Matchers;
use super::{MonitoringOptions, circuit_breaker, rate_limit};
use crate::kind::PolicyKey;

/// What scraping adds, and names one pod.
pub(super) const POD_LABELS: [&str; 2] = ["namespace", "pod"];

/// What the alerts of one policy depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertSubject {
    /// The policy.
    pub policy: PolicyKey,
    /// What is watched of it.
    pub watched: Watched,
}

/// What is watched of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The breakers of each of its rules, the unnamed last one too.
    Breakers(Vec<RuleTimeout>),
    /// Its limits.
    Limits {
        /// Whether some are counted in the store.
        shared: bool,
        /// Whether some refuse a client for a time.
        blocking: bool,
    },
}

/// Whether a rule bounds its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTimeout {
    /// The rule's name; empty for the policy's own breaker.
    pub rule: String,
    /// The bound, in milliseconds; absent is none.
    pub timeout_ms: Option<u64>,
}

/// One alert, but for its condition.
pub(super) struct Text {
    pub(super) alert: &'static str,
    pub(super) severity: &'static str,
    pub(super) hold: &'static str,
    pub(super) keep_firing_for: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
}

impl Watched {
    /// What is watched of a CircuitBreakerPolicy with this spec.
    #[must_use]
    pub fn of_breakers(spec: &CircuitBreakerPolicySpec) -> Self {
        let named = spec.rules.iter().map(|rule| RuleTimeout {
            rule: rule.name.clone(),
            timeout_ms: rule.overrides.timeout.or(spec.timeout).map(fusebox_api::Duration::as_millis),
        });
        let own = RuleTimeout { rule: String::new(), timeout_ms: spec.timeout.map(fusebox_api::Duration::as_millis) };
        Self::Breakers(named.chain([own]).collect())
    }

    /// What is watched of a RateLimit with this spec.
    #[must_use]
    pub fn of_limits(spec: &RateLimitSpec) -> Self {
        Self::Limits {
            shared: spec.limits.iter().any(|limit| limit.scope == LimitScope::Shared),
            blocking: spec.limits.iter().any(|limit| limit.on_exceed.block_for.is_some()),
        }
    }
}

/// All alerts of one policy.
pub(super) fn all(subject: &AlertSubject, options: &MonitoringOptions) -> Vec<AlertRule> {
    let mut alerts = match &subject.watched {
        Watched::Breakers(rules) => circuit_breaker::alerts(&subject.policy, rules),
        Watched::Limits { shared, blocking } => rate_limit::alerts(&subject.policy, (*shared, *blocking)),
    };
    alerts.push(sidecar_missing(&subject.policy));
    for alert in &mut alerts {
        let url = format!("{}/{}.md", options.runbook_base_url.trim_end_matches('/'), alert.alert);
        alert.annotations.insert("runbook_url".to_owned(), url);
    }
    alerts
}

/// The operator counts, and several replicas of it may; the greatest is the newest while pods come up.
fn sidecar_missing(policy: &PolicyKey) -> AlertRule {
    let missing =
        Matchers::of_policy(policy).equal(POLICY_KIND, policy.kind.as_str()).select(OPERATOR_SIDECARS_MISSING);
    let expr = format!("max by ({POLICY_NAMESPACE}, {POLICY}, {POLICY_KIND}) ({missing}) > 0");
    Text {
        alert: "SidecarMissing",
        severity: "warning",
        hold: "10m",
        keep_firing_for: "5m",
        summary: "Pods go without {{ $labels.kind }} {{ $labels.policy_namespace }}/{{ $labels.policy }}, for they have no sidecar.",
        description: "{{ $value }} pods on the enforcing side of {{ $labels.kind }} {{ $labels.policy_namespace }}/{{ $labels.policy }} ask for a sidecar and have had none for over ten minutes: nothing is enforced for them. Condition Covered of the policy names them and says what to do.",
    }
    .rule(expr, BTreeMap::new())
}

impl Text {
    pub(super) fn rule(self, expr: String, mut labels: BTreeMap<String, String>) -> AlertRule {
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
