//! What a configuration must fulfil before anything is built from it.
//!
//! It must not trust the operator: sizes are bounded and references unique, whoever wrote the file.

use std::collections::HashSet;
use std::time::Duration;

use fusebox_policy::config::{BreakerRule, CircuitBreaker, FORMAT, ProxyConfig, Side};

use crate::config_error::ConfigError;

/// The longest timeout a rule can have: an hour.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Routes in each direction that one configuration can have.
pub(crate) const MAX_ROUTES: usize = 10_000;

/// Rules that one route can have, its last one included.
pub(crate) const MAX_RULES: usize = 65;

/// Format, sizes and uniqueness of routes.
pub(super) fn shape(config: &ProxyConfig) -> Result<(), ConfigError> {
    if config.format > FORMAT {
        return Err(ConfigError::text(
            "format",
            &format!("is {}, but this proxy reads up to {FORMAT}: upgrade the proxy", config.format),
        ));
    }
    if config.format == 0 {
        return Err(ConfigError::text("format", "is 0; the first format is 1"));
    }
    for (field, count) in [("inbound", config.inbound.len()), ("outbound", config.outbound.len())] {
        if count > MAX_ROUTES {
            return Err(ConfigError::text(field, &format!("has {count} routes, at most {MAX_ROUTES} are accepted")));
        }
    }
    let mut ports = HashSet::new();
    if let Some(index) = config.inbound.iter().position(|route| !ports.insert(route.port)) {
        return Err(ConfigError::text(&format!("inbound[{index}].port"), "is there twice"));
    }
    let mut services = HashSet::new();
    if let Some(index) = config.outbound.iter().position(|route| !services.insert((&route.service, route.port))) {
        return Err(ConfigError::text(&format!("outbound[{index}]"), "names a Service's port that is there already"));
    }
    Ok(())
}

/// A policy fits its route, and its rules end with one that takes all.
pub(super) fn policy(field: &str, policy: &CircuitBreaker, side: Side) -> Result<(), ConfigError> {
    if policy.side != side {
        return Err(ConfigError::text(&format!("{field}.side"), "does not fit the direction of the route"));
    }
    if policy.rules.len() > MAX_RULES {
        return Err(ConfigError::text(&format!("{field}.rules"), &format!("has more than {MAX_RULES} entries")));
    }
    match policy.rules.last() {
        Some(last) if last.matches.is_none() && last.name.is_empty() => Ok(()),
        _ => Err(ConfigError::text(
            &format!("{field}.rules"),
            "must end with a rule without name and match, which takes all that is left",
        )),
    }
}

/// The bound on a rule's requests.
pub(super) fn timeout(field: &str, rule: &BreakerRule) -> Result<Option<Duration>, ConfigError> {
    let Some(timeout_ms) = rule.timeout_ms else { return Ok(None) };
    let timeout = Duration::from_millis(timeout_ms);
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        let limit_ms = MAX_TIMEOUT.as_millis();
        return Err(ConfigError::text(
            &format!("{field}.timeoutMs"),
            &format!("is {timeout_ms}, expected 1 to {limit_ms}"),
        ));
    }
    Ok(Some(timeout))
}
