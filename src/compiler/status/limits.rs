//! From the pods' reports to what limits did to targets, and to the one line of `kubectl get`.
//!
//! Silence must never become zero: only a pod that is heard and enforces the policy is taken to have limited nobody where it
//! reports nothing. Counts are kept to three digits, or every request would be a new status.

use std::collections::BTreeMap;

use fusebox_api::RateLimitStatus;
use fusebox_api::rate_limit::{
    BlockedClient, LimitPods, LimitScope, LimitStatus, MAX_LIMIT_TARGETS, MAX_TOP_BLOCKED, RateLimitSummary,
};
use fusebox_policy::config::LimitKey;
use fusebox_policy::report::{self, LimitReport, RecentDecisions};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::words::{target_words, time, verdict_words, whole};
use super::{Reports, heard};
use crate::plan::{BoundPod, LimitName, LimitPart, PolicyPlan, TargetPlan, Verdict};

/// A client's key is cut to this many characters: it stands in statuses, and a proxy may say anything.
const MAX_KEY: usize = 256;

/// A pod's words on its store are cut to this many characters.
const MAX_STORE_WORDS: usize = 256;

/// What the pods show.
pub(super) struct Observed {
    pub(super) summary: RateLimitSummary,
    pub(super) targets: Vec<LimitStatus>,
    pub(super) truncated: bool,
    /// Requests that were refused in the last minute, where any pod says so, and when one was last.
    pub(super) limited_recently: Option<i64>,
    pub(super) last_limited: Option<Time>,
    /// Pods that are heard.
    pub(super) reporting: i64,
    /// Pods that can't reach the store, with what the first of them says.
    pub(super) without_store: i64,
    pub(super) store_error: String,
}

/// The limits of a policy on the pods that are heard.
struct Heard<'a> {
    part: &'a LimitPart,
    pods: Vec<HeardPod<'a>>,
}

/// One pod that is heard.
struct HeardPod<'a> {
    bound: &'a BoundPod,
    limits: BTreeMap<&'a LimitKey, &'a LimitReport>,
}

/// What several limits come to.
#[derive(Default)]
struct Tally<'a> {
    reporting: i64,
    without_store: i64,
    allowed: u64,
    limited: u64,
    delayed: u64,
    /// What was decided in the last minute, of the pods that say so.
    recent: Option<RecentDecisions>,
    last_limited_ms: Option<i64>,
    /// Blocked clients of all pods, by limits of scope Replica: each pod has its own.
    blocked_alone: u64,
    /// Blocked clients of the pod that knows most, by limits of scope Shared: all pods have the same.
    blocked_together: u64,
    clients: BTreeMap<&'a str, Client>,
    store_lost_ms: Option<i64>,
    store_error: &'a str,
}

/// One blocked client over all pods.
struct Client {
    since_ms: i64,
    until_ms: i64,
    refused: u64,
}

/// What the reports of the bound pods come to.
pub(super) fn observe((plan, part): (&PolicyPlan, &LimitPart), reports: &Reports, now: Timestamp) -> Observed {
    let heard = Heard::new((plan, part), reports, now);
    let entries = plan.targets.iter().flat_map(|target| names_or_one(part, target).map(move |name| (target, name)));
    let mut targets: Vec<LimitStatus> = entries.map(|(target, name)| heard.target_status(target, name)).collect();
    let truncated = targets.len() > MAX_LIMIT_TARGETS;
    targets.truncate(MAX_LIMIT_TARGETS);
    let tally = heard.tally(|_| true);
    let summary = RateLimitSummary {
        target: target_words(plan),
        limit: part.rate.clone(),
        scope: part.scopes.iter().map(|scope| format!("{scope:?}")).collect::<Vec<_>>().join(","),
        limited_percent: tally.limited_percent(),
        blocked: tally.blocked(),
    };
    Observed {
        summary,
        targets,
        truncated,
        limited_recently: tally.limited_recently(),
        last_limited: tally.last_limited_ms.and_then(time),
        reporting: tally.reporting,
        without_store: tally.without_store,
        store_error: tally.store_error.chars().filter(|it| !it.is_control()).take(MAX_STORE_WORDS).collect(),
    }
}

