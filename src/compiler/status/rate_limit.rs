//! The status of a RateLimit, and the conditions that only it has.
//!
//! `Limited` and `StoreReachable` must never be part of `Ready`: a blocked client is the policy at work, and a lost store is
//! what onStoreFailure is for.

use fusebox_api::RateLimitStatus;
use fusebox_api::common::Mode;
use jiff::Timestamp;

use super::conditions::{Common, Draft, Input, counted};
use super::limits::{self, Observed};
use super::{Completeness, Reason, Reports, sidecars};
use crate::plan::{LimitPart, PolicyPlan};

/// What is said while nobody speaks.
const SILENT: &str = "no pod that enforces the policy reports; condition Programmed says why";

const NONE_BLOCKED: &str = "no client is refused for a time";

/// Makes the status; `previous` is what stands.
pub(super) fn fold(
    (plan, part): (&PolicyPlan, &LimitPart),
    reports: &Reports,
    now: Timestamp,
    previous: Option<&RateLimitStatus>,
) -> RateLimitStatus {
    let observed = match (reports.completeness, previous) {
        (Completeness::Settling, Some(previous)) => limits::kept((plan, part), previous),
        (Completeness::Settling | Completeness::Complete, _) => limits::observe((plan, part), reports, now),
    };
    let sidecars = sidecars::observe(plan, reports, now);
    let standing = previous.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let input = Input { plan, reports, sidecars: &sidecars, previous: standing, now };
    let Common { accepted, resolved, programmed, ready, monitored, covered } = input.common();
    let mut drafts = vec![accepted, resolved, programmed, ready, limited(plan, &observed)];
    if part.is_shared() {
        drafts.push(store_reachable(plan, &observed));
    }
    drafts.extend([monitored, covered]);
    RateLimitStatus {
        observed_generation: Some(plan.version.generation),
        conditions: input.finished(drafts),
        summary: Some(observed.summary),
        targets: observed.targets,
        truncated: observed.truncated || sidecars.is_truncated(),
        sidecars: Some(sidecars.status()),
    }
}

/// Whether anybody is limited: refused in the last minute, or for a time from then on. Numbers and times stand in the message,
/// which is not written anew for each of them.
fn limited(plan: &PolicyPlan, observed: &Observed) -> Draft {
    let kind = "Limited";
    let name = &plan.key.id.name;
    let refused = refused_words(plan, observed);
    match (plan.mode, observed.summary.blocked, observed.limited_recently) {
        (Mode::Disabled, _, _) => Draft::no(kind, Reason::Disabled.as_str(), "mode Disabled limits nobody".to_owned()),
        (_, None, _) => Draft::unknown(kind, Reason::NoReports, SILENT),
        (_, Some(0), None) => Draft::no(kind, Reason::NoneBlocked.as_str(), format!("{NONE_BLOCKED}; {refused}")),
        (_, Some(0), Some(0)) => {
            Draft::no(kind, Reason::NoneLimited.as_str(), format!("{refused}, and {NONE_BLOCKED}"))
        }
        (_, Some(0), Some(_)) => Draft::yes(
            kind,
            Reason::RequestsLimited,
            format!("{refused}; `fusebox limits {name}` shows whose they were"),
        ),
        (_, Some(_), _) => {
            let message = format!(
                "clients are refused for a time{}; {refused}; status.targets names the first clients, `fusebox limits {name}` shows them live and lets them go",
                in_shadow(plan),
            );
            Draft::yes(kind, Reason::ClientsBlocked, message)
        }
    }
}

/// How many requests were refused, and when one was last.
fn refused_words(plan: &PolicyPlan, observed: &Observed) -> String {
    match observed.limited_recently {
        None => "sidecars of an older version do not say what they refused in the last minute".to_owned(),
        Some(0) => "no request was refused in the last minute".to_owned(),
        Some(number) => {
            let requests = counted(usize::try_from(number).unwrap_or(usize::MAX), "request");
            let were = if number == 1 { "was" } else { "were" };
            let last =
                observed.last_limited.as_ref().map(|last| format!(", the last at {}", last.0)).unwrap_or_default();
            format!("{requests} {were} refused in the last minute{}{last}", in_shadow(plan))
        }
    }
}

fn in_shadow(plan: &PolicyPlan) -> &'static str {
    if plan.mode == Mode::Shadow { " if mode were Enforce" } else { "" }
}

fn store_reachable(plan: &PolicyPlan, observed: &Observed) -> Draft {
    let kind = "StoreReachable";
    if plan.mode == Mode::Disabled {
        return Draft::unknown(kind, Reason::Disabled, "mode Disabled asks no store");
    }
    let Observed { reporting, without_store, store_error, .. } = observed;
    let pods = |number: i64| counted(usize::try_from(number).unwrap_or_default(), "pod");
    match (reporting, without_store) {
        (0, _) => Draft::unknown(kind, Reason::NoReports, SILENT),
        (all, 0) => {
            Draft::yes(kind, Reason::StoreReachable, format!("{} can ask the store, or had no need to", pods(*all)))
        }
        (all, some) => {
            let why = if store_error.is_empty() { String::new() } else { format!(": {store_error}") };
            let message =
                format!("{some} of {} can't reach the store and do what onStoreFailure says{why}", pods(*all));
            Draft::no(kind, Reason::StoreLost.as_str(), message)
        }
    }
}
