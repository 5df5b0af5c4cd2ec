//! The dashboard of rate limits: what they let pass, what they refuse, and how full their buckets are.

use fusebox_policy::metrics::{
    RATE_LIMIT_BLOCKED_CLIENTS, RATE_LIMIT_DECISIONS, RATE_LIMIT_OVERFLOW, RATE_LIMIT_QUEUED,
};
use fusebox_policy::metrics::{RATE_LIMIT_REMAINING_RATIO, RATE_LIMIT_TRACKED_KEYS};

use super::panel::{Panel, Shape};
use super::policies::{CHOSEN, health, variables};
use super::{Draft, Row};
use crate::kind::Kind;

pub(super) fn draft() -> Draft {
    Draft {
        uid: "fusebox-rate-limits",
        title: "Fusebox / Rate limits",
        description: "The rate limits of all pods with sidecars: what passes, what is refused, and which limits are near their end.",
        variables: variables(RATE_LIMIT_DECISIONS),
        rows: vec![numbers(), decisions(), buckets()],
    }
}

fn numbers() -> Row {
    let mut panels = health(Kind::RateLimit);
    let limited = rate(r#",decision="limited""#);
    panels.push(
        Panel::new(Shape::Stat, "Clients blocked", "Clients that are refused for a time now, over all pods.")
            .query(format!("sum({RATE_LIMIT_BLOCKED_CLIENTS}{{{CHOSEN}}}) or vector(0)"), ""),
    );
    panels.push(
        Panel::new(Shape::Stat, "Share limited", "Requests beyond their limit among all that limits decided about.")
            .unit("percentunit")
            .query(format!("sum({limited}) / sum({})", rate("")), ""),
    );
    Row { title: "Health", panels }
}

fn decisions() -> Row {
    Row {
        title: "Decisions",
        panels: vec![
            Panel::new(Shape::Lines, "Decisions", "Requests a second by what limits decided; with mode Shadow, by what they would have.")
                .unit("reqps")
                .query(format!("sum by (decision) ({})", rate("")), "{{decision}}"),
            Panel::new(Shape::Lines, "Limited", "Requests a second beyond each limit.")
                .unit("reqps")
                .query(
                    format!(r#"sum by (policy, limit, rule) ({})"#, rate(r#",decision="limited""#)),
                    "{{policy}} {{limit}} {{rule}}",
                ),
            Panel::new(Shape::Lines, "Where it was decided", "Decisions a second by where the bucket was: in the proxy, in the store, or what holds while the store is lost.")
                .unit("reqps")
                .query(format!("sum by (source) ({})", rate("")), "{{source}}"),
            Panel::new(Shape::Lines, "Waiting", "Requests that wait for their turn.")
                .query(format!("sum by (policy, limit) ({RATE_LIMIT_QUEUED}{{{CHOSEN}}})"), "{{policy}} {{limit}}"),
        ],
    }
}

fn buckets() -> Row {
    Row {
        title: "Buckets",
        panels: vec![
            Panel::new(
                Shape::Lines,
                "Least that is left",
                "What the emptiest bucket of each limit has left of its burst.",
            )
            .unit("percentunit")
            .query(
                format!("min by (policy, limit, rule) ({RATE_LIMIT_REMAINING_RATIO}{{{CHOSEN}}})"),
                "{{policy}} {{limit}} {{rule}}",
            ),
            Panel::new(Shape::Lines, "Blocked clients", "Clients that are refused for a time, by limit.").query(
                format!("sum by (policy, limit) ({RATE_LIMIT_BLOCKED_CLIENTS}{{{CHOSEN}}})"),
                "{{policy}} {{limit}}",
            ),
            Panel::new(Shape::Lines, "Tracked keys", "Keys with a bucket of their own; the most of any pod.").query(
                format!("max by (policy, limit) ({RATE_LIMIT_TRACKED_KEYS}{{{CHOSEN}}})"),
                "{{policy}} {{limit}}",
            ),
            Panel::new(
                Shape::Lines,
                "Keys beyond the bound",
                "Requests a second that spent from the bucket which all keys beyond maxTrackedKeys share.",
            )
            .unit("reqps")
            .query(
                format!("sum by (policy, limit) (rate({RATE_LIMIT_OVERFLOW}{{{CHOSEN}}}[$__rate_interval]))"),
                "{{policy}} {{limit}}",
            ),
        ],
    }
}

/// Decisions a second with these further matchers.
fn rate(more: &str) -> String {
    format!("rate({RATE_LIMIT_DECISIONS}{{{CHOSEN}{more}}}[$__rate_interval])")
}
