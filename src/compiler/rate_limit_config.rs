//! From a RateLimit's spec to what its limits are, in the engine's words.
//!
//! What it writes must be acceptable to every proxy, so that a mistake is a condition on the policy and never a refusal by a
//! proxy. Values of Secrets and ConfigMaps are only ever named here, and only for sidecars of the policy's own namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fusebox_api::RateLimitSpec;
use fusebox_api::common::Side;
use fusebox_api::rate_limit::{self as api, ExceedAction, RedisAddress};
use fusebox_policy::config::{self, RedisStore, RedisTopology, Reference, ReferenceKind, TargetId};
use fusebox_policy::rate_limit::Settings;

use crate::common_config::{mode, request_match, side};
use crate::plan::{LimitName, LimitPart, Refusal};
use crate::snapshot::{RateLimit, ReferenceState};

/// The keys of a Secret with credentials.
const USERNAME: &str = "username";
const PASSWORD: &str = "password";

/// The keys of a Secret with a certificate, as type `kubernetes.io/tls` has them.
const CERTIFICATE: &str = "tls.crt";
const PRIVATE_KEY: &str = "tls.key";

/// Where Amazon's machines have their metadata by IPv6; by IPv4 it is link-local everywhere.
const METADATA_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// A policy's limits in the engine's words; none where the spec can't be enforced.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    limits: Vec<config::Limit>,
    store: Option<RedisStore>,
}

/// Whether the store can do without a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
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

/// Every value that a policy names, with what is known of it. A username that is not there is none that is missing.
pub(crate) fn references(
    source: &RateLimit,
    known: &BTreeMap<Reference, ReferenceState>,
) -> BTreeMap<Reference, ReferenceState> {
    let state = |reference: &Reference| known.get(reference).cloned().unwrap_or_default();
    let named = named(source).into_iter().map(|(reference, need)| {
        let found = match (state(&reference), need) {
            (ReferenceState::KeyMissing, Need::Optional) => ReferenceState::Present { revision: String::new() },
            (found, _) => found,
        };
        (reference, found)
    });
    named.collect()
}

