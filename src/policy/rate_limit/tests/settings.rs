//! Claims about checked parameters: each bound refuses what is beyond it, naming the field.

use super::*;
use crate::config::{
    self, ClientIp, Cost, Delay, KeyPart, Limit, LimitRule, LimitScope, PolicyId, RateLimit, Side, TargetId,
};

fn rate(requests: u32, per_ms: u64, burst: u32) -> config::Rate {
    config::Rate { requests, per_ms, burst }
}

fn rule(name: &str, rate: config::Rate) -> LimitRule {
    LimitRule { name: name.into(), matches: None, rate }
}

fn limit(name: &str) -> Limit {
    Limit {
        name: name.into(),
        when: None,
        key: vec![KeyPart::Header("x-api-key".into())],
        on_missing_key: config::MissingKey::default(),
        rules: vec![rule("writes", rate(10, 1_000, 5)), rule("", rate(60, 60_000, 10))],
        quotas: None,
        costs: Vec::new(),
        on_exceed: config::Exceed::default(),
        scope: LimitScope::Replica,
    }
}

fn policy(limits: Vec<Limit>) -> RateLimit {
    let target =
        TargetId { kind: "Service".into(), namespace: "shop".into(), name: "cart".into(), section: String::new() };
    RateLimit {
        policy: PolicyId { namespace: "shop".into(), name: "cart".into() },
        target,
        side: Side::Server,
        mode: config::Mode::Enforce,
        limits,
        store: None,
        on_store_failure: config::StoreFailure::default(),
        headers: config::LimitHeaders::default(),
        show_keys: config::ShowKeys::default(),
        max_tracked_keys: 65_536,
    }
}

fn cost(cost: u32) -> Cost {
    Cost { matches: config::RequestMatch::default(), cost }
}

fn refused(change: impl FnOnce(&mut Limit)) -> (String, &'static str) {
    let mut changed = limit("per-key");
    change(&mut changed);
    let error = Settings::try_from(&policy(vec![changed])).unwrap_err();
    assert!(error.to_string().starts_with(error.field()), "the message does not begin with the field: {error}");
    (error.field().to_owned(), error.reason())
}

#[test]
fn a_policy_in_bounds_is_taken_as_it_is() {
    let mut delayed = limit("queue");
    delayed.on_exceed.delay = Some(Delay { max_delay_ms: 500, max_queued: 9, priority_header: None });
    delayed.costs = vec![cost(0), cost(5)];
    let mut blocking = limit("per-key");
    blocking.on_exceed.block_for_ms = Some(60_000);
    let settings = Settings::try_from(&policy(vec![delayed, blocking])).unwrap();
    let rates = vec![per_second(10, 5), Rate::new(60, Duration::from_secs(60), 10).unwrap()];
    let (delay, block) = (Exceed::Delay(Duration::from_millis(500)), Exceed::Block(Duration::from_secs(60)));
    let delayed = LimitSettings { rates: rates.clone(), exceed: delay, max_queued: Some(9), greatest_cost: 5 };
    let blocking = LimitSettings { rates, exceed: block, max_queued: None, greatest_cost: 1 };
    assert_eq!(settings, Settings { limits: vec![delayed, blocking], max_tracked_keys: 65_536 });
}

#[test]
fn a_rate_out_of_bounds_is_refused() {
    let changed = |rate: config::Rate| refused(|limit| limit.rules[1].rate = rate);
    let field = || "limits[per-key].rate".to_owned();
    for (rate, reason) in [
        (rate(0, 1_000, 1), "OutOfRange"),
        (rate(1, 0, 1), "OutOfRange"),
        (rate(1, 1_000, 0), "OutOfRange"),
        (rate(MAX_REQUESTS + 1, 1_000_000, 1), "OutOfRange"),
        (rate(u32::MAX, u64::MAX, u32::MAX), "OutOfRange"),
        (rate(1, 31 * 24 * 3_600 * 1_000 + 1, 1), "OutOfRange"),
        (rate(1, 1_000, MAX_BURST + 1), "OutOfRange"),
        (rate(1_001, 1, 1), "TooFast"),
        (rate(1, 24 * 3_600 * 1_000, 367), "TooLarge"),
    ] {
        assert_eq!(changed(rate), (field(), reason), "{rate:?}");
    }
    assert_eq!(refused(|limit| limit.rules[0].rate.burst = 0).0, "limits[per-key].rules[writes].rate");
}

#[test]
fn a_rate_at_its_bounds_is_taken_and_never_rounded_to_a_faster_one() {
    for (requests, per_ms) in [(1_000, 1), (MAX_REQUESTS, 1_000), (3, 1_000), (7, 60_000), (1, 31 * 24 * 3_600 * 1_000)]
    {
        let rate = Rate::new(requests, Duration::from_millis(per_ms), 1).unwrap();
        let whole = rate.interval() * requests;
        assert!(whole >= rate.per() && whole < rate.per() + Duration::from_nanos(requests.into()), "{rate:?}");
    }
}

#[test]
fn a_weight_that_no_bucket_holds_is_refused() {
    assert_eq!(
        refused(|limit| limit.costs = vec![cost(1), cost(6)]),
        ("limits[per-key].costs[1].cost".into(), "NeverPasses")
    );
}

#[test]
fn names_are_unique() {
    let error = Settings::try_from(&policy(vec![limit("one"), limit("two"), limit("one")])).unwrap_err();
    assert_eq!((error.field(), error.reason()), ("limits[2].name", "DuplicateName"));
    let twice = refused(|limit| limit.rules[0].name = String::new());
    assert_eq!(twice, ("limits[per-key].rules[1].name".into(), "DuplicateName"));
}

