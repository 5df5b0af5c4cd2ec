//! What the pods of one policy said, in the compiler's terms.

use std::collections::BTreeMap;

use fusebox_compiler::plan::{BoundPod, Readiness};
use fusebox_compiler::status::{Completeness, Connection, Nack, PodReport, Reports};
use fusebox_compiler::{Kind, PolicyPlan};
use jiff::Timestamp;

use crate::apply::MonitoringResults;
use crate::control::{ProxyState, ReportBook};

/// A stream that is younger than this may not have brought its full report yet.
const FIRST_REPORT_MS: i64 = 1000;

/// Collects what is known of the pods that enforce a policy.
pub(super) fn collect(
    plan: &PolicyPlan,
    book: &ReportBook,
    settling: Settling,
    monitoring: &MonitoringResults,
) -> Reports {
    let known = |uid: &String| book.get(uid).map(|state| (uid.clone(), pod_report(&state, plan)));
    let complete = settling == Settling::Over || plan.pods.iter().all(|(uid, pod)| has_spoken(uid, pod, book));
    Reports {
        pods: plan.pods.keys().filter_map(known).collect(),
        completeness: if complete { Completeness::Complete } else { Completeness::Settling },
        monitoring: monitoring.get(&plan.key).map(|it| BTreeMap::from([(plan.key.clone(), it)])).unwrap_or_default(),
        behind: BTreeMap::new(),
    }
}

/// Whether this leader is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settling {
    /// It is: pods may not have had the time to speak.
    Yet,
    /// It is not.
    Over,
}

fn has_spoken(uid: &str, pod: &BoundPod, book: &ReportBook) -> bool {
    let since = book.get(uid).map(|state| state.connection.since_unix_ms);
    let now = Timestamp::now().as_millisecond();
    pod.readiness == Readiness::NotReady || since.is_some_and(|since| now - since >= FIRST_REPORT_MS)
}

fn pod_report(state: &ProxyState, plan: &PolicyPlan) -> PodReport {
    let id = &plan.key.id;
    PodReport {
        connection: Connection::Connected,
        acked: state.acknowledged.as_ref().map(|acknowledged| acknowledged.policies.clone()).unwrap_or_default(),
        nack: state
            .rejected
            .as_ref()
            .map(|rejected| Nack { revision: rejected.revision.clone(), error: rejected.error.clone() }),
        breakers: match plan.key.kind {
            Kind::CircuitBreakerPolicy => of_policy(state.breakers.values(), |breaker| breaker.key.policy == *id),
            Kind::RateLimit => Vec::new(),
        },
        limits: match plan.key.kind {
            Kind::RateLimit => of_policy(state.limits.values(), |limit| limit.key.policy == *id),
            Kind::CircuitBreakerPolicy => Vec::new(),
        },
        broken_references: of_policy(&state.broken_references, |it| plan.references.contains_key(&it.reference)),
    }
}

fn of_policy<'a, T: Clone + 'a>(all: impl IntoIterator<Item = &'a T>, is_its_own: impl Fn(&T) -> bool) -> Vec<T> {
    all.into_iter().filter(|it| is_its_own(it)).cloned().collect()
}
