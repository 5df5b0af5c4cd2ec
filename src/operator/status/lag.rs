//! Since when the pods of one policy lag behind, as this leader saw it; pure, time is an argument.
//!
//! It must not judge how long is too long: that is the compiler's. A new leader takes who was told of before from the
//! status that stands, so that a change of leaders does not look like a recovery.

use std::collections::BTreeMap;
use std::time::Duration;

use fusebox_compiler::plan::{BoundPod, Readiness};
use fusebox_compiler::status::{BEHIND_GRACE, Problem};
use fusebox_compiler::{PolicyPlan, PolicyStatus};
use jiff::Timestamp;

use crate::control::ReportBook;

/// Since when pods lag, by uid; no more of them than the policy has pods.
#[derive(Debug, Default)]
pub(super) struct Lag {
    since: BTreeMap<String, Timestamp>,
}

impl Lag {
    /// Takes who lags now, of the pods that enforce the policy.
    pub(super) fn update(
        &mut self,
        plan: &PolicyPlan,
        lags: impl Fn(&str, &BoundPod) -> bool,
        (standing, now): (Option<&PolicyStatus>, Timestamp),
    ) {
        let lagging = plan.pods.iter().filter(|(uid, pod)| pod.readiness == Readiness::Ready && lags(uid, pod));
        let since = |(uid, pod): (&String, &BoundPod)| {
            let first = if was_told(pod, standing) { Timestamp::UNIX_EPOCH } else { now };
            (uid.clone(), self.since.get(uid).copied().unwrap_or(first))
        };
        self.since = lagging.map(since).collect();
    }

    /// Since when pods lag, by uid.
    pub(super) fn since(&self) -> &BTreeMap<String, Timestamp> {
        &self.since
    }

    /// How long until the next of them is to be told of.
    pub(super) fn next(&self, now: Timestamp) -> Option<Duration> {
        let left = self.since.values().filter_map(|since| {
            let left = BEHIND_GRACE - now.duration_since(*since);
            Duration::try_from(left).ok().filter(|left| !left.is_zero())
        });
        left.min()
    }
}

/// Whether a pod does not enforce its workload's configuration, as far as it is heard.
pub(super) fn is_behind(book: &ReportBook, (uid, pod): (&str, &BoundPod)) -> bool {
    let acknowledged = book.get(uid).and_then(|state| state.acknowledged.as_ref().map(|it| it.revision.clone()));
    acknowledged.as_deref() != Some(pod.revision.as_str())
}

fn was_told(pod: &BoundPod, standing: Option<&PolicyStatus>) -> bool {
    let sidecars = standing.and_then(PolicyStatus::sidecars);
    let name = format!("{}/{}", pod.namespace, pod.name);
    sidecars.is_some_and(|it| it.findings.iter().any(|found| found.pod == name && Problem::is_lag(&found.problem)))
}

#[cfg(test)]
mod tests {
    use fusebox_api::CircuitBreakerPolicyStatus;
    use fusebox_api::status::{SidecarFinding, SidecarsStatus};
    use fusebox_compiler::check::File;
    use fusebox_compiler::{compile, manifest};

    use super::*;

    const MANIFESTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: shop}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, uid: u, labels: {fusebox.dev/sidecar: injected}}, spec: {initContainers: [{name: fusebox-proxy, restartPolicy: Always}]}, status: {conditions: [{type: Ready, status: \"True\"}]}}
---
{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {name: guard, namespace: shop}, spec: {targetRefs: [{name: pay}]}}
";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_772_366_400 + second).unwrap()
    }

    fn plan() -> PolicyPlan {
        let snapshot = manifest::load(&[File { name: "in.yaml", text: MANIFESTS }], at(0)).unwrap();
        compile(&snapshot).policies.into_values().next().unwrap()
    }

    #[test]
    fn a_pod_lags_since_it_was_first_seen_to_and_no_longer_once_it_caught_up() {
        let (plan, mut lag) = (plan(), Lag::default());
        lag.update(&plan, |_, _| true, (None, at(0)));
        lag.update(&plan, |_, _| true, (None, at(20)));
        assert_eq!(lag.since()["u"], at(0));
        assert_eq!(lag.next(at(20)), Some(Duration::from_secs(40)));
        assert_eq!(lag.next(at(60)), None, "it is told of from then on");
        lag.update(&plan, |_, _| false, (None, at(61)));
        assert!(lag.since().is_empty());
    }

    #[test]
    fn a_new_leader_goes_on_telling_of_a_pod_that_was_told_of() {
        let (plan, mut lag) = (plan(), Lag::default());
        let finding = |problem: &str| {
            let finding = SidecarFinding { pod: "shop/cart".into(), problem: problem.into(), message: String::new() };
            let sidecars = SidecarsStatus { findings: vec![finding], ..SidecarsStatus::default() };
            PolicyStatus::CircuitBreaker(CircuitBreakerPolicyStatus {
                sidecars: Some(sidecars),
                ..CircuitBreakerPolicyStatus::default()
            })
        };
        lag.update(&plan, |_, _| true, (Some(&finding("NotConnected")), at(0)));
        assert_eq!(lag.since()["u"], Timestamp::UNIX_EPOCH);
        let mut other = Lag::default();
        other.update(&plan, |_, _| true, (Some(&finding("SidecarOld")), at(0)));
        assert_eq!(other.since()["u"], at(0), "that is another problem");
    }
}
