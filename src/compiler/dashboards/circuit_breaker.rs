//! The dashboard of circuit breakers: which are open, on which pods, and what they refuse.

use fusebox_policy::metrics::{
    BREAKER_FAILURE_RATIO, BREAKER_PROBES, BREAKER_REJECTED, BREAKER_STATE, BREAKER_STATE_CODE,
};
use fusebox_policy::metrics::{BREAKER_TRANSITIONS, REQUEST_DURATION, REQUESTS};

use super::panel::{Panel, Shape};
use super::policies::{CHOSEN, health, variables};
use super::{Draft, Row};
use crate::kind::Kind;

pub(super) fn draft() -> Draft {
    Draft {
        uid: "fusebox-circuit-breakers",
        title: "Fusebox / Circuit breakers",
        description: "The circuit breakers of all pods with sidecars: their states, what trips them and what they refuse.",
        variables: variables(BREAKER_STATE_CODE),
        rows: vec![numbers(), states(), traffic()],
    }
}

fn numbers() -> Row {
    let open = format!(r#"sum({BREAKER_STATE}{{{CHOSEN},state="open"}})"#);
    let mut panels = health(Kind::CircuitBreakerPolicy);
    panels.push(
        Panel::new(Shape::Stat, "Breakers open", "Breakers of single pods that are open now.")
            .query(format!("{open} or vector(0)"), ""),
    );
    panels.push(
        Panel::new(Shape::Stat, "Share open", "Open breakers among all that are reported.")
            .unit("percentunit")
            .query(format!("{open} / count({BREAKER_STATE_CODE}{{{CHOSEN}}})"), ""),
    );
    Row { title: "Health", panels }
}

fn states() -> Row {
    let states = format!("max by (pod, policy, target, port, rule) ({BREAKER_STATE_CODE}{{{CHOSEN}}})");
    let transitions = format!("sum by (from, to) (rate({BREAKER_TRANSITIONS}{{{CHOSEN}}}[$__rate_interval]))");
    Row {
        title: "Breakers",
        panels: vec![
            Panel::new(
                Shape::States,
                "State of each breaker",
                "Closed lets all pass, half-open lets probes pass, open refuses.",
            )
            .query(states, "{{pod}} {{target}}:{{port}} {{rule}}")
            .value("0", "closed", "green")
            .value("1", "half-open", "yellow")
            .value("2", "open", "red"),
            Panel::new(Shape::Lines, "Transitions", "State changes a second, by what they lead from and to.")
                .unit("ops")
                .query(transitions, "{{from}} to {{to}}"),
            Panel::new(
                Shape::Lines,
                "Failures in the window",
                "The share of failures among the calls that each breaker looks at; the greatest of a target's pods.",
            )
            .unit("percentunit")
            .query(
                format!("max by (policy, target, port, rule) ({BREAKER_FAILURE_RATIO}{{{CHOSEN}}})"),
                "{{policy}} {{target}}:{{port}} {{rule}}",
            ),
            Panel::new(Shape::Lines, "Probes under way", "Calls that half-open breakers have let pass and wait for.")
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
                Shape::Lines,
                "Requests",
                "Requests a second by the class of their status and, where the sidecar ended them, by why.",
            )
            .unit("reqps")
            .query(rate(REQUESTS, "status_class, error"), "{{status_class}} {{error}}"),
            Panel::new(
                Shape::Lines,
                "Refused",
                "Requests a second that breakers refused; with mode Shadow, those they would have refused.",
            )
            .unit("reqps")
            .query(rate(BREAKER_REJECTED, "policy, target"), "{{policy}} {{target}}"),
            Panel::new(Shape::Heatmap, "Duration", "How long requests to upstreams took, with traces as exemplars.")
                .unit("s")
                .query(rate(&format!("{REQUEST_DURATION}_bucket"), "le"), "{{le}}"),
            Panel::new(Shape::Lines, "Duration, percentiles", "How long requests to upstreams took.")
                .unit("s")
                .query(quantile("0.5"), "p50")
                .query(quantile("0.95"), "p95")
                .query(quantile("0.99"), "p99"),
        ],
    }
}
