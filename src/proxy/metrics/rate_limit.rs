//! The families of the limits: what was decided, how much is tracked, what waits.
//!
//! It must show no key: whose requests were refused is for status and commands, where it can be redacted.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use fusebox_policy::config::LimitKey;
use fusebox_policy::metrics as names;

use super::side_word;
use super::writer::{Labels, Sample, Writer, with};
use crate::snapshot::Snapshot;

/// Rules of limits of which all series are written; those that decided nothing come last.
const MAX_LIMITS_SHOWN: usize = 1_000;

/// Writes what the limits of the configuration in force say.
pub(super) fn write_limits(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let now = Instant::now();
    let (mut shown, idle): (Vec<_>, Vec<_>) = snapshot.limits.values().partition(|limit| limit.is_used());
    shown.extend(idle);
    shown.truncate(MAX_LIMITS_SHOWN);
    let (mut decisions, mut overflow, mut skipped, mut gauges) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
    for limit in shown {
        let labels = labels_of_limit(&limit.tracked.key);
        decisions.extend(limit.decisions().map(|(decision, source, count)| {
            let more = [(names::DECISION, decision.into()), (names::SOURCE, source.into())];
            (with(&labels, more), Sample::Counter(count))
        }));
        overflow.push((labels.clone(), Sample::Counter(limit.overflowed())));
        skipped.push((labels.clone(), Sample::Counter(limit.skipped())));
        for (name, value) in limit.gauges(now) {
            gauges.entry(name).or_insert_with(Vec::new).push((labels.clone(), Sample::Gauge(value)));
        }
    }
    writer.family(
        names::RATE_LIMIT_DECISIONS,
        "Decisions of limits; in Shadow what they would have been.",
        &decisions,
    )?;
    writer.family(names::RATE_LIMIT_OVERFLOW, "Requests whose key had no place for a bucket of its own.", &overflow)?;
    writer.family(names::RATE_LIMIT_SKIPPED, "Requests in Shadow on which the store was not asked.", &skipped)?;
    for (name, samples) in &gauges {
        writer.family(name, gauge_help(name), samples)?;
    }
    Ok(())
}

fn gauge_help(name: &str) -> &'static str {
    match name {
        names::RATE_LIMIT_BLOCKED_CLIENTS => "Clients that are refused for a time.",
        names::RATE_LIMIT_TRACKED_KEYS => "Keys with a bucket of their own.",
        names::RATE_LIMIT_QUEUED => "Requests that wait for their turn.",
        _ => "The least that a request since the last reading found left of its bucket's burst, 0 to 1.",
    }
}

fn labels_of_limit(key: &LimitKey) -> Labels {
    let LimitKey { policy, target, side, port, limit, rule } = key;
    vec![
        (names::POLICY_NAMESPACE, policy.namespace.clone().into()),
        (names::POLICY, policy.name.clone().into()),
        (names::TARGET_NAMESPACE, target.namespace.clone().into()),
        (names::TARGET, target.name.clone().into()),
        (names::SIDE, side_word(*side).into()),
        (names::PORT, port.to_string().into()),
        (names::LIMIT, limit.clone().into()),
        (names::RULE, rule.clone().into()),
    ]
}
