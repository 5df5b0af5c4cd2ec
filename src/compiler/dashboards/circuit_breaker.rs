//! The dashboard of circuit breakers: which are open, on which pods, and what they refuse.

use fusebox_policy::metrics::{
    BREAKER_FAILURE_RATIO, BREAKER_PROBES, BREAKER_REJECTED, BREAKER_STATE, BREAKER_STATE_CODE,
};
use fusebox_policy::metrics::{BREAKER_TRANSITIONS, REQUEST_DURATION, REQUESTS};

use super::panel::{Kind, Panel};
use super::{Draft, Row, Variable};

/// What was chosen above the panels.
const CHOSEN: &str = r#"policy_namespace=~"$namespace",policy=~"$policy",target=~"$target",pod=~"$pod""#;

pub(super) fn draft() -> Draft {
    Draft {
        uid: "fusebox-circuit-breakers",
        title: "Fusebox / Circuit breakers",
        description: "The circuit breakers of all pods with sidecars: their states, what trips them and what they refuse.",
        variables: variables(),
        rows: vec![health(), states(), traffic()],
    }
}

/// Choices by the labels of one metric, each narrowed by those before it.
fn variables() -> Vec<Variable> {
    let series = |chosen: &str| format!("{BREAKER_STATE_CODE}{{{chosen}}}");
    let (namespace, policy) = (r#"policy_namespace=~"$namespace""#, r#"policy=~"$policy""#);
    vec![
        Variable {
            name: "namespace",
            label: "Namespace",
            series: BREAKER_STATE_CODE.to_owned(),
            of_label: "policy_namespace",
        },
        Variable { name: "policy", label: "Policy", series: series(namespace), of_label: "policy" },
        Variable {
            name: "target",
            label: "Target",
            series: series(&format!("{namespace},{policy}")),
            of_label: "target",
        },
        Variable { name: "pod", label: "Pod", series: series(&format!("{namespace},{policy}")), of_label: "pod" },
    ]
}

fn health() -> Row {
    let condition = |kind: &str| {
        format!(
            r#"sum(max by (status) (fusebox_operator_resource_condition{{kind="CircuitBreakerPolicy",type="Ready",status{kind}}})) or vector(0)"#
        )
    };
    let behind = "count(fusebox_proxy_config_generation < on (policy_namespace, policy) group_left () \
         max by (policy_namespace, policy) (fusebox_operator_resource_generation)) or vector(0)";
    Row {
        title: "Health",
        panels: vec![
            Panel::new(Kind::Stat, "Policies ready", "Policies whose condition Ready is True.").query(condition("=\"True\""), ""),
            Panel::new(Kind::Stat, "Policies not ready", "Policies that are refused, or not yet enforced by all Ready pods; kubectl get circuitbreakers says which.")
                .query(condition("!=\"True\""), ""),
            Panel::new(Kind::Stat, "Sidecars behind", "Sidecars that enforce an older generation of a policy than the operator compiled.").query(behind, ""),
            Panel::new(Kind::Stat, "Alerts firing", "Alerts of these policies that fire.")
                .query(r#"count(ALERTS{alertstate="firing",policy_namespace=~"$namespace",policy=~"$policy"}) or vector(0)"#, ""),
            Panel::new(Kind::Stat, "Breakers open", "Breakers of single pods that are open now.")
                .query(format!(r#"sum({BREAKER_STATE}{{{CHOSEN},state="open"}}) or vector(0)"#), ""),
            Panel::new(Kind::Stat, "Share open", "Open breakers among all that are reported.")
                .unit("percentunit")
                .query(format!(r#"sum({BREAKER_STATE}{{{CHOSEN},state="open"}}) / count({BREAKER_STATE_CODE}{{{CHOSEN}}})"#), ""),
        ],
    }
}

fn states() -> Row {
    let states = format!("max by (pod, policy, target, port, rule) ({BREAKER_STATE_CODE}{{{CHOSEN}}})");
    let transitions = format!("sum by (from, to) (rate({BREAKER_TRANSITIONS}{{{CHOSEN}}}[$__rate_interval]))");
    Row {
        title: "Breakers",
        panels: vec![
            Panel::new(
                Kind::States,
                "State of each breaker",
                "Closed lets all pass, half-open lets probes pass, open refuses.",
            )
            .query(states, "{{pod}} {{target}}:{{port}} {{rule}}")
            .value("0", "closed", "green")
            .value("1", "half-open", "yellow")
            .value("2", "open", "red"),
            Panel::new(Kind::Lines, "Transitions", "State changes a second, by what they lead from and to.")
                .unit("ops")
                .query(transitions, "{{from}} to {{to}}"),
            Panel::new(
                Kind::Lines,
                "Failures in the window",
                "The share of failures among the calls that each breaker looks at; the greatest of a target's pods.",
            )
            .unit("percentunit")
            .query(
                format!("max by (policy, target, port, rule) ({BREAKER_FAILURE_RATIO}{{{CHOSEN}}})"),
                "{{policy}} {{target}}:{{port}} {{rule}}",
            ),
            Panel::new(Kind::Lines, "Probes under way", "Calls that half-open breakers have let pass and wait for.")
                .query(format!("sum by (policy, target) ({BREAKER_PROBES}{{{CHOSEN}}})"), "{{policy}} {{target}}"),
        ],
    }
}

fn traffic() -> Row {
    let rate = |metric: &str, by: &str| format!("sum by ({by}) (rate({metric}{{{CHOSEN}}}[$__rate_interval]))");
    let quantile =
        |share: &str| format!("histogram_quantile({share}, {})", rate(&format!("{REQUEST_DURATION}_bucket"), "le"));
    Row {
        title: "Traffic",
        panels: vec![
            Panel::new(
                Kind::Lines,
                "Requests",
                "Requests a second by the class of their status and, where the sidecar ended them, by why.",
            )
            .unit("reqps")
            .query(rate(REQUESTS, "status_class, error"), "{{status_class}} {{error}}"),
            Panel::new(
                Kind::Lines,
                "Refused",
                "Requests a second that breakers refused; with mode Shadow, those they would have refused.",
            )
            .unit("reqps")
            .query(rate(BREAKER_REJECTED, "policy, target"), "{{policy}} {{target}}"),
            Panel::new(Kind::Heatmap, "Duration", "How long requests to upstreams took, with traces as exemplars.")
                .unit("s")
                .query(rate(&format!("{REQUEST_DURATION}_bucket"), "le"), "{{le}}"),
            Panel::new(Kind::Lines, "Duration, percentiles", "How long requests to upstreams took.")
                .unit("s")
                .query(quantile("0.5"), "p50")
                .query(quantile("0.95"), "p95")
                .query(quantile("0.99"), "p99"),
        ],
    }
}
