//! Which pods on a policy's enforcing side its sidecars don't cover, and why.
//!
//! It must tell only of pods that some target of the policy concerns, and decide nothing: who enforces what was decided
//! before, and a pod that is not covered still gets its configuration.

use std::collections::{BTreeMap, BTreeSet};

use fusebox_api::common::Side;

use super::{Attachments, Direction, Judged, Place, fleet};
use crate::plan::{Coverage, Gap, GapPod, Name};
use crate::snapshot::{Interception, Pod, TargetPort};

/// Pods by namespace and name.
type Pods<'a> = BTreeMap<(&'a str, &'a str), &'a Pod>;

impl Attachments<'_> {
    /// How far the sidecars cover the policy that has the word at these places.
    pub(super) fn coverage<'p>(&self, judged: &Judged<'_>, places: impl Iterator<Item = &'p Place>) -> Coverage {
        let mut coverage = Coverage::default();
        let (mut missing, mut old) = (BTreeSet::new(), BTreeSet::new());
        for pod in self.concerned(judged).into_values() {
            match pod.sidecar {
                true => {
                    (coverage.expected, coverage.injected) = (coverage.expected + 1, coverage.injected + 1);
                    old.extend(self.older_version(pod).map(|version| gap(pod, version.to_owned())));
                }
                false if self.fleet.asks(pod) => {
                    coverage.expected += 1;
                    missing.insert(gap(pod, String::new()));
                }
                false if self.fleet.is_exempt(pod) => coverage.exempt += 1,
                false => *coverage.unasked.entry(pod.namespace.clone()).or_default() += 1,
            }
        }
        let (mut restart, mut bypassed) = (BTreeSet::new(), BTreeSet::new());
        for place in places {
            match place.direction {
                Direction::Outbound(..) => restart.extend(self.without_alias(place)),
                Direction::Inbound(_) => bypassed.extend(self.passed_by(place)),
            }
        }
        coverage.take(Gap::SidecarMissing, missing);
        coverage.take(Gap::RestartNeeded, restart);
        coverage.take(Gap::Bypassed, bypassed);
        coverage.take(Gap::SidecarOld, old);
        coverage
    }

    /// Every pod on the enforcing side that is not about to go.
    fn concerned(&self, judged: &Judged<'_>) -> Pods<'_> {
        let side = judged.source.side();
        let mut concerned = Pods::new();
        for resolved in judged.targets.iter().filter_map(|target| target.resolved.as_ref()) {
            let namespaces = match side {
                Side::Client => resolved.callers.as_slice(),
                Side::Server => &[resolved.service.id.namespace.as_str()],
            };
            let pods = namespaces.iter().flat_map(|namespace| self.fleet.lasting_pods_in(namespace));
            let pods = pods.filter(|pod| side == Side::Client || fleet::selects(resolved.service, &pod.labels));
            concerned.extend(pods.map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), pod)));
        }
        concerned
    }

    /// Pods at a place on the way out whose host aliases, fixed at admission, don't lead there.
    fn without_alias(&self, place: &Place) -> Vec<GapPod> {
        let Direction::Outbound(service, port) = &place.direction else { return Vec::new() };
        let wanted = (service.clone(), *port);
        let pods = self.fleet.pods_of(&place.workload).filter(|pod| pod.sidecar);
        let lacking = pods.filter(|pod| match &pod.injection.interception {
            Interception::Explicit { outbound } => !outbound.contains(&wanted),
            Interception::Transparent | Interception::Unknown | Interception::Impossible => false,
        });
        lacking.map(|pod| gap(pod, format!("{}:{port}", Name::from(service)))).collect()
    }

    /// Pods at a place on the way in that the Service reaches by number, which only the application listens on.
    fn passed_by(&self, place: &Place) -> Vec<GapPod> {
        let Some(claim) = self.places.get(place).and_then(|claims| claims.first()) else { return Vec::new() };
        let TargetPort::Number(number) = claim.service_port.target else { return Vec::new() };
        let pods = self.fleet.pods_of(&place.workload).filter(|pod| pod.sidecar);
        let passed = pods.filter(|pod| {
            matches!(pod.injection.interception, Interception::Explicit { .. })
                && fleet::selects(claim.service, &pod.labels)
        });
        passed.map(|pod| gap(pod, format!("{}:{number}", Name::from(&claim.service.id)))).collect()
    }

    /// The version that injected the pod's sidecar, where it is older than the operator.
    fn older_version<'p>(&self, pod: &'p Pod) -> Option<&'p str> {
        let version = pod.injection.version.as_deref()?;
        (numbers(version)? < numbers(&self.snapshot.operator.version)?).then_some(version)
    }
}

fn gap(pod: &Pod, subject: String) -> GapPod {
    let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
    GapPod { namespace, name, workload: pod.workload.clone(), subject }
}

/// The three numbers of a version such as 0.1.0 or v0.1.0-rc.1; other words are neither older nor newer.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let core = version.trim_start_matches('v').split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_compared_by_number_and_other_words_not_at_all() {
        assert!(numbers("0.9.0") < numbers("v0.10.0-rc.1"));
        for word in ["", "dev", "1.2", "1.2.3.4", "1..3"] {
            assert_eq!(numbers(word), None, "{word}");
        }
    }
}
