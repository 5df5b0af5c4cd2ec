//! The RateLimits of a cluster as `fusebox status` shows them, from their statuses alone.
//!
//! A cluster of an older release has none: its API server does not know the kind, which is no error.

use std::io::Write;

use anyhow::Result;
use fusebox_api::RateLimit;
use fusebox_api::rate_limit::LimitStatus;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use crate::arguments::StatusArguments;
use crate::conditions;
use crate::refusal::{Role, explained};
use crate::table::{self, Cell};
use crate::terminal::{BAD, CARE, FAINT, GOOD, STRONG, Styled};

/// The RateLimits that are asked for; none where the cluster does not know the kind.
pub(crate) async fn list(arguments: &StatusArguments, namespace: &str, client: &Client) -> Result<Vec<RateLimit>> {
    let api: Api<RateLimit> = match (&arguments.cluster.namespace, &arguments.name) {
        (Some(namespace), _) => Api::namespaced(client.clone(), namespace),
        (None, Some(_)) => Api::namespaced(client.clone(), namespace),
        (None, None) => Api::all(client.clone()),
    };
    let listed = match &arguments.name {
        Some(name) => api.get_opt(name).await.map(|found| found.into_iter().collect()),
        None => api.list(&ListParams::default()).await.map(|list| list.items),
    };
    let mut policies: Vec<RateLimit> = match listed {
        Ok(policies) => policies,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(explained(error, Role::View)),
    };
    policies.iter_mut().for_each(|policy| policy.managed_fields_mut().clear());
    Ok(policies)
}

/// One line for each policy.
pub(crate) fn print_table(policies: &[RateLimit], out: &mut dyn Write) -> Result<()> {
    let rows: Vec<_> = policies.iter().map(row).collect();
    writeln!(out)?;
    table::write(out, ["NAMESPACE", "RATE-LIMIT", "TARGET", "LIMIT", "SCOPE", "LIMITED%", "BLOCKED", "READY"], &rows)?;
    Ok(())
}

fn row(policy: &RateLimit) -> [Cell; 8] {
    let status = policy.status.clone().unwrap_or_default();
    let summary = status.summary.unwrap_or_default();
    let or_dash = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let blocked = if summary.blocked.is_some_and(|blocked| blocked > 0) { BAD } else { FAINT };
    let ready = conditions::find(&status.conditions, "Ready");
    let (ready, style) = match ready {
        Some(Condition { status, .. }) if status == "True" => ("True".to_owned(), GOOD),
        Some(Condition { reason, .. }) => (reason.clone(), BAD),
        None => ("Unknown".to_owned(), FAINT),
    };
    [
        policy.namespace().unwrap_or_default().into(),
        policy.name_any().into(),
        summary.target.into(),
        summary.limit.into(),
        summary.scope.into(),
        or_dash(summary.limited_percent).into(),
        Cell::styled(or_dash(summary.blocked), blocked),
        Cell::styled(ready, style),
    ]
}

/// One policy with its limits and conditions.
pub(crate) fn print_detail(policy: &RateLimit, now: Timestamp, out: &mut dyn Write) -> Result<()> {
    let status = policy.status.clone().unwrap_or_default();
    let name = format!("{}/{}", policy.namespace().unwrap_or_default(), policy.name_any());
    writeln!(
        out,
        "{} side {:?}, mode {:?}\n",
        Styled(STRONG, format!("RateLimit {name}:")),
        policy.spec.side,
        policy.spec.mode
    )?;
    let rows: Vec<_> = status.targets.iter().map(limit_row).collect();
    let headings = ["TARGET", "LIMIT", "RULE", "ALLOWED", "LIMITED", "LIMITED%", "BLOCKED", "REPORTING"];
    table::write(out, headings, &rows)?;
    for target in status.targets.iter().filter(|target| !target.message.is_empty()) {
        writeln!(out, "{}: {}", target.reference.name, Styled(CARE, &target.message))?;
    }
    for target in &status.targets {
        for client in &target.top_blocked {
            let left = table::age(now, client.until.0);
            writeln!(out, "limit {}: client {} is blocked for {left}", target.limit, Styled(BAD, &client.key))?;
        }
    }
    writeln!(out)?;
    conditions::print(&status.conditions, now, out)?;
    writeln!(
        out,
        "\n`fusebox limits {}` shows what the pods say now, with the keys that were refused most",
        policy.name_any()
    )?;
    Ok(())
}

fn limit_row(limit: &LimitStatus) -> [Cell; 8] {
    let or_dash = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    [
        limit.reference.name.clone().into(),
        limit.limit.clone().into(),
        if limit.rule.is_empty() { "(rest)".into() } else { limit.rule.clone().into() },
        or_dash(limit.allowed).into(),
        or_dash(limit.limited).into(),
        or_dash(limit.limited_percent).into(),
        or_dash(limit.blocked_clients).into(),
        limit.pods.reporting.to_string().into(),
    ]
}
