//! From a RateLimit's spec to what its limits are, in the engine's words.
//!
//! What it writes must be acceptable to every proxy, so that a mistake is a condition on the policy and never a refusal by a
//! proxy. Values of Secrets and ConfigMaps are only ever named here, and only for sidecars of the policy's own namespace.

mod store;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use fusebox_api::RateLimitSpec;
use fusebox_api::common::Side;
use fusebox_api::rate_limit::{self as api, ExceedAction};
use fusebox_policy::config::{self, RedisStore, Reference, TargetId};
use fusebox_policy::rate_limit::Settings;

use self::store::store_of;
use self::values::{either, entry, value_from};
use crate::common_config::{invalid, mode, request_match, side};
use crate::plan::{LimitName, LimitPart, Refusal};
use crate::snapshot::{RateLimit, ReferenceState};

pub(crate) use self::values::{names_values, references};

/// A policy's limits in the engine's words; none where the spec can't be enforced.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    limits: Vec<config::Limit>,
    store: Option<RedisStore>,
}

/// A policy's limits, as far as `known` tells of the values that they name.
///
/// # Errors
/// [`Refusal::InvalidSpec`], naming the field, where an engine would not take them.
pub(crate) fn limits(source: &RateLimit, known: &BTreeMap<Reference, ReferenceState>) -> Result<Limits, Refusal> {
    let spec = &source.spec;
    check_scopes(spec)?;
    let namespace = &source.id.namespace;
    let limits = spec.limits.iter().enumerate();
    let limits = limits.map(|(index, limit)| limit_of(namespace, &format!("spec.limits[{index}]"), limit));
    let store = spec.store.as_ref().map(|store| store_of(source, &store.redis, known)).transpose()?;
    let limits = Limits { limits: limits.collect::<Result<_, _>>()?, store };
    check_settings(&limits, source)?;
    Ok(limits)
}

impl Limits {
    /// What stands in front of one target for sidecars of a namespace; nothing where the policy is disabled. Elsewhere than in
    /// the policy's own namespace there are no quotas, since their file is never sent there.
    pub(crate) fn at(&self, source: &RateLimit, target: &TargetId, namespace: &str) -> Option<config::RateLimit> {
        let spec = &source.spec;
        let mut limits = self.limits.clone();
        if namespace != source.id.namespace {
            limits.iter_mut().for_each(|limit| limit.quotas = None);
        }
        Some(config::RateLimit { limits, ..self.everywhere(source, target, mode(spec.mode)?) })
    }

    /// What stands in front of a target for sidecars of the policy's own namespace.
    fn everywhere(&self, source: &RateLimit, target: &TargetId, mode: config::Mode) -> config::RateLimit {
        let spec = &source.spec;
        config::RateLimit {
            policy: source.id.clone(),
            target: target.clone(),
            side: side(spec.side),
            mode,
            limits: self.limits.clone(),
            store: self.store.clone(),
            on_store_failure: match spec.on_store_failure {
                api::OnStoreFailure::LocalEstimate => config::StoreFailure::LocalEstimate,
                api::OnStoreFailure::Open => config::StoreFailure::Open,
                api::OnStoreFailure::Closed => config::StoreFailure::Closed,
            },
            headers: match spec.headers {
                api::LimitHeaders::Standard => config::LimitHeaders::Standard,
                api::LimitHeaders::Legacy => config::LimitHeaders::Legacy,
                api::LimitHeaders::Both => config::LimitHeaders::Both,
                api::LimitHeaders::None => config::LimitHeaders::None,
            },
            show_keys: match spec.show_keys {
                api::ShowKeys::Hashed => config::ShowKeys::Hashed,
                api::ShowKeys::Redacted => config::ShowKeys::Redacted,
            },
            max_tracked_keys: spec.max_tracked_keys,
        }
    }

    /// What a plan says of the limits.
    pub(crate) fn part(&self, spec: &RateLimitSpec) -> LimitPart {
        let names = self.limits.iter().flat_map(|limit| {
            let scope = match limit.scope {
                config::LimitScope::Replica => api::LimitScope::Replica,
                config::LimitScope::Shared => api::LimitScope::Shared,
            };
            limit.rules.iter().map(move |rule| LimitName { limit: limit.name.clone(), rule: rule.name.clone(), scope })
        });
        LimitPart { names: names.collect(), rate: rate_words(spec), scopes: scopes(spec) }
    }
}

