//! A RateLimit's parameters in checked form: the only form the engine accepts.
//!
//! It must not know what tells clients apart: that is the proxy's to read from requests. Every bound is named here, because a
//! configuration may come from a file that no schema has seen.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{self, KeyPart, LimitScope, Side};

use super::buckets::MAX_TRACKED_KEYS;
use super::rate::{Rate, RateError};
use super::verdict::Exceed;
use super::waiting::{MAX_DELAY, MAX_QUEUED};

/// The most limits of one policy.
pub const MAX_LIMITS: usize = 16;

/// The most rules of one limit.
pub const MAX_RULES: usize = 64;

/// The most weights of one limit.
pub const MAX_COSTS: usize = 64;

/// The most parts of a key.
pub const MAX_KEY_PARTS: usize = 8;

/// The longest that a client is refused after one request too many.
pub const MAX_BLOCK: Duration = Duration::from_secs(24 * 60 * 60);

/// Checked parameters of one RateLimit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its limits, in the order of the configuration.
    pub limits: Vec<LimitSettings>,
    /// At most so many buckets for each rule of each limit.
    pub max_tracked_keys: usize,
}

/// Checked parameters of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// The rate of each rule, in the order of the configuration.
    pub rates: Vec<Rate>,
    /// What becomes of requests beyond it.
    pub exceed: Exceed,
    /// How many may wait, where they wait.
    pub max_queued: Option<u32>,
    /// The most that a request can weigh.
    pub greatest_cost: u32,
}

/// Why parameters were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A number is outside its bounds.
    #[error("{field} is {value}; set it to {least} to {most}")]
    OutOfRange {
        /// The field's path within the policy.
        field: String,
        /// What it was.
        value: u64,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
    },
    /// A rate can't be kept.
    #[error("{field} can't be kept: {source}")]
    Rate {
        /// The rate's path.
        field: String,
        /// Why.
        #[source]
        source: RateError,
    },
    /// Two of one name.
    #[error("{field} is the second of name {name:?}; give it another name")]
    DuplicateName {
        /// The path of the second.
        field: String,
        /// The name.
        name: String,
    },
    /// A request that no bucket can ever hold.
    #[error(
        "{field} is {cost}, more than the {burst} that a full bucket of {rule} holds: such a request never passes; lower it, or raise the burst"
    )]
    NeverPasses {
        /// The weight's path.
        field: String,
        /// The weight.
        cost: u32,
        /// The path of the rule's rate.
        rule: String,
        /// What a full bucket holds.
        burst: u32,
    },
    /// Two fields that exclude each other.
    #[error("{field} can't stand beside {other}; take one of them away")]
    Excluded {
        /// The one.
        field: String,
        /// The other.
        other: String,
    },
    /// Something that another field needs.
    #[error("{field} needs {needed}")]
    Missing {
        /// The field that needs it.
        field: String,
        /// What it needs, and how to give it.
        needed: &'static str,
    },
}

impl TryFrom<&config::RateLimit> for Settings {
    type Error = SettingsError;

    fn try_from(policy: &config::RateLimit) -> Result<Self, SettingsError> {
        let limits = &policy.limits;
        in_range("limits".into(), limits.len() as u64, 1, MAX_LIMITS as u64)?;
        in_range("maxTrackedKeys".into(), policy.max_tracked_keys.into(), 1, MAX_TRACKED_KEYS as u64)?;
        unique("limits", limits.iter().map(|limit| limit.name.as_str()))?;
        let limits = limits.iter().map(|limit| Self::limit(policy, limit)).collect::<Result<_, _>>()?;
        Ok(Self { limits, max_tracked_keys: policy.max_tracked_keys as usize })
    }
}

impl Settings {
    fn limit(policy: &config::RateLimit, limit: &config::Limit) -> Result<LimitSettings, SettingsError> {
        let path = format!("limits[{}]", limit.name);
        if limit.scope == LimitScope::Shared {
            shared(policy, limit, &path)?;
        }
        key(limit, &path)?;
        let rates = rates(limit, &path)?;
        let greatest_cost = greatest_cost((limit, &rates), &path)?;
        let exceed = exceed(limit, &path)?;
        let max_queued = limit.on_exceed.delay.as_ref().map(|delay| delay.max_queued);
        Ok(LimitSettings { rates, exceed, max_queued, greatest_cost })
    }
}

impl SettingsError {
    /// The field at fault, as a path within the policy.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::OutOfRange { field, .. }
            | Self::Rate { field, .. }
            | Self::DuplicateName { field, .. }
            | Self::NeverPasses { field, .. }
            | Self::Excluded { field, .. }
            | Self::Missing { field, .. } => field,
        }
    }

    /// The stable word for conditions, Events and metric labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OutOfRange { .. } => "OutOfRange",
            Self::Rate { source, .. } => source.reason(),
            Self::DuplicateName { .. } => "DuplicateName",
            Self::NeverPasses { .. } => "NeverPasses",
            Self::Excluded { .. } => "Excluded",
            Self::Missing { .. } => "Missing",
        }
    }
}

