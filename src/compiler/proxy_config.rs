//! From specs and places to the configuration of each workload's sidecars.
//!
//! What it writes must be acceptable to every proxy: it puts each rule through the engine's own
//! parsers first, so that a mistake is a condition on the policy and never a refusal by a proxy.

use std::collections::BTreeMap;

use fusebox_api::CircuitBreakerPolicySpec;
use fusebox_api::circuit_breaker as api;
use fusebox_api::common::{self, Mode as ApiMode};
use fusebox_policy::circuit_breaker::{FailureClassifier, Settings};
use fusebox_policy::config::{
    self, BreakerParameters, BreakerRule, CircuitBreaker, FailureOn, InboundRoute, OutboundRoute, PathMatch,
    ProxyConfig, RequestMatch, WorkloadId,
};
use fusebox_policy::matching::RequestMatcher;
use sha2::{Digest, Sha256};

use crate::attachment::{Attachments, Claim, Direction, Judged, version};
use crate::plan::{ForceVerdict, Refusal, WorkloadPlan};
use crate::snapshot::{Service, ServiceKind};

/// Room for the workload's name in a ConfigMap's name of at most 253 characters.
const MAX_NAME_PART: usize = 200;

/// The configuration of every workload with sidecars.
pub(crate) fn workloads(attachments: &Attachments<'_>) -> BTreeMap<WorkloadId, WorkloadPlan> {
    let plan = |id: &WorkloadId| {
        let config = config_of(attachments, id);
        let revision = config.revision();
        (id.clone(), WorkloadPlan { config, revision, config_map_name: config_map_name(id) })
    };
    attachments.fleet.with_sidecars().map(plan).collect()
}

/// The name of the ConfigMap that carries a workload's configuration, in the workload's namespace.
///
/// Injector and operator compute it apart from each other, so it follows from kind and name alone.
#[must_use]
pub fn config_map_name(workload: &WorkloadId) -> String {
    let kind = workload.kind.to_ascii_lowercase();
    let digest = Sha256::digest(format!("{kind}/{}", workload.name));
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let end = workload.name.floor_char_boundary(MAX_NAME_PART);
    let name = workload.name[..end].trim_end_matches(|last: char| !last.is_ascii_alphanumeric());
    format!("fusebox-{kind}-{name}-{hash}")
}

/// A policy's rules in the engine's words, the nameless one last.
///
/// # Errors
/// [`Refusal::InvalidSpec`], naming the field, where an engine would not take them.
pub(crate) fn breaker_rules(spec: &CircuitBreakerPolicySpec) -> Result<Vec<BreakerRule>, Refusal> {
    let failure_on = failure_on(&spec.failure_on)?;
    let own = BreakerRule {
        name: String::new(),
        matches: None,
        timeout_ms: spec.timeout.map(fusebox_api::Duration::as_millis),
        failure_on,
        breaker: parameters(spec, &spec.trip),
    };
    check_settings(&own.breaker, "spec")?;
    let mut rules = Vec::with_capacity(spec.rules.len() + 1);
    for (index, rule) in spec.rules.iter().enumerate() {
        rules.push(breaker_rule(spec, &own, (index, rule))?);
    }
    rules.push(own);
    Ok(rules)
}

pub(crate) const fn side(side: common::Side) -> config::Side {
    match side {
        common::Side::Client => config::Side::Client,
        common::Side::Server => config::Side::Server,
    }
}

pub(crate) const fn forced_state(state: api::ForcedState) -> config::ForcedState {
    match state {
        api::ForcedState::ForcedOpen => config::ForcedState::ForcedOpen,
        api::ForcedState::ForcedClosed => config::ForcedState::ForcedClosed,
    }
}

fn config_of(attachments: &Attachments<'_>, workload: &WorkloadId) -> ProxyConfig {
    let mut config = ProxyConfig::empty(workload.clone());
    for (place, claims) in attachments.places_of(workload) {
        let Some(claim) = claims.first() else { continue };
        let judged = &attachments.policies[claim.policy];
        config.policies.push(version(judged));
        let Some(circuit_breaker) = circuit_breaker(judged, claim) else { continue };
        match &place.direction {
            Direction::Inbound(port) => {
                config.inbound.push(InboundRoute {
                    port: *port,
                    protocol: config::Protocol::Detect,
                    circuit_breaker: Some(circuit_breaker),
                });
            }
            Direction::Outbound(service, port) => config.outbound.push(OutboundRoute {
                service: service.clone(),
                port: *port,
                port_name: claim.service_port.name.clone(),
                protocol: config::Protocol::Detect,
                addresses: addresses(claim.service, *port),
                circuit_breaker: Some(circuit_breaker),
            }),
        }
    }
    config.policies.sort();
    config.policies.dedup();
    config
}