#[test]
fn lists_are_bounded_and_not_empty() {
    let of =
        |limits: usize| Settings::try_from(&policy((0..limits).map(|number| limit(&number.to_string())).collect()));
    assert!(of(MAX_LIMITS).is_ok());
    assert_eq!(of(0).unwrap_err().field(), "limits");
    assert_eq!(of(MAX_LIMITS + 1).unwrap_err().field(), "limits");
    let out_of_range = |field: &str| (field.to_owned(), "OutOfRange");
    assert_eq!(refused(|limit| limit.rules.clear()), out_of_range("limits[per-key].rules"));
    assert_eq!(
        refused(|limit| limit.rules = vec![rule("", rate(1, 1, 1)); MAX_RULES + 1]),
        out_of_range("limits[per-key].rules")
    );
    assert_eq!(refused(|limit| limit.costs = vec![cost(1); MAX_COSTS + 1]), out_of_range("limits[per-key].costs"));
    assert_eq!(
        refused(|limit| limit.key = vec![KeyPart::Path; MAX_KEY_PARTS + 1]),
        out_of_range("limits[per-key].key")
    );
}

#[test]
fn the_number_of_buckets_is_bounded() {
    for keys in [0, 1_000_001, u32::MAX] {
        let mut policy = policy(vec![limit("per-key")]);
        policy.max_tracked_keys = keys;
        let error = Settings::try_from(&policy).unwrap_err();
        assert_eq!((error.field(), error.reason()), ("maxTrackedKeys", "OutOfRange"));
    }
}

#[test]
fn an_ipv6_prefix_is_1_to_128_bits() {
    for ipv6_prefix in [0, 129] {
        let part = KeyPart::ClientIp(ClientIp { trusted_hops: 0, ipv6_prefix });
        assert_eq!(
            refused(|limit| limit.key = vec![KeyPart::Path, part]).0,
            "limits[per-key].key[1].clientIP.ipv6Prefix"
        );
    }
}

#[test]
fn what_happens_beyond_a_limit_is_bounded() {
    let delay = |max_delay_ms, max_queued| Some(Delay { max_delay_ms, max_queued, priority_header: None });
    let day = u64::try_from(MAX_BLOCK.as_millis()).unwrap();
    let longest = u64::try_from(MAX_DELAY.as_millis()).unwrap();
    for block in [0, day + 1, u64::MAX] {
        assert_eq!(
            refused(|limit| limit.on_exceed.block_for_ms = Some(block)).0,
            "limits[per-key].onExceed.blockForMs"
        );
    }
    for (delay, field) in [
        (delay(0, 1), "maxDelayMs"),
        (delay(longest + 1, 1), "maxDelayMs"),
        (delay(1, 0), "maxQueued"),
        (delay(1, MAX_QUEUED + 1), "maxQueued"),
    ] {
        assert_eq!(refused(|limit| limit.on_exceed.delay = delay).0, format!("limits[per-key].onExceed.delay.{field}"));
    }
    let both = refused(|limit| {
        limit.on_exceed = config::Exceed { block_for_ms: Some(1), delay: delay(1, 1) };
    });
    assert_eq!(both, ("limits[per-key].onExceed.blockForMs".into(), "Excluded"));
}

#[test]
fn scope_shared_needs_a_store_and_side_server_and_does_not_wait() {
    let field = "limits[per-key].scope Shared";
    assert_eq!(refused(|limit| limit.scope = LimitScope::Shared), (field.into(), "Missing"));
    let store = config::RedisStore {
        topology: config::RedisTopology::Single { address: "redis:6379".into() },
        database: 0,
        username: None,
        password: None,
        tls: None,
        key_prefix: "fusebox".into(),
        timeout_ms: 20,
    };
    let shared = Limit { scope: LimitScope::Shared, ..limit("per-key") };
    let mut policy = RateLimit { store: Some(store), ..policy(vec![shared]) };
    assert!(Settings::try_from(&policy).is_ok());
    policy.side = Side::Client;
    let error = Settings::try_from(&policy).unwrap_err();
    assert_eq!((error.field(), error.reason()), (field, "Excluded"));
    policy.side = Side::Server;
    policy.limits[0].on_exceed.delay = Some(Delay { max_delay_ms: 1, max_queued: 1, priority_header: None });
    assert_eq!(Settings::try_from(&policy).unwrap_err().reason(), "Excluded");
}

#[test]
fn replicas_together_get_no_more_than_the_rate_and_each_can_let_one_request_pass() {
    let replicas = |number: u32| std::num::NonZeroU32::new(number).unwrap();
    let rate = per_second(100, 10);
    for number in [1, 2, 3, 7, 10] {
        let part = rate.shared_by(replicas(number), 1);
        assert_eq!(part.interval(), rate.interval() * number);
        assert!(part.burst() * number <= rate.burst() && part.burst() >= 1);
    }
    assert_eq!(rate.shared_by(replicas(1_000), 1).burst(), 1);
    assert_eq!(rate.shared_by(replicas(5), 4).burst(), 4, "one request of the greatest weight");
    assert_eq!(rate.shared_by(replicas(5), 40).burst(), 10, "never more than the whole");
    let slowest = Rate::new(1, MAX_PERIOD, 11).unwrap().shared_by(replicas(u32::MAX), 1);
    assert!(slowest.fill() <= MAX_FILL);
}
