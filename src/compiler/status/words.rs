//! How statuses of all kinds speak of targets, numbers and times.
//!
//! It must know no kind, so that the same thing is said in the same words everywhere.

use fusebox_policy::config::TargetId;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::plan::{Cause, Overruled, PolicyPlan, TargetPlan, Verdict};

/// Doubts that are told of one target, at most.
const MAX_DOUBTS: usize = 4;

/// Whether a target is accepted, and what is to be said of it.
pub(super) fn verdict_words(target: &TargetPlan) -> (bool, String) {
    match &target.verdict {
        Verdict::Accepted => (true, accepted_words(target)),
        Verdict::Refused(refusal) => (false, refusal.to_string()),
    }
}

/// What is to be known of an accepted target: who overrules it where, and what is hardly meant.
fn accepted_words(target: &TargetPlan) -> String {
    let doubts = target.doubts.iter().take(MAX_DOUBTS).map(ToString::to_string);
    let words = std::iter::once(overruled_words(&target.overruled)).chain(doubts).filter(|words| !words.is_empty());
    words.collect::<Vec<_>>().join("; ")
}

fn overruled_words(overruled: &[Overruled]) -> String {
    let mut words: Vec<String> = overruled.iter().map(overruled_word).collect();
    words.dedup();
    words.join("; ")
}

fn overruled_word(overruled: &Overruled) -> String {
    let Overruled { cause, by, workload, port } = overruled;
    let by = format!("{}/{}", by.namespace, by.name);
    match cause {
        Cause::ConsumerPolicy => {
            format!("callers in namespace {} follow their own policy {by}", workload.namespace)
        }
        Cause::MoreSpecific => format!("port {port} follows policy {by}, which names the port"),
        Cause::Conflict => {
            let place = format!("port {port} of {} {}", workload.kind, workload.name);
            format!("{place} follows the older policy {by}: remove one of the two, or narrow one by sectionName")
        }
    }
}

/// The first target, and how many more there are.
pub(super) fn target_words(plan: &PolicyPlan) -> String {
    let own = &plan.key.id.namespace;
    let word = |target: &TargetId| {
        let namespace = if target.namespace == *own { String::new() } else { format!("{}/", target.namespace) };
        let section = if target.section.is_empty() { String::new() } else { format!(":{}", target.section) };
        format!("{namespace}{}{section}", target.name)
    };
    let first = plan.targets.first().map(|target| word(&target.target)).unwrap_or_default();
    match plan.targets.len() {
        0 | 1 => first,
        more => format!("{first} +{}", more - 1),
    }
}

pub(super) fn counted(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A time in whole seconds, as the API server keeps it.
pub(super) fn time(unix_ms: i64) -> Option<Time> {
    Timestamp::from_second(unix_ms.div_euclid(1_000)).ok().map(Time)
}