/// The schema refuses the same; a definition that is older or newer than this build may not.
fn check_scopes(spec: &RateLimitSpec) -> Result<(), Refusal> {
    let shared = scopes(spec).contains(&api::LimitScope::Shared);
    if shared && spec.side == Side::Client {
        return Err(invalid(
            "spec.side",
            "must be Server where a limit has scope Shared: callers keep no common count",
        ));
    }
    if shared && spec.store.is_none() {
        let problem = "is required where a limit has scope Shared: say where the common count is kept";
        return Err(invalid("spec.store", problem));
    }
    Ok(())
}

/// What the engine itself would refuse.
fn check_settings(limits: &Limits, source: &RateLimit) -> Result<(), Refusal> {
    let (kind, namespace, name) = ("Service".to_owned(), source.id.namespace.clone(), String::new());
    let target = TargetId { kind, namespace, name, section: String::new() };
    let Err(error) = Settings::try_from(&limits.everywhere(source, &target, config::Mode::Enforce)) else {
        return Ok(());
    };
    Err(invalid(&format!("spec.{}", counted(error.field(), &limits.limits)), &error.to_string()))
}

/// The engine names limits and rules, and a path in a manifest counts them.
fn counted(field: &str, limits: &[config::Limit]) -> String {
    let place = |(index, limit): (usize, &config::Limit)| {
        let rest = field.strip_prefix(&format!("limits[{}]", limit.name))?;
        let rules = limit.rules.iter().enumerate();
        let below = rules.filter(|(_, rule)| !rule.name.is_empty()).find_map(|(index, rule)| {
            let rest = rest.strip_prefix(&format!(".rules[{}]", rule.name))?;
            Some(format!(".rules[{index}]{rest}"))
        });
        Some(format!("limits[{index}]{}", below.unwrap_or_else(|| rest.to_owned())))
    };
    limits.iter().enumerate().find_map(place).unwrap_or_else(|| field.to_owned())
}

fn scopes(spec: &RateLimitSpec) -> BTreeSet<api::LimitScope> {
    spec.limits.iter().map(|limit| limit.scope).collect()
}

/// The first limit's rate, and how many more limits there are.
fn rate_words(spec: &RateLimitSpec) -> String {
    let first = spec.limits.first().map(|limit| format!("{}/{}", limit.rate.requests, limit.rate.per));
    match (first, spec.limits.len()) {
        (None, _) => String::new(),
        (Some(first), 1) => first,
        (Some(first), more) => format!("{first} +{}", more - 1),
    }
}

fn limit_of(namespace: &str, field: &str, limit: &api::Limit) -> Result<config::Limit, Refusal> {
    let api::Limit { name, when, key, on_missing_key, rate, rules, quotas_from, costs, on_exceed, scope } = limit;
    if *scope == api::LimitScope::Shared && on_exceed.action == ExceedAction::Delay {
        let problem = "must be Reject with scope Shared: requests can't wait in several pods in one order";
        return Err(invalid(&format!("{field}.onExceed.action"), problem));
    }
    let mut parts = Vec::with_capacity(rules.len() + 1);
    for (index, rule) in rules.iter().enumerate() {
        parts.push(config::LimitRule {
            name: rule.name.clone(),
            matches: Some(request_match(&format!("{field}.rules[{index}].match"), &rule.matches)?),
            rate: rate_of(&rule.rate),
        });
    }
    parts.push(config::LimitRule { name: String::new(), matches: None, rate: rate_of(rate) });
    let when = when.as_ref().map(|when| request_match(&format!("{field}.when"), when)).transpose()?;
    let key = key.iter().enumerate().map(|(index, part)| key_part(namespace, &format!("{field}.key[{index}]"), part));
    Ok(config::Limit {
        name: name.clone(),
        when,
        key: key.collect::<Result<_, _>>()?,
        on_missing_key: match on_missing_key {
            api::OnMissingKey::SharedBucket => config::MissingKey::SharedBucket,
            api::OnMissingKey::Skip => config::MissingKey::Skip,
            api::OnMissingKey::Reject => config::MissingKey::Reject,
        },
        rules: parts,
        quotas: quotas_from.as_ref().map(|from| quotas(namespace, field, from)).transpose()?,
        costs: costs_of(field, costs)?,
        on_exceed: exceed(on_exceed),
        scope: match scope {
            api::LimitScope::Replica => config::LimitScope::Replica,
            api::LimitScope::Shared => config::LimitScope::Shared,
        },
    })
}