/// Whether limits depend on values that sidecars of other namespaces are never sent.
pub(crate) fn names_values(spec: &RateLimitSpec) -> bool {
    let claims = |limit: &api::Limit| limit.key.iter().any(|part| part.jwt_claim.is_some());
    spec.limits.iter().any(|limit| limit.quotas_from.is_some() || claims(limit))
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

/// Every value that a policy names, and whether it can do without.
fn named(source: &RateLimit) -> Vec<(Reference, Need)> {
    let (namespace, spec) = (source.id.namespace.as_str(), &source.spec);
    let mut named = Vec::new();
    for limit in &spec.limits {
        let claims = limit.key.iter().filter_map(|part| part.jwt_claim.as_ref());
        named.extend(claims.filter_map(|claim| value_from(namespace, &claim.keys_from)));
        let quotas = limit.quotas_from.as_ref();
        named.extend(quotas.and_then(|it| entry(namespace, (it.config_map_ref.as_ref(), it.secret_ref.as_ref()))));
    }
    let mut named: Vec<(Reference, Need)> = named.into_iter().map(|it| (it, Need::Required)).collect();
    let Some(api::Store { redis }) = &spec.store else { return named };
    let secret = |name: &api::ObjectName, key: &str| secret(namespace, &name.name, key);
    if let Some(login) = &redis.secret_ref {
        named.push((secret(login, USERNAME), Need::Optional));
        named.push((secret(login, PASSWORD), Need::Required));
    }
    if let Some(api::RedisTls { ca_from, certificate_from }) = &redis.tls {
        named.extend(ca_from.as_ref().and_then(|from| value_from(namespace, from)).map(|it| (it, Need::Required)));
        let own = certificate_from.iter().flat_map(|name| [secret(name, CERTIFICATE), secret(name, PRIVATE_KEY)]);
        named.extend(own.map(|it| (it, Need::Required)));
    }
    named
}

fn store_of(
    source: &RateLimit,
    redis: &api::Redis,
    known: &BTreeMap<Reference, ReferenceState>,
) -> Result<RedisStore, Refusal> {
    let (namespace, name) = (&source.id.namespace, &source.id.name);
    let login = |key: &str| redis.secret_ref.as_ref().map(|secret_ref| secret(namespace, &secret_ref.name, key));
    let username = login(USERNAME).filter(|it| known.get(it) != Some(&ReferenceState::KeyMissing));
    Ok(RedisStore {
        topology: topology(redis)?,
        database: redis.database,
        username,
        password: login(PASSWORD),
        tls: redis.tls.as_ref().map(|tls| tls_of(namespace, tls)).transpose()?,
        key_prefix: redis.key_prefix.clone().unwrap_or_else(|| format!("fusebox:{namespace}:{name}")),
        timeout_ms: redis.timeout.as_millis(),
    })
}

fn topology(redis: &api::Redis) -> Result<RedisTopology, Refusal> {
    let field = "spec.store.redis";
    match (&redis.address, &redis.sentinel, &redis.cluster) {
        (Some(address), None, None) => {
            Ok(RedisTopology::Single { address: checked_address(&format!("{field}.address"), address)? })
        }
        (None, Some(sentinel), None) => Ok(RedisTopology::Sentinel {
            addresses: checked_addresses(&format!("{field}.sentinel"), &sentinel.addresses)?,
            primary: sentinel.primary.clone(),
        }),
        (None, None, Some(cluster)) => Ok(RedisTopology::Cluster {
            addresses: checked_addresses(&format!("{field}.cluster"), &cluster.addresses)?,
        }),
        _ => Err(invalid(field, "set exactly one of address, sentinel and cluster")),
    }
}

fn tls_of(namespace: &str, tls: &api::RedisTls) -> Result<config::RedisTls, Refusal> {
    let api::RedisTls { ca_from, certificate_from } = tls;
    let authorities =
        ca_from.as_ref().map(|from| value_from(namespace, from).ok_or_else(|| either("spec.store.redis.tls.caFrom")));
    let own = |key: &str| certificate_from.as_ref().map(|name| secret(namespace, &name.name, key));
    Ok(config::RedisTls {
        authorities: authorities.transpose()?,
        certificate: own(CERTIFICATE),
        private_key: own(PRIVATE_KEY),
    })
}

fn checked_addresses(field: &str, addresses: &[RedisAddress]) -> Result<Vec<String>, Refusal> {
    let checked = addresses.iter().enumerate();
    checked.map(|(index, address)| checked_address(&format!("{field}.addresses[{index}]"), address)).collect()
}

/// The schema refuses the usual spellings of what is refused here.
fn checked_address(field: &str, RedisAddress(address): &RedisAddress) -> Result<String, Refusal> {
    let unreadable = || invalid(field, "must be host:port, such as redis.shop:6379, 10.0.0.7:6379 or [fd00::7]:6379");
    let (host, port) = address.rsplit_once(':').ok_or_else(unreadable)?;
    if port.parse::<u16>().ok().is_none_or(|port| port == 0) {
        return Err(invalid(field, "must end with a port between 1 and 65535"));
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address_of_host: Option<IpAddr> = match bracketed {
        Some(inner) => Some(IpAddr::V6(inner.parse().map_err(|_| unreadable())?)),
        // A name whose last part begins with a digit is an address to some resolvers, such as 127.1 or 0x7f000001.
        None if host.rsplit('.').next().is_some_and(|last| last.starts_with(|it: char| it.is_ascii_digit())) => {
            Some(IpAddr::V4(host.parse().map_err(|_| unreadable())?))
        }
        None if !host.is_empty() && host.bytes().all(|it| it.is_ascii_alphanumeric() || b"._-".contains(&it)) => None,
        None => return Err(unreadable()),
    };
    match address_of_host {
        Some(ip) if is_forbidden(ip) => {
            Err(invalid(field, "must not lead back into the pod or to the node's metadata: name the Redis server"))
        }
        _ => Ok(address.clone()),
    }
}

fn is_forbidden(ip: IpAddr) -> bool {
    let forbidden = |ip: Ipv4Addr| ip.is_loopback() || ip.is_link_local() || ip.octets()[0] == 0 || ip.is_multicast();
    match ip {
        IpAddr::V4(ip) => forbidden(ip),
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip == METADATA_IPV6
                || ip.to_ipv4().is_some_and(forbidden)
        }
    }
}

fn value_from(namespace: &str, from: &api::ValueFrom) -> Option<Reference> {
    entry(namespace, (from.config_map_ref.as_ref(), from.secret_ref.as_ref()))
}

fn entry(namespace: &str, refs: (Option<&api::ObjectKey>, Option<&api::ObjectKey>)) -> Option<Reference> {
    let (kind, object) = match refs {
        (Some(map), None) => (ReferenceKind::ConfigMap, map),
        (None, Some(secret)) => (ReferenceKind::Secret, secret),
        _ => return None,
    };
    let (name, key) = (object.name.clone(), object.key.clone());
    Some(Reference { kind, namespace: namespace.to_owned(), name, key })
}

fn secret(namespace: &str, name: &str, key: &str) -> Reference {
    let (namespace, name, key) = (namespace.to_owned(), name.to_owned(), key.to_owned());
    Reference { kind: ReferenceKind::Secret, namespace, name, key }
}

fn either(field: &str) -> Refusal {
    invalid(field, "set exactly one of configMapRef and secretRef")
}

fn invalid(field: &str, problem: &str) -> Refusal {
    Refusal::InvalidSpec { field: field.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(address: &str) -> Result<String, Refusal> {
        checked_address("spec.store.redis.address", &RedisAddress(address.to_owned()))
    }

    #[test]
    fn servers_are_told_by_name_and_by_address() {
        for address in ["redis:6379", "redis.shop.svc:65535", "10.0.0.7:6379", "[fd00::7]:6379", "a1.b2:1"] {
            assert_eq!(checked(address).as_deref(), Ok(address));
        }
    }

    #[test]
    fn addresses_of_the_pod_itself_and_of_the_nodes_metadata_are_refused_however_they_are_written() {
        let own = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]"];
        let more = ["[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fe80::1]", "[fd00:ec2::254]", "127.1", "0x7f000001"];
        for host in own.into_iter().chain(more).chain(["2130706433", "017700000001", "[::127.0.0.1]"]) {
            let refusal = checked(&format!("{host}:6379")).unwrap_err();
            assert_eq!(refusal.reason(), "InvalidSpec", "{host}");
        }
        for address in ["redis", "redis:0", "redis:65536", "redis:", "[::1:6379", "redis:6379:1x"] {
            assert!(checked(address).is_err(), "{address}");
        }
    }
}
