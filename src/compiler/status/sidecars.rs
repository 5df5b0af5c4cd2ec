//! The pods for which a policy does not work as it should: what the plan shows of them, and what their silence shows.
//!
//! Condition Covered and `status.sidecars` are made from the same findings. A pod that lags behind is told of only after a
//! grace, for every change of a configuration makes all pods lag for a moment.

use std::collections::BTreeMap;

use fusebox_api::status::{MAX_SIDECAR_FINDINGS, SidecarFinding, SidecarsStatus};
use fusebox_policy::config::WorkloadId;
use jiff::Timestamp;

use super::{BEHIND_GRACE, Reports};
use crate::plan::{BoundPod, Gap, GapPod, PolicyPlan};

/// A proxy's words in a finding are cut to this many characters.
const MAX_PROXY_WORDS: usize = 256;

/// What is amiss with a pod's sidecar, the worst first. The words stand in statuses: none may be renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Problem {
    /// It asks for a sidecar and has none.
    SidecarMissing,
    /// It has no host alias for a Service, since the policy came after it.
    RestartNeeded,
    /// The Service leads to the application by number, past the sidecar.
    Bypassed,
    /// Its sidecar is not connected to the operator.
    NotConnected,
    /// Its sidecar refused the configuration.
    ConfigurationRefused,
    /// Its sidecar enforces an older configuration.
    ConfigurationOld,
    /// An older version injected its sidecar. It works all the same.
    SidecarOld,
}

/// One pod, and what is amiss.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) pod: String,
    pub(super) workload: WorkloadId,
    pub(super) message: String,
}

/// The pods with one problem.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) total: usize,
    pub(super) named: Vec<Finding>,
}

/// All that is amiss.
#[derive(Clone, Debug)]
pub(super) struct Sidecars {
    pub(super) expected: usize,
    pub(super) injected: usize,
    pub(super) unasked: usize,
    pub(super) found: BTreeMap<Problem, Found>,
}

/// What is amiss with the pods on the policy's enforcing side.
pub(super) fn observe(plan: &PolicyPlan, reports: &Reports, now: Timestamp) -> Sidecars {
    let coverage = &plan.coverage;
    let mut found: BTreeMap<Problem, Found> = coverage
        .gaps
        .iter()
        .map(|(gap, pods)| {
            let named = pods.named.iter().map(Finding::from).collect();
            (Problem::from(*gap), Found { total: pods.total, named })
        })
        .collect();
    for (uid, pod) in plan.pods.iter().filter(|(_, pod)| pod.is_ready()) {
        let since = reports.behind.get(uid);
        if since.is_some_and(|since| now.duration_since(*since) >= BEHIND_GRACE) {
            let (problem, message) = why_behind(uid, pod, reports, now);
            found.entry(problem).or_default().add(pod, message);
        }
    }
    let unasked = coverage.unasked.values().sum::<usize>() + coverage.exempt;
    Sidecars { expected: coverage.expected, injected: coverage.injected, unasked, found }
}

fn why_behind(uid: &str, pod: &BoundPod, reports: &Reports, now: Timestamp) -> (Problem, String) {
    let Some(report) = reports.pods.get(uid).filter(|report| report.counts_at(now)) else {
        return (Problem::NotConnected, String::new());
    };
    match report.nack.as_ref().filter(|nack| nack.revision == pod.revision) {
        Some(nack) => (Problem::ConfigurationRefused, nack.error.chars().take(MAX_PROXY_WORDS).collect()),
        None => (Problem::ConfigurationOld, String::new()),
    }
}

impl Problem {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SidecarMissing => "SidecarMissing",
            Self::RestartNeeded => "RestartNeeded",
            Self::Bypassed => "Bypassed",
            Self::NotConnected => "NotConnected",
            Self::ConfigurationRefused => "ConfigurationRefused",
            Self::ConfigurationOld => "ConfigurationOld",
            Self::SidecarOld => "SidecarOld",
        }
    }

    /// Whether it only becomes one by lasting; who begins to listen anew can take it from a status that stands.
    #[must_use]
    pub fn is_lag(word: &str) -> bool {
        [Self::NotConnected, Self::ConfigurationRefused, Self::ConfigurationOld].iter().any(|lag| lag.as_str() == word)
    }
}

impl From<Gap> for Problem {
    fn from(gap: Gap) -> Self {
        match gap {
            Gap::SidecarMissing => Self::SidecarMissing,
            Gap::RestartNeeded => Self::RestartNeeded,
            Gap::Bypassed => Self::Bypassed,
            Gap::SidecarOld => Self::SidecarOld,
        }
    }
}

impl From<&GapPod> for Finding {
    fn from(pod: &GapPod) -> Self {
        let GapPod { namespace, name, workload, subject } = pod;
        Self { pod: format!("{namespace}/{name}"), workload: workload.clone(), message: subject.clone() }
    }
}

impl Found {
    fn add(&mut self, pod: &BoundPod, message: String) {
        self.total += 1;
        if self.named.len() < MAX_SIDECAR_FINDINGS {
            let pod_name = format!("{}/{}", pod.namespace, pod.name);
            self.named.push(Finding { pod: pod_name, workload: pod.workload.clone(), message });
        }
    }
}

impl Sidecars {
    pub(super) fn status(&self) -> SidecarsStatus {
        let named = self.found.iter().flat_map(|(problem, found)| found.named.iter().map(move |it| (problem, it)));
        let finding = |(problem, finding): (&Problem, &Finding)| SidecarFinding {
            pod: finding.pod.clone(),
            problem: problem.as_str().to_owned(),
            message: finding.message.clone(),
        };
        SidecarsStatus {
            expected: i64::try_from(self.expected).unwrap_or(i64::MAX),
            injected: i64::try_from(self.injected).unwrap_or(i64::MAX),
            findings: named.map(finding).take(MAX_SIDECAR_FINDINGS).collect(),
        }
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.found.values().map(|found| found.total).sum::<usize>() > MAX_SIDECAR_FINDINGS
    }
}