/// What stands, while the pods have not had the time to speak; the verdicts are new all the same.
pub(super) fn kept(plan: (&PolicyPlan, &LimitPart), previous: &RateLimitStatus) -> Observed {
    let silent = observe(plan, &Reports::default(), Timestamp::UNIX_EPOCH);
    let targets: Vec<LimitStatus> = silent.targets.into_iter().map(|target| kept_target(target, previous)).collect();
    let kept = previous.summary.clone().unwrap_or_default();
    let RateLimitSummary { limited_percent, blocked, .. } = kept;
    Observed {
        summary: RateLimitSummary { limited_percent, blocked, ..silent.summary },
        truncated: silent.truncated,
        limited_recently: targets.iter().filter_map(|target| target.limited_recently).reduce(i64::saturating_add),
        last_limited: targets.iter().filter_map(|target| target.last_limited.clone()).max(),
        reporting: targets.iter().map(|target| target.pods.reporting).max().unwrap_or_default(),
        without_store: targets.iter().map(|target| target.pods.without_store).max().unwrap_or_default(),
        store_error: String::new(),
        targets,
    }
}

fn kept_target(fresh: LimitStatus, previous: &RateLimitStatus) -> LimitStatus {
    let place = |it: &LimitStatus| (it.reference.clone(), it.limit.clone(), it.rule.clone());
    match previous.targets.iter().find(|it| place(it) == place(&fresh)) {
        Some(kept) => LimitStatus { accepted: fresh.accepted, message: fresh.message, ..kept.clone() },
        None => fresh,
    }
}

/// Each limit and rule; nothing named where the spec can't be enforced, so that the target is shown.
fn names_or_one<'a>(part: &'a LimitPart, target: &TargetPlan) -> impl Iterator<Item = Option<&'a LimitName>> {
    let none = part.names.is_empty() || matches!(target.verdict, Verdict::Refused(_));
    let names = if none { &[] } else { part.names.as_slice() };
    names.iter().map(Some).chain(none.then_some(None))
}

impl<'a> Heard<'a> {
    fn new((plan, part): (&'a PolicyPlan, &'a LimitPart), reports: &'a Reports, now: Timestamp) -> Self {
        let pods = heard(plan, reports, now).map(|(bound, report)| {
            let limits = report.limits.iter().map(|limit| (&limit.key, limit)).collect();
            HeardPod { bound, limits }
        });
        Self { part, pods: pods.collect() }
    }

    fn target_status(&self, target: &TargetPlan, name: Option<&LimitName>) -> LimitStatus {
        let (accepted, message) = verdict_words(target);
        let named = |key: &LimitKey| name.is_some_and(|name| (&name.limit, &name.rule) == (&key.limit, &key.rule));
        let tally = self.tally(|key| accepted && key.target == target.target && named(key));
        let LimitName { limit, rule, scope: _ } = name.cloned().unwrap_or_default();
        let known = |number: u64| (tally.reporting > 0).then(|| quantised(number));
        LimitStatus {
            reference: target.reference.clone(),
            limit,
            rule,
            accepted,
            message,
            pods: LimitPods { reporting: tally.reporting, without_store: tally.without_store },
            allowed: known(tally.allowed),
            limited: known(tally.limited),
            limited_recently: tally.limited_recently(),
            limited_percent: tally.limited_percent(),
            last_limited: tally.last_limited_ms.and_then(time),
            delayed: (tally.delayed > 0).then(|| quantised(tally.delayed)),
            blocked_clients: tally.blocked(),
            top_blocked: tally.top_blocked(),
            store_lost_since: tally.store_lost_ms.and_then(time),
        }
    }

    fn tally(&self, wanted: impl Fn(&LimitKey) -> bool) -> Tally<'a> {
        let mut tally = Tally::default();
        for pod in &self.pods {
            let keys: Vec<&LimitKey> = pod.bound.keys.limits.iter().filter(|key| wanted(key)).collect();
            if !keys.is_empty() {
                let reports = keys.into_iter().filter_map(|key| pod.limits.get(key).copied());
                tally.add_pod(reports.map(|report| (self.part.scope_of(&report.key.limit), report)));
            }
        }
        tally
    }
}

