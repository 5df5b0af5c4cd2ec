//! What the pods of one policy said, in the compiler's terms.

use std::collections::BTreeMap;

use fusebox_compiler::PolicyPlan;
use fusebox_compiler::plan::{BoundPod, Readiness};
use fusebox_compiler::status::{Completeness, Connection, Nack, PodReport, Reports};
use fusebox_policy::config::PolicyId;
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
    let id = &plan.key.id;
    let known = |uid: &String| book.get(uid).map(|state| (uid.clone(), pod_report(&state, id)));
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

fn pod_report(state: &ProxyState, id: &PolicyId) -> PodReport {
    PodReport {
        connection: Connection::Connected,
        acked: state.acknowledged.as_ref().map(|acknowledged| acknowledged.policies.clone()).unwrap_or_default(),
        nack: state
            .rejected
            .as_ref()
            .map(|rejected| Nack { revision: rejected.revision.clone(), error: rejected.error.clone() }),
        breakers: state.breakers.values().filter(|breaker| breaker.key.policy == *id).cloned().collect(),
        limits: Vec::new(),
        broken_references: Vec::new(),
    }
}