/// What a limit of scope Shared asks of the rest.
fn shared(policy: &config::RateLimit, limit: &config::Limit, path: &str) -> Result<(), SettingsError> {
    let field = || format!("{path}.scope Shared");
    if policy.store.is_none() {
        return Err(SettingsError::Missing { field: field(), needed: "a store; set store, or make it scope Replica" });
    }
    if policy.side == Side::Client {
        return Err(SettingsError::Excluded { field: field(), other: "side Client".into() });
    }
    if limit.on_exceed.delay.is_some() {
        return Err(SettingsError::Excluded { field: field(), other: format!("{path}.onExceed.delay") });
    }
    Ok(())
}

fn key(limit: &config::Limit, path: &str) -> Result<(), SettingsError> {
    in_range(format!("{path}.key"), limit.key.len() as u64, 0, MAX_KEY_PARTS as u64)?;
    for (number, part) in limit.key.iter().enumerate() {
        match part {
            KeyPart::ClientIp(ip) => {
                in_range(format!("{path}.key[{number}].clientIP.ipv6Prefix"), ip.ipv6_prefix.into(), 1, 128)?;
            }
            KeyPart::Header(_) | KeyPart::ApiKey(_) | KeyPart::JwtClaim(_) | KeyPart::Path | KeyPart::Method => {}
        }
    }
    Ok(())
}

fn rates(limit: &config::Limit, path: &str) -> Result<Vec<Rate>, SettingsError> {
    in_range(format!("{path}.rules"), limit.rules.len() as u64, 1, MAX_RULES as u64)?;
    unique(&format!("{path}.rules"), limit.rules.iter().map(|rule| rule.name.as_str()))?;
    let rate = |rule: &config::LimitRule| {
        let error = |source| SettingsError::Rate { field: rate_path(path, &rule.name), source };
        Rate::try_from(&rule.rate).map_err(error)
    };
    limit.rules.iter().map(rate).collect()
}

fn greatest_cost((limit, rates): (&config::Limit, &[Rate]), path: &str) -> Result<u32, SettingsError> {
    in_range(format!("{path}.costs"), limit.costs.len() as u64, 0, MAX_COSTS as u64)?;
    for (number, cost) in limit.costs.iter().enumerate() {
        let cost = cost.cost;
        if let Some((rule, rate)) = limit.rules.iter().zip(rates).find(|(_, rate)| cost > rate.burst()) {
            let (field, rule) = (format!("{path}.costs[{number}].cost"), rate_path(path, &rule.name));
            return Err(SettingsError::NeverPasses { field, cost, rule, burst: rate.burst() });
        }
    }
    Ok(limit.costs.iter().map(|cost| cost.cost).max().unwrap_or(1).max(1))
}

fn exceed(limit: &config::Limit, path: &str) -> Result<Exceed, SettingsError> {
    let config::Exceed { block_for_ms, delay } = &limit.on_exceed;
    let path = format!("{path}.onExceed");
    match (block_for_ms, delay) {
        (None, None) => Ok(Exceed::Refuse),
        (Some(_), Some(_)) => {
            Err(SettingsError::Excluded { field: format!("{path}.blockForMs"), other: format!("{path}.delay") })
        }
        (Some(block), None) => duration(format!("{path}.blockForMs"), *block, MAX_BLOCK).map(Exceed::Block),
        (None, Some(delay)) => {
            in_range(format!("{path}.delay.maxQueued"), delay.max_queued.into(), 1, MAX_QUEUED.into())?;
            duration(format!("{path}.delay.maxDelayMs"), delay.max_delay_ms, MAX_DELAY).map(Exceed::Delay)
        }
    }
}

/// A limit's own rate has no rule's name.
fn rate_path(path: &str, rule: &str) -> String {
    if rule.is_empty() { format!("{path}.rate") } else { format!("{path}.rules[{rule}].rate") }
}

fn unique<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> Result<(), SettingsError> {
    let mut known = BTreeSet::new();
    for (number, name) in names.enumerate() {
        if !known.insert(name) {
            return Err(SettingsError::DuplicateName { field: format!("{field}[{number}].name"), name: name.into() });
        }
    }
    Ok(())
}

fn duration(field: String, value_ms: u64, most: Duration) -> Result<Duration, SettingsError> {
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    in_range(field, value_ms, 1, most)?;
    Ok(Duration::from_millis(value_ms))
}

fn in_range(field: String, value: u64, least: u64, most: u64) -> Result<(), SettingsError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(SettingsError::OutOfRange { field, value, least, most })
}
