//! From a policy's spec to what its breakers are, in the engine's words.
//!
//! What it writes must be acceptable to every proxy: it puts each rule through the engine's own
//! parsers first, so that a mistake is a condition on the policy and never a refusal by a proxy.

use fusebox_api::CircuitBreakerPolicySpec;
use fusebox_api::circuit_breaker::{self as api, Scope};
use fusebox_api::common;
use fusebox_policy::circuit_breaker::{FailureClassifier, Settings};
use fusebox_policy::config::{
    self, AnswerHeader, BreakerParameters, BreakerRule, EndpointScope, FailureOn, RateWindow, StaticAnswer, TargetId,
};
use jiff::{SignedDuration, Timestamp};

use crate::common_config::{invalid, mode, request_match, side};
use crate::plan::{ForceVerdict, Refusal};
use crate::snapshot::CircuitBreaker;

/// How long after it is written an override may last.
pub const MAX_OVERRIDE: SignedDuration = SignedDuration::from_hours(24);

/// The share of endpoints that may be left out at once where the policy doesn't say, in percent.
const DEFAULT_MAX_OPEN_PERCENT: u8 = 50;

/// A policy's rules in the engine's words, the nameless one last.
///
/// # Errors
/// [`Refusal::InvalidSpec`], naming the field, where an engine would not take them.
pub(crate) fn breaker_rules(spec: &CircuitBreakerPolicySpec) -> Result<Vec<BreakerRule>, Refusal> {
    check_scope(spec)?;
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

const fn forced_state(state: api::ForcedState) -> config::ForcedState {
    match state {
        api::ForcedState::ForcedOpen => config::ForcedState::ForcedOpen,
        api::ForcedState::ForcedClosed => config::ForcedState::ForcedClosed,
    }
}

/// The policy's breaker in front of one target; nothing where it is disabled.
pub(crate) fn circuit_breaker(
    source: &CircuitBreaker,
    (rules, force): (&[BreakerRule], &ForceVerdict),
    target: &TargetId,
) -> Option<config::CircuitBreaker> {
    let force = match force {
        ForceVerdict::Active { state, until, reason } => {
            Some(config::Override { state: *state, until_unix_ms: until.as_millisecond(), reason: reason.clone() })
        }
        ForceVerdict::Absent | ForceVerdict::Expired { .. } | ForceVerdict::TooFar { .. } => None,
    };
    Some(config::CircuitBreaker {
        policy: source.id.clone(),
        target: target.clone(),
        side: side(source.spec.side),
        mode: mode(source.spec.mode)?,
        rules: rules.to_vec(),
        endpoint_scope: endpoint_scope(&source.spec),
        fallback: fallback(&source.spec.fallback),
        force,
    })
}

/// What becomes of a policy's override at this time.
pub(crate) fn force_verdict(source: &CircuitBreaker, now: Timestamp) -> ForceVerdict {
    let Some(force) = &source.spec.force else { return ForceVerdict::Absent };
    let until = force.until.0;
    let written = source.override_written.unwrap_or(now).min(now);
    let limit = written.checked_add(MAX_OVERRIDE).unwrap_or(Timestamp::MAX);
    if until <= now {
        ForceVerdict::Expired { until }
    } else if until > limit {
        ForceVerdict::TooFar { until, limit }
    } else {
        ForceVerdict::Active { state: forced_state(force.state), until, reason: force.reason.clone() }
    }
}

/// How a policy's breakers for single endpoints act together; absent where the Service has one for all.
fn endpoint_scope(spec: &CircuitBreakerPolicySpec) -> Option<EndpointScope> {
    let max_open_percent = spec.max_open_endpoints_percent.unwrap_or(DEFAULT_MAX_OPEN_PERCENT);
    (spec.scope == Scope::Endpoint).then_some(EndpointScope { max_open_percent })
}

/// The fixed answer of a policy, if it has one.
fn fallback(fallback: &api::Fallback) -> Option<StaticAnswer> {
    let api::Fallback { kind, answer } = fallback;
    let api::StaticAnswer { status, headers, body } = match kind {
        api::FallbackType::None => return None,
        api::FallbackType::Static => answer.as_ref()?,
    };
    let header = |it: &api::AnswerHeader| AnswerHeader { name: it.name.clone(), value: it.value.clone() };
    Some(StaticAnswer { status: *status, headers: headers.iter().map(header).collect(), body: body.clone() })
}

/// The schema refuses the same; a definition that is older or newer than this build may not.
fn check_scope(spec: &CircuitBreakerPolicySpec) -> Result<(), Refusal> {
    if spec.scope == Scope::Endpoint && spec.side == common::Side::Server {
        return Err(invalid("spec.scope", "must be Service with side Server: each pod guards itself there"));
    }
    Ok(())
}

fn breaker_rule(
    spec: &CircuitBreakerPolicySpec,
    own: &BreakerRule,
    (index, rule): (usize, &api::BreakerRule),
) -> Result<BreakerRule, Refusal> {
    let api::BreakerRule { name, matches, overrides } = rule;
    let api::RuleOverrides { timeout, trip } = overrides;
    let matches = request_match(&format!("spec.rules[{index}].match"), matches)?;
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
    checked.map_err(|error| invalid(&format!("{prefix}.{}", error.field().trim_end_matches("Ms")), &error.to_string()))
}

fn parameters(spec: &CircuitBreakerPolicySpec, trip: &api::Trip) -> BreakerParameters {
    let api::Open { base_duration, max_duration, jitter_percent, honor_retry_after } = &spec.open;
    let api::HalfOpen { max_probes, success_threshold, probe_timeout, max_duration: half_open_max } = &spec.half_open;
    BreakerParameters {
        trip: limits(trip),
        open: config::Open {
            base_duration_ms: base_duration.as_millis(),
            max_duration_ms: max_duration.as_millis(),
            jitter_percent: *jitter_percent,
            honor_retry_after: *honor_retry_after,
        },
        half_open: config::HalfOpen {
            max_probes: *max_probes,
            success_threshold: *success_threshold,
            probe_timeout_ms: probe_timeout.as_millis(),
            max_duration_ms: half_open_max.as_millis(),
        },
        recovery: config::Recovery { ramp_ms: spec.recovery.ramp.as_millis() },
    }
}

fn limits(trip: &api::Trip) -> config::Trip {
    let api::Trip { kind: _, consecutive_failures, failures, failure_rate, slow_call_rate } = trip;
    config::Trip {
        consecutive_failures: *consecutive_failures,
        failures: failures
            .as_ref()
            .map(|it| config::FailureCount { count: it.count, window_ms: it.window.as_millis() }),
        failure_rate: failure_rate.as_ref().map(|it| config::FailureRate {
            percent: it.percent,
            window: rate_window(&it.of),
            min_requests: it.of.min_requests_or_default(),
        }),
        slow_call_rate: slow_call_rate.as_ref().map(|it| config::SlowCallRate {
            percent: it.percent,
            slower_than_ms: it.slower_than.as_millis(),
            window: rate_window(&it.of),
            min_requests: it.of.min_requests_or_default(),
        }),
    }
}

fn rate_window(of: &api::RateWindow) -> RateWindow {
    of.calls.map_or_else(|| RateWindow::Time(of.window_or_default().as_millis()), RateWindow::Calls)
}

fn failure_on(failure_on: &api::FailureOn) -> Result<FailureOn, Refusal> {
    let api::FailureOn { http_status, grpc_codes, conditions } = failure_on;
    let mut ranges = Vec::with_capacity(http_status.len());
    for (index, pattern) in http_status.iter().enumerate() {
        let unknown = || {
            let problem = format!("{:?} is no class (5xx), code (429) or range (500-503)", pattern.0);
            invalid(&format!("spec.failureOn.httpStatus[{index}]"), &problem)
        };
        ranges.push(status_range(&pattern.0).ok_or_else(unknown)?);
    }
    let failure_on = FailureOn {
        http_status: ranges,
        grpc_codes: grpc_codes.iter().map(|it| grpc_code(*it)).collect(),
        conditions: conditions.iter().map(|it| condition(*it)).collect(),
    };
    match FailureClassifier::try_from(&failure_on) {
        Ok(_) => Ok(failure_on),
        Err(error) => Err(invalid("spec.failureOn", &error.to_string())),
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

const fn grpc_code(code: api::GrpcCode) -> config::GrpcCode {
    match code {
        api::GrpcCode::Cancelled => config::GrpcCode::Cancelled,
        api::GrpcCode::Unknown => config::GrpcCode::Unknown,
        api::GrpcCode::InvalidArgument => config::GrpcCode::InvalidArgument,
        api::GrpcCode::DeadlineExceeded => config::GrpcCode::DeadlineExceeded,
        api::GrpcCode::NotFound => config::GrpcCode::NotFound,
        api::GrpcCode::AlreadyExists => config::GrpcCode::AlreadyExists,
        api::GrpcCode::PermissionDenied => config::GrpcCode::PermissionDenied,
        api::GrpcCode::ResourceExhausted => config::GrpcCode::ResourceExhausted,
        api::GrpcCode::FailedPrecondition => config::GrpcCode::FailedPrecondition,
        api::GrpcCode::Aborted => config::GrpcCode::Aborted,
        api::GrpcCode::OutOfRange => config::GrpcCode::OutOfRange,
        api::GrpcCode::Unimplemented => config::GrpcCode::Unimplemented,
        api::GrpcCode::Internal => config::GrpcCode::Internal,
        api::GrpcCode::Unavailable => config::GrpcCode::Unavailable,
        api::GrpcCode::DataLoss => config::GrpcCode::DataLoss,
        api::GrpcCode::Unauthenticated => config::GrpcCode::Unauthenticated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