impl<'a> Tally<'a> {
    fn add_pod(&mut self, reports: impl Iterator<Item = (LimitScope, &'a LimitReport)>) {
        let (mut together, mut lost, mut tells_recent) = (0_u64, None::<i64>, true);
        for (scope, report) in reports {
            self.allowed = self.allowed.saturating_add(report.allowed);
            self.limited = self.limited.saturating_add(report.limited);
            self.delayed = self.delayed.saturating_add(report.delayed);
            self.add_recent(report);
            tells_recent &= report.recent.is_some();
            let blocked = match scope {
                LimitScope::Replica => &mut self.blocked_alone,
                LimitScope::Shared => &mut together,
            };
            *blocked = blocked.saturating_add(report.blocked_clients);
            for client in report.top_blocked.iter().take(report::MAX_TOP_BLOCKED) {
                self.add_client(client);
            }
            if let Some(since) = report.store_lost_since_unix_ms {
                lost = Some(lost.map_or(since, |earliest| earliest.min(since)));
                self.store_error = if self.store_error.is_empty() { &report.store_error } else { self.store_error };
            }
        }
        if tells_recent {
            // What it did not report has limited nobody.
            self.recent.get_or_insert_default();
        }
        self.reporting += 1;
        self.without_store += i64::from(lost.is_some());
        self.store_lost_ms = match (self.store_lost_ms, lost) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        self.blocked_together = self.blocked_together.max(together);
    }

    /// A proxy of an older version says nothing of the last minute, which is not to have refused nobody.
    fn add_recent(&mut self, report: &LimitReport) {
        if let Some(RecentDecisions { allowed, limited }) = report.recent {
            let recent = self.recent.get_or_insert_default();
            recent.allowed = recent.allowed.saturating_add(allowed);
            recent.limited = recent.limited.saturating_add(limited);
        }
        self.last_limited_ms = self.last_limited_ms.max(report.last_limited_unix_ms);
    }

    fn add_client(&mut self, client: &'a report::BlockedClient) {
        let report::BlockedClient { key, since_unix_ms: since_ms, until_unix_ms: until_ms, refused } = client;
        let fresh = Client { since_ms: *since_ms, until_ms: *until_ms, refused: 0 };
        let known = self.clients.entry(key).or_insert(fresh);
        known.since_ms = known.since_ms.min(*since_ms);
        known.until_ms = known.until_ms.max(*until_ms);
        known.refused = known.refused.saturating_add(*refused);
    }

    fn limited_recently(&self) -> Option<i64> {
        self.recent.map(|recent| quantised(recent.limited))
    }

    /// Refusals among all decisions of the last minute; not 0 where there was one.
    fn limited_percent(&self) -> Option<i64> {
        let RecentDecisions { allowed, limited } = self.recent?;
        let all = u128::from(allowed) + u128::from(limited);
        let hundredfold = u128::from(limited) * 100;
        let percent = (hundredfold + all / 2).checked_div(all)?;
        i64::try_from(percent).ok().map(|percent| percent.max(i64::from(limited > 0)))
    }

    fn blocked(&self) -> Option<i64> {
        (self.reporting > 0).then(|| whole(self.blocked_alone.saturating_add(self.blocked_together)))
    }

    /// The clients that were refused most; then by key, so that the order is the same everywhere.
    fn top_blocked(&self) -> Vec<BlockedClient> {
        let mut clients: Vec<(&&str, &Client)> = self.clients.iter().collect();
        clients.sort_by(|(key, client), (other_key, other)| {
            other.refused.cmp(&client.refused).then_with(|| key.cmp(other_key))
        });
        let named = clients.into_iter().take(MAX_TOP_BLOCKED).filter_map(|(key, client)| {
            let key = key.chars().filter(|letter| !letter.is_control()).take(MAX_KEY).collect();
            Some(BlockedClient { key, since: time(client.since_ms)?, until: time(client.until_ms)? })
        });
        named.collect()
    }
}

/// The three leading digits of a number.
fn quantised(number: u64) -> i64 {
    let digits = number.checked_ilog10().unwrap_or_default();
    let step = 10_u64.saturating_pow(digits.saturating_sub(2));
    whole(number / step * step)
}

#[cfg(test)]
mod tests {
    use super::quantised;

    #[test]
    fn counts_keep_three_digits() {
        let of = [0, 7, 999, 1_234, 98_765, u64::MAX].map(quantised);
        assert_eq!(of, [0, 7, 999, 1_230, 98_700, i64::MAX]);
    }
}
