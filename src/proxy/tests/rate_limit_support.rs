//! Limits for tests: configurations with them, and clients that show keys.
//!
//! It must make limits as the compiler would, so that what passes here passes in a cluster.

use std::net::SocketAddr;

use bytes::Bytes;
use fusebox_policy::config::{
    ClientIp, InboundRoute, KeyPart, Limit, LimitHeaders, LimitRule, LimitScope, MissingKey, Mode, PolicyId,
    PolicyVersion, Protocol, ProxyConfig, Rate, RateLimit, Reference, ReferenceKind, ShowKeys, Side, StoreFailure,
    TargetId,
};
use fusebox_policy::stream::ReferenceValue;
use http::Request;
use http_body_util::Full;

use super::support::{Answer, Client, config, options};
use crate::{Options, Proxy};

/// So slow that nothing comes back during a test.
pub(crate) const SLOW: u64 = 3_600_000;

/// `requests` in `per_ms`, all of them at once if need be.
pub(crate) fn rate(requests: u32, per_ms: u64) -> Rate {
    Rate { requests, per_ms, burst: requests }
}

/// A limit by the header `x-api-key`, of `requests` in an hour.
pub(crate) fn limit(name: &str, requests: u32) -> Limit {
    Limit {
        name: name.into(),
        when: None,
        key: vec![KeyPart::Header("x-api-key".into())],
        on_missing_key: MissingKey::SharedBucket,
        rules: vec![LimitRule { name: String::new(), matches: None, rate: rate(requests, SLOW) }],
        quotas: None,
        costs: Vec::new(),
        on_exceed: fusebox_policy::config::Exceed::default(),
        scope: LimitScope::Replica,
    }
}

/// A policy with these limits.
pub(crate) fn rate_limit(side: Side, limits: Vec<Limit>) -> RateLimit {
    RateLimit {
        policy: PolicyId { namespace: "shop".into(), name: "api".into() },
        target: TargetId {
            kind: "Service".into(),
            namespace: "shop".into(),
            name: "payments".into(),
            section: String::new(),
        },
        side,
        mode: Mode::Enforce,
        limits,
        store: None,
        on_store_failure: StoreFailure::LocalEstimate,
        headers: LimitHeaders::Standard,
        show_keys: ShowKeys::Hashed,
        max_tracked_keys: 1_000,
    }
}

/// Calls to shop/payments:80 under these limits, and behind them the breaker of [`config`].
pub(crate) fn limited(upstream: SocketAddr, limits: Vec<Limit>) -> ProxyConfig {
    let mut settings = config(upstream);
    settings.outbound[0].rate_limit = Some(rate_limit(Side::Client, limits));
    settings.policies.push(PolicyVersion {
        kind: "RateLimit".into(),
        id: PolicyId { namespace: "shop".into(), name: "api".into() },
        uid: String::new(),
        generation: 1,
    });
    settings
}

/// The limits in `settings`.
pub(crate) fn limits(settings: &mut ProxyConfig) -> &mut RateLimit {
    settings.outbound[0].rate_limit.as_mut().unwrap()
}

/// Calls into the application at `application`, on the port that the options of [`server`] name.
pub(crate) fn served(limits: Vec<Limit>) -> ProxyConfig {
    let mut settings = limited("127.0.0.1:1".parse().unwrap(), Vec::new());
    settings.outbound.clear();
    settings.inbound = vec![InboundRoute {
        port: 8080,
        protocol: Protocol::Detect,
        circuit_breaker: None,
        rate_limit: Some(rate_limit(Side::Server, limits)),
    }];
    settings
}

/// Options with one inbound listener in front of `application`.
pub(crate) fn server(application: SocketAddr) -> Options {
    let inbound = vec![format!("127.0.0.1:0={application}/8080").parse().unwrap()];
    Options { inbound, outbound: Vec::new(), ..options() }
}

/// A proxy with these options under `settings`, and its first listener's address.
pub(crate) async fn started(options: Options, settings: &ProxyConfig) -> (Proxy, SocketAddr) {
    let proxy = Proxy::start(options).await.unwrap();
    proxy.apply(settings).unwrap();
    let address = proxy.listeners()[0].address;
    (proxy, address)
}

/// The client's own address, behind so many trusted proxies.
pub(crate) fn client_ip(trusted_hops: u8) -> Vec<KeyPart> {
    vec![KeyPart::ClientIp(ClientIp { trusted_hops, ipv6_prefix: 64 })]
}

pub(crate) fn reference(kind: ReferenceKind, name: &str) -> Reference {
    Reference { kind, namespace: "shop".into(), name: name.into(), key: "data".into() }
}

pub(crate) fn value(reference: &Reference, value: &str) -> ReferenceValue {
    ReferenceValue { reference: reference.clone(), value: value.into() }
}

/// One request with these headers on a connection of its own.
pub(crate) async fn send(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    send_on(&mut Client::connect(address).await, path, headers).await
}

/// One request with these headers.
pub(crate) async fn send_on(client: &mut Client, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = headers.iter().fold(Request::get(path).header("host", "payments.shop"), |request, (name, value)| {
        request.header(*name, *value)
    });
    client.send(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
}

/// The statuses of so many requests with this key.
pub(crate) async fn statuses(address: SocketAddr, key: &str, count: usize) -> Vec<u16> {
    let mut client = Client::connect(address).await;
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(send_on(&mut client, "/", &[("x-api-key", key)]).await.status.as_u16());
    }
    statuses
}

/// All values of a header of an answer, in their order.
pub(crate) fn field(answer: &Answer, name: &str) -> Vec<String> {
    answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}