/// The breaker at a place; none for a policy that is disabled, which keeps its place and does nothing.
fn circuit_breaker(judged: &Judged<'_>, claim: &Claim<'_>) -> Option<CircuitBreaker> {
    let mode = match judged.source.spec.mode {
        ApiMode::Enforce => config::Mode::Enforce,
        ApiMode::Shadow => config::Mode::Shadow,
        ApiMode::Disabled => return None,
    };
    let force = match &judged.force {
        ForceVerdict::Active { state, until, reason } => {
            Some(config::Override { state: *state, until_unix_ms: until.as_millisecond(), reason: reason.clone() })
        }
        ForceVerdict::Absent | ForceVerdict::Expired { .. } | ForceVerdict::TooFar { .. } => None,
    };
    Some(CircuitBreaker {
        policy: judged.source.id.clone(),
        target: judged.targets[claim.target].id.clone(),
        side: side(judged.source.spec.side),
        mode,
        rules: judged.rules.clone(),
        endpoint_scope: None,
        fallback: None,
        force,
    })
}

fn addresses(service: &Service, port: u16) -> Vec<String> {
    match &service.kind {
        ServiceKind::ClusterIps(addresses) => addresses.iter().map(|address| join(address, port)).collect(),
        ServiceKind::ExternalName(name) => vec![join(name, port)],
        ServiceKind::Headless => Vec::new(),
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn breaker_rule(
    spec: &CircuitBreakerPolicySpec,
    own: &BreakerRule,
    (index, rule): (usize, &api::BreakerRule),
) -> Result<BreakerRule, Refusal> {
    let api::BreakerRule { name, matches, overrides } = rule;
    let api::RuleOverrides { timeout, trip } = overrides;
    let matches = request_match(matches);
    if let Err(error) = RequestMatcher::try_from(&matches) {
        return Err(Refusal::InvalidSpec {
            field: format!("spec.rules[{index}].{}", error.field()),
            problem: error.to_string(),
        });
    }
    let breaker = parameters(spec, trip.as_ref().unwrap_or(&spec.trip));
    check_settings(&breaker, &format!("spec.rules[{index}].overrides"))?;
    Ok(BreakerRule {
        name: name.clone(),
        matches: Some(matches),
        timeout_ms: timeout.map(fusebox_api::Duration::as_millis).or(own.timeout_ms),
        failure_on: own.failure_on.clone(),
        breaker,
    })
}

fn check_settings(parameters: &BreakerParameters, prefix: &str) -> Result<(), Refusal> {
    let checked = Settings::try_from(parameters).map(drop);
    checked.map_err(|error| Refusal::InvalidSpec {
        field: format!("{prefix}.{}", error.field().trim_end_matches("Ms")),
        problem: error.to_string(),
    })
}

fn parameters(spec: &CircuitBreakerPolicySpec, trip: &api::Trip) -> BreakerParameters {
    let api::Trip { kind: _, consecutive_failures, failures, failure_rate } = trip;
    let api::Open { base_duration, max_duration, jitter_percent } = &spec.open;
    let api::HalfOpen { max_probes, success_threshold, probe_timeout, max_duration: half_open_max } = &spec.half_open;
    BreakerParameters {
        trip: config::Trip {
            consecutive_failures: *consecutive_failures,
            failures: failures
                .as_ref()
                .map(|it| config::FailureCount { count: it.count, window_ms: it.window.as_millis() }),
            failure_rate: failure_rate.as_ref().map(|it| config::FailureRate {
                percent: it.percent,
                window: config::RateWindow::Time(it.window.as_millis()),
                min_requests: it.min_requests,
            }),
            slow_call_rate: None,
        },
        open: config::Open {
            base_duration_ms: base_duration.as_millis(),
            max_duration_ms: max_duration.as_millis(),
            jitter_percent: *jitter_percent,
            honor_retry_after: false,
        },
        half_open: config::HalfOpen {
            max_probes: *max_probes,
            success_threshold: *success_threshold,
            probe_timeout_ms: probe_timeout.as_millis(),
            max_duration_ms: half_open_max.as_millis(),
        },
        recovery: config::Recovery::default(),
    }
}

fn failure_on(failure_on: &api::FailureOn) -> Result<FailureOn, Refusal> {
    let api::FailureOn { http_status, conditions } = failure_on;
    let mut ranges = Vec::with_capacity(http_status.len());
    for (index, pattern) in http_status.iter().enumerate() {
        ranges.push(status_range(&pattern.0).ok_or_else(|| Refusal::InvalidSpec {
            field: format!("spec.failureOn.httpStatus[{index}]"),
            problem: format!("{:?} is no class (5xx), code (429) or range (500-503)", pattern.0),
        })?);
    }
    let failure_on = FailureOn {
        http_status: ranges,
        grpc_codes: Vec::new(),
        conditions: conditions.iter().map(|it| condition(*it)).collect(),
    };
    match FailureClassifier::try_from(&failure_on) {
        Ok(_) => Ok(failure_on),
        Err(error) => Err(Refusal::InvalidSpec { field: "spec.failureOn".to_owned(), problem: error.to_string() }),
    }
}

fn status_range(pattern: &str) -> Option<config::StatusRange> {
    if let Some(class) = pattern.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
        return Some(config::StatusRange { from: class * 100, to: class * 100 + 99 });
    }
    let (from, to) = pattern.split_once('-').unwrap_or((pattern, pattern));
    let (from, to): (u16, u16) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to && from >= 100 && to <= 599).then_some(config::StatusRange { from, to })
}

