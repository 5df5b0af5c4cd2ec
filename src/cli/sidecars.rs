//! What is amiss with the sidecars of a policy, as lines below its table.
//!
//! It must not find anything out: `status.sidecars` has the pods, and condition Covered the commands that mend it, because only
//! the operator knows the pods' workloads.

use std::collections::BTreeMap;

use fusebox_api::status::CircuitBreakerPolicyStatus;

/// Pods that one line names, at most.
const MAX_NAMED: usize = 5;

/// The word for pods that have no sidecar.
const MISSING: &str = "SidecarMissing";

/// The word for pods whose sidecar is older than the operator, with which nothing is amiss.
const OLD: &str = "SidecarOld";

/// One line for each problem, the worst first; none where nothing is amiss.
pub(crate) fn lines(status: &CircuitBreakerPolicyStatus) -> Vec<String> {
    let Some(sidecars) = &status.sidecars else { return Vec::new() };
    let mut problems: Vec<&str> = Vec::new();
    let mut pods: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for finding in sidecars.findings.iter().filter(|finding| finding.problem != OLD) {
        if !problems.contains(&finding.problem.as_str()) {
            problems.push(&finding.problem);
        }
        pods.entry(&finding.problem).or_default().push(&finding.pod);
    }
    let missing = usize::try_from(sidecars.expected - sidecars.injected).unwrap_or_default();
    let line = |problem: &str| {
        let named = pods.get(problem).map(Vec::as_slice).unwrap_or_default();
        // Only these are counted beyond the pods that fit into a status.
        let total = if problem == MISSING { missing.max(named.len()) } else { named.len() };
        words(problem, total, named)
    };
    problems.into_iter().map(line).collect()
}

fn words(problem: &str, total: usize, named: &[&str]) -> String {
    let shown = named.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = match total.saturating_sub(MAX_NAMED.min(named.len())) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let pods = if total == 1 { "1 pod".to_owned() } else { format!("{total} pods") };
    let (what, fix) = match problem {
        MISSING => (
            "without sidecar",
            "restart their workloads (`kubectl rollout restart`), condition Covered has the commands",
        ),
        "RestartNeeded" => ("older than the policy", "restart their workloads, condition Covered has the commands"),
        "Bypassed" => ("reached past their sidecar", "name the port of the container, condition Covered says how"),
        "NotConnected" => ("not connected to the operator", "look at the logs of container fusebox-proxy"),
        "ConfigurationRefused" => ("refuse their configuration", "condition Covered has their words"),
        "ConfigurationOld" => {
            ("with an older configuration", "if this lasts, look at the logs of container fusebox-proxy")
        }
        other => (other, "condition Covered says what to do"),
    };
    format!("{pods} {what}: {shown}{more}; {fix}")
}

#[cfg(test)]
mod tests {
    use fusebox_api::status::{SidecarFinding, SidecarsStatus};

    use super::*;

    fn status(expected: i64, injected: i64, findings: &[(&str, &str)]) -> CircuitBreakerPolicyStatus {
        let finding = |&(pod, problem): &(&str, &str)| SidecarFinding {
            pod: pod.to_owned(),
            problem: problem.to_owned(),
            message: String::new(),
        };
        let findings = findings.iter().map(finding).collect();
        let sidecars = Some(SidecarsStatus { expected, injected, findings });
        CircuitBreakerPolicyStatus { sidecars, ..CircuitBreakerPolicyStatus::default() }
    }

    #[test]
    fn pods_without_sidecar_are_counted_and_named_with_what_mends_it() {
        let found = lines(&status(3, 1, &[("shop/cart-1", MISSING), ("shop/cart-2", MISSING), ("shop/web", OLD)]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("2 pods without sidecar: shop/cart-1, shop/cart-2; restart"), "{found:?}");
        let found = lines(&status(40, 1, &[("shop/cart-1", MISSING), ("shop/web", "NotConnected")]));
        assert!(found[0].starts_with("39 pods without sidecar: shop/cart-1 and 38 more; "), "{found:?}");
        assert!(found[1].starts_with("1 pod not connected to the operator: shop/web; look at"), "{found:?}");
    }

    #[test]
    fn where_nothing_is_amiss_nothing_is_said_and_a_newer_word_is() {
        assert!(lines(&CircuitBreakerPolicyStatus::default()).is_empty());
        assert!(lines(&status(3, 3, &[("shop/web", OLD)])).is_empty());
        let found = lines(&status(3, 3, &[("shop/web", "OfANewerVersion")]));
        assert_eq!(found, ["1 pod OfANewerVersion: shop/web; condition Covered says what to do"]);
    }
}