fn rate_of(rate: &api::Rate) -> config::Rate {
    config::Rate { requests: rate.requests, per_ms: rate.per.as_millis(), burst: rate.burst_or_default() }
}

fn costs_of(field: &str, costs: &[api::LimitCost]) -> Result<Vec<config::Cost>, Refusal> {
    let cost = |(index, cost): (usize, &api::LimitCost)| {
        let matches = request_match(&format!("{field}.costs[{index}].match"), &cost.matches)?;
        Ok(config::Cost { matches, cost: cost.cost })
    };
    costs.iter().enumerate().map(cost).collect()
}

fn exceed(exceed: &api::OnExceed) -> config::Exceed {
    match exceed.action {
        ExceedAction::Reject => {
            config::Exceed { block_for_ms: exceed.block_for.map(fusebox_api::Duration::as_millis), delay: None }
        }
        ExceedAction::Delay => config::Exceed {
            block_for_ms: None,
            delay: Some(config::Delay {
                max_delay_ms: exceed.max_delay_or_default().as_millis(),
                max_queued: exceed.max_queued_or_default(),
                priority_header: exceed.priority_header.clone(),
            }),
        },
    }
}

fn key_part(namespace: &str, field: &str, part: &api::KeyPart) -> Result<config::KeyPart, Refusal> {
    let api::KeyPart { header, api_key, client_ip, jwt_claim, path, method } = part;
    let found = [
        header.clone().map(config::KeyPart::Header),
        api_key.as_ref().map(|key| {
            let api::ApiKey { headers, query_parameters, cookies } = key.clone();
            config::KeyPart::ApiKey(config::ApiKey { headers, query_parameters, cookies })
        }),
        client_ip.as_ref().map(|ip| {
            let api::ClientIp { trusted_hops, ipv6_prefix } = *ip;
            config::KeyPart::ClientIp(config::ClientIp { trusted_hops, ipv6_prefix })
        }),
        jwt_claim.as_ref().map(|claim| jwt_of(namespace, field, claim)).transpose()?,
        path.as_ref().map(|_| config::KeyPart::Path),
        method.as_ref().map(|_| config::KeyPart::Method),
    ];
    let mut found = found.into_iter().flatten();
    match (found.next(), found.next()) {
        (Some(part), None) => Ok(part),
        _ => Err(invalid(field, "set exactly one of header, apiKey, clientIP, jwtClaim, path and method")),
    }
}

fn jwt_of(namespace: &str, field: &str, claim: &api::JwtClaim) -> Result<config::KeyPart, Refusal> {
    let api::JwtClaim { claim, header, issuer, audiences, keys_from } = claim;
    Ok(config::KeyPart::JwtClaim(config::JwtClaim {
        claim: claim.clone(),
        header: header.clone(),
        issuer: issuer.clone(),
        audiences: audiences.clone(),
        keys: value_from(namespace, keys_from).ok_or_else(|| either(&format!("{field}.jwtClaim.keysFrom")))?,
    }))
}

fn quotas(namespace: &str, field: &str, from: &api::QuotasFrom) -> Result<config::Quotas, Refusal> {
    let source = entry(namespace, (from.config_map_ref.as_ref(), from.secret_ref.as_ref()));
    Ok(config::Quotas {
        source: source.ok_or_else(|| either(&format!("{field}.quotasFrom")))?,
        on_unknown_key: match from.on_unknown_key {
            api::UnknownKey::Default => config::UnknownKey::Default,
            api::UnknownKey::SharedBucket => config::UnknownKey::SharedBucket,
            api::UnknownKey::Reject => config::UnknownKey::Reject,
        },
    })
}