const fn condition(condition: api::FailureCondition) -> config::FailureCondition {
    match condition {
        api::FailureCondition::Timeout => config::FailureCondition::Timeout,
        api::FailureCondition::ConnectFailure => config::FailureCondition::ConnectFailure,
        api::FailureCondition::Reset => config::FailureCondition::Reset,
    }
}

fn request_match(matches: &common::RequestMatch) -> RequestMatch {
    let common::RequestMatch { methods, path, headers } = matches;
    RequestMatch {
        methods: methods.iter().map(|method| method.as_str().to_owned()).collect(),
        path: path.as_ref().map(path_match),
        headers: headers
            .iter()
            .map(|header| config::HeaderMatch { name: header.name.clone(), value: header.value.clone() })
            .collect(),
    }
}

fn path_match(path: &common::PathMatch) -> PathMatch {
    let value = path.value.clone();
    match path.kind {
        common::PathMatchType::Exact => PathMatch::Exact(value),
        common::PathMatchType::PathPrefix => PathMatch::PathPrefix(value),
        common::PathMatchType::RegularExpression => PathMatch::RegularExpression(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(kind: &str, name: &str) -> WorkloadId {
        WorkloadId { namespace: "shop".into(), kind: kind.into(), name: name.into() }
    }

    #[test]
    fn config_map_names_are_valid_and_distinct_for_the_longest_names() {
        let long = "a.b-".repeat(63) + "z";
        let names = ["Deployment", "StatefulSet"].map(|kind| config_map_name(&workload(kind, &long)));
        for name in &names {
            assert!(name.len() <= 253, "{}", name.len());
            let labels_valid = name.split('.').all(|label| !label.starts_with('-') && !label.ends_with('-'));
            assert!(labels_valid, "{name}");
        }
        assert_ne!(names[0], names[1]);
        assert_ne!(config_map_name(&workload("Pod", &(long.clone() + "1"))), config_map_name(&workload("Pod", &long)));
    }

    #[test]
    fn statuses_are_read_as_classes_codes_and_ranges() {
        let range = |text| status_range(text).map(|range| (range.from, range.to));
        assert_eq!(range("5xx"), Some((500, 599)));
        assert_eq!(range("429"), Some((429, 429)));
        assert_eq!(range("500-503"), Some((500, 503)));
        for refused in ["6xx", "503-500", "99", "600", "5x", ""] {
            assert_eq!(range(refused), None, "{refused}");
        }
    }
}
