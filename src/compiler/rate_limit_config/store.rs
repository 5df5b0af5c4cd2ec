//! The store of a RateLimit's common counts: which servers it has, and how they are spoken to.
//!
//! An address must not lead back into the pod or to the node's metadata, however it is written: who may write a policy may
//! not thereby reach what only the pod may.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fusebox_api::rate_limit::{self as api, RedisAddress};
use fusebox_policy::config::{self, RedisStore, RedisTopology, Reference};

use super::values::{CERTIFICATE, PASSWORD, PRIVATE_KEY, USERNAME, either, secret, value_from};
use crate::common_config::invalid;
use crate::plan::Refusal;
use crate::snapshot::{RateLimit, ReferenceState};

/// The store in the words of a configuration.
pub(super) fn store_of(
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
        Some(ip) if config::leads_back(ip) => {
            Err(invalid(field, "must not lead back into the pod or to the node's metadata: name the Redis server"))
        }
        _ => Ok(address.clone()),
    }
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
