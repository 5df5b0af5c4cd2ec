//! What the dashboards of all kinds of policies have in common: the choices above the panels, and the row about health.

use super::Variable;
use super::panel::{Panel, Shape};
use crate::kind::Kind;

/// What was chosen above the panels.
pub(super) const CHOSEN: &str = r#"policy_namespace=~"$namespace",policy=~"$policy",target=~"$target",pod=~"$pod""#;

/// Choices by the labels of `metric`, each narrowed by those before it.
pub(super) fn variables(metric: &str) -> Vec<Variable> {
    let variable = |name, label, of_label, chosen: &str| {
        let series = if chosen.is_empty() { metric.to_owned() } else { format!("{metric}{{{chosen}}}") };
        Variable { name, label, series, of_label }
    };
    let namespace = r#"policy_namespace=~"$namespace""#;
    let policy = format!(r#"{namespace},policy=~"$policy""#);
    vec![
        variable("namespace", "Namespace", "policy_namespace", ""),
        variable("policy", "Policy", "policy", namespace),
        variable("target", "Target", "target", &policy),
        variable("pod", "Pod", "pod", &policy),
    ]
}

/// Whether the policies of a kind are in force, and whether something is wrong.
pub(super) fn health(kind: Kind) -> Vec<Panel> {
    let kind = kind.as_str();
    let ready = |status: &str| {
        let series = format!(r#"fusebox_operator_resource_condition{{kind="{kind}",type="Ready",status{status}}}"#);
        format!("sum(max by (status) ({series})) or vector(0)")
    };
    let behind = format!(
        r#"count(fusebox_proxy_config_generation{{kind="{kind}"}} < on (policy_namespace, policy) group_left () max by (policy_namespace, policy) (fusebox_operator_resource_generation{{kind="{kind}"}})) or vector(0)"#
    );
    let firing = r#"count(ALERTS{alertstate="firing",policy_namespace=~"$namespace",policy=~"$policy"}) or vector(0)"#;
    let stat = |title, description, query: String| Panel::new(Shape::Stat, title, description).query(query, "");
    vec![
        stat("Policies ready", "Policies whose condition Ready is True.", ready("=\"True\"")),
        stat(
            "Policies not ready",
            "Policies that are refused, or not yet enforced by all Ready pods; kubectl get says which.",
            ready("!=\"True\""),
        ),
        stat(
            "Sidecars behind",
            "Sidecars that enforce an older generation of a policy than the operator compiled.",
            behind,
        ),
        stat("Alerts firing", "Alerts of policies with these names that fire.", firing.to_owned()),
    ]
}
