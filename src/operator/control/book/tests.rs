//! The book's rules, with events and instants made up.

use fusebox_compiler::Kind;
use fusebox_policy::config::{
    BreakerKey, LimitKey, Mode, PolicyId, PolicyVersion, Reference, ReferenceKind, Side, TargetId,
};
use fusebox_policy::report::{BlockedClient, BreakerReport, BreakerState, BrokenReference, LimitReport, ProxyReport};

use super::super::event::{Acknowledgement, Rejection};
use super::*;

fn pod(uid: &str) -> PodRef {
    PodRef { namespace: "shop".into(), name: format!("web-{uid}"), uid: uid.into() }
}

fn workload() -> WorkloadId {
    WorkloadId { namespace: "shop".into(), kind: "Deployment".into(), name: "web".into() }
}

fn policy(name: &str) -> PolicyId {
    PolicyId { namespace: "shop".into(), name: name.into() }
}

fn connected(uid: &str, since_unix_ms: i64) -> ProxyEvent {
    let connection = Connection { workload: workload(), version: "1".into(), since_unix_ms, enforced: None };
    ProxyEvent { pod: pod(uid), happened: Happened::Connected(connection) }
}

fn happened(uid: &str, happened: Happened) -> ProxyEvent {
    ProxyEvent { pod: pod(uid), happened }
}

fn breaker(name: &str, port: u16, state: BreakerState) -> BreakerReport {
    let target = TargetId { kind: "Service".into(), namespace: "shop".into(), name: "web".into(), section: "".into() };
    BreakerReport {
        key: BreakerKey {
            policy: policy(name),
            target,
            side: Side::Client,
            port,
            rule: String::new(),
            endpoint: String::new(),
        },
        state,
        forced: None,
        mode: Mode::Enforce,
        since_unix_ms: 1,
        failure_percent: None,
        slow_percent: None,
        trips: 0,
        last_trip_unix_ms: None,
        rejected: 0,
        reason: String::new(),
        next_probe_unix_ms: None,
    }
}

/// A limit with as many blocked clients as are reported.
fn limit(name: &str, port: u16) -> LimitReport {
    let target = TargetId { kind: "Service".into(), namespace: "shop".into(), name: "web".into(), section: "".into() };
    let key = LimitKey {
        policy: policy(name),
        target,
        side: Side::Server,
        port,
        limit: "per-key".into(),
        rule: String::new(),
    };
    let blocked =
        BlockedClient { key: "0123456789abcdef".into(), since_unix_ms: 1, until_unix_ms: 2, refused: u64::MAX };
    LimitReport {
        key,
        mode: Mode::Enforce,
        allowed: 1,
        limited: 2,
        delayed: 0,
        recent: None,
        last_limited_unix_ms: None,
        tracked_keys: 3,
        blocked_clients: 10,
        top_blocked: vec![blocked; fusebox_policy::report::MAX_TOP_BLOCKED],
        store_lost_since_unix_ms: None,
        store_error: String::new(),
    }
}

fn broken() -> BrokenReference {
    let reference = Reference {
        kind: ReferenceKind::ConfigMap,
        namespace: "shop".into(),
        name: "quotas".into(),
        key: "quotas.yaml".into(),
    };
    BrokenReference { reference, problem: "line 1 is no quota".into() }
}

fn reported(uid: &str, full: bool, breakers: Vec<BreakerReport>) -> ProxyEvent {
    happened(uid, Happened::Reported(ProxyReport { full, breakers, ..ProxyReport::default() }))
}

fn states(book: &ReportBook, uid: &str) -> Vec<(String, BreakerState)> {
    let state = book.get(uid).unwrap();
    state.breakers.iter().map(|(key, report)| (key.policy.name.clone(), report.state)).collect()
}

#[test]
fn changes_are_merged_and_a_full_report_replaces() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    book.record(reported("a", true, vec![breaker("x", 1, BreakerState::Closed)]), now);
    book.record(reported("a", false, vec![breaker("y", 1, BreakerState::Open)]), now);
    assert_eq!(states(&book, "a"), [("x".into(), BreakerState::Closed), ("y".into(), BreakerState::Open)]);
    book.record(reported("a", true, vec![breaker("y", 1, BreakerState::HalfOpen)]), now);
    assert_eq!(states(&book, "a"), [("y".into(), BreakerState::HalfOpen)]);
}

#[test]
fn a_report_without_a_stream_is_refused() {
    let (book, now) = (ReportBook::new(), Instant::now());
    assert_eq!(book.record(reported("a", true, vec![]), now), Taken::Unconnected);
    assert!(book.snapshot().is_empty());
}

#[test]
fn breakers_beyond_the_bound_are_dropped_and_counted() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    let many = (0..=MAX_BREAKERS).map(|port| breaker("x", u16::try_from(port).unwrap(), BreakerState::Open)).collect();
    assert_eq!(book.record(reported("a", true, many), now), Taken::Cut(1));
    assert_eq!(book.get("a").unwrap().breakers.len(), MAX_BREAKERS);
}

#[test]
fn limits_are_kept_within_their_bound_and_only_while_their_own_kind_is_enforced() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    let many = (0..=MAX_LIMITS).map(|port| limit("x", u16::try_from(port).unwrap())).collect();
    let report = |limits| ProxyReport { full: true, limits, ..ProxyReport::default() };
    assert_eq!(book.record(happened("a", Happened::Reported(report(many))), now), Taken::Cut(1));
    assert_eq!(book.get("a").unwrap().limits.len(), MAX_LIMITS);
    assert!(book.take_changes().policies.contains(&Kind::RateLimit.key(&policy("x"))));
    let namesake =
        PolicyVersion { kind: "CircuitBreakerPolicy".into(), id: policy("x"), uid: "u".into(), generation: 1 };
    let acknowledgement = Acknowledgement { revision: "3".into(), policies: vec![namesake] };
    book.record(happened("a", Happened::Acknowledged(acknowledgement)), now);
    assert!(book.get("a").unwrap().limits.is_empty(), "a breaker of the same name is another policy");
}

#[test]
fn values_that_cannot_be_used_are_those_of_the_last_report() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    let report = |broken: Vec<BrokenReference>| {
        happened("a", Happened::Reported(ProxyReport { broken_references: broken, ..ProxyReport::default() }))
    };
    book.record(report(vec![broken()]), now);
    let _ = book.take_changes();
    book.record(report(vec![broken()]), now);
    assert_eq!(book.take_changes(), Changes::default(), "nothing new");
    let (state, _) = book.follow();
    let mirror = ReportBook::new();
    for event in state {
        mirror.record_from(&Source::Peer("me".into()), event, now);
    }
    assert_eq!(mirror.get("a").unwrap().broken_references, [broken()]);
    book.record(report(vec![]), now);
    assert!(book.get("a").unwrap().broken_references.is_empty());
    assert_eq!(book.take_changes().workloads, BTreeSet::from([workload()]));
}

#[test]
fn a_whole_book_of_one_pod_goes_to_the_leader_in_lines_that_it_takes() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    let breakers = (0..MAX_BREAKERS).map(|port| breaker("x", u16::try_from(port).unwrap(), BreakerState::Open));
    let limits = (0..MAX_LIMITS).map(|port| limit("y", u16::try_from(port).unwrap()));
    let report = ProxyReport {
        full: true,
        breakers: breakers.collect(),
        limits: limits.collect(),
        broken_references: vec![broken()],
    };
    book.record(happened("a", Happened::Reported(report)), now);
    let (state, _) = book.follow();
    let longest = state.iter().map(|event| serde_json::to_vec(event).unwrap().len()).max().unwrap();
    assert!(longest < fusebox_policy::stream::MAX_LINE_UP, "{longest}");
    let mirror = ReportBook::new();
    for event in state {
        mirror.record_from(&Source::Peer("me".into()), event, now);
    }
    let (own, theirs) = (book.get("a").unwrap(), mirror.get("a").unwrap());
    assert_eq!((&own.breakers, &own.limits), (&theirs.breakers, &theirs.limits));
}

#[test]
fn a_lost_pod_counts_as_connected_for_the_grace_and_no_longer() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    book.record(happened("a", Happened::Disconnected), now);
    book.expire(now + RECONNECT_GRACE / 2);
    assert!(book.get("a").is_some());
    book.expire(now + RECONNECT_GRACE);
    assert!(book.get("a").is_none());
}

#[test]
fn a_reconnect_within_the_grace_keeps_the_breakers() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    book.record(reported("a", true, vec![breaker("x", 1, BreakerState::Open)]), now);
    book.record(happened("a", Happened::Disconnected), now);
    book.record_from(&Source::Peer("b".into()), connected("a", 2), now);
    book.expire(now + RECONNECT_GRACE);
    assert_eq!(states(&book, "a"), [("x".into(), BreakerState::Open)]);
}

#[test]
fn a_deleted_pod_is_forgotten_at_once_everywhere() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    book.record_from(&Source::Peer("b".into()), connected("a", 2), now);
    book.record(happened("a", Happened::Deleted), now);
    assert!(book.get("a").is_none());
}

#[test]
fn a_living_stream_beats_a_lost_one_and_the_newest_beats_older_ones() {
    let (book, now) = (ReportBook::new(), Instant::now());
    let (b, c) = (Source::Peer("b".into()), Source::Peer("c".into()));
    book.record_from(&b, connected("a", 3), now);
    book.record_from(&c, connected("a", 2), now);
    assert_eq!(book.get("a").unwrap().connection.since_unix_ms, 3);
    book.lose(&b, now);
    assert_eq!(book.get("a").unwrap().connection.since_unix_ms, 2);
}

#[test]
fn an_acknowledgement_clears_the_rejection_and_forgets_policies_that_are_gone() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    book.record(
        reported("a", true, vec![breaker("x", 1, BreakerState::Open), breaker("y", 1, BreakerState::Open)]),
        now,
    );
    let rejection = Rejection { revision: "2".into(), error: "no".into(), policies: vec![] };
    book.record(happened("a", Happened::Refused(rejection)), now);
    assert!(book.get("a").unwrap().rejected.is_some());
    let kept = PolicyVersion { kind: "CircuitBreakerPolicy".into(), id: policy("y"), uid: "u".into(), generation: 1 };
    let acknowledgement = Acknowledgement { revision: "3".into(), policies: vec![kept] };
    book.record(happened("a", Happened::Acknowledged(acknowledgement)), now);
    assert!(book.get("a").unwrap().rejected.is_none());
    assert_eq!(states(&book, "a"), [("y".into(), BreakerState::Open)]);
}

#[test]
fn changes_name_policies_and_workloads_once() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    book.record(reported("a", true, vec![breaker("x", 1, BreakerState::Open)]), now);
    let changes = book.take_changes();
    assert_eq!(changes.workloads, BTreeSet::from([workload()]));
    assert_eq!(changes.policies, BTreeSet::from([Kind::CircuitBreakerPolicy.key(&policy("x"))]));
    assert_eq!(book.take_changes(), Changes::default());
}

#[test]
fn a_follower_gets_the_state_and_then_every_event() {
    let (book, now) = (ReportBook::new(), Instant::now());
    book.record(connected("a", 1), now);
    book.record(reported("a", true, vec![breaker("x", 1, BreakerState::Open)]), now);
    let (state, mut events) = book.follow();
    book.record(reported("a", false, vec![breaker("x", 1, BreakerState::HalfOpen)]), now);
    book.record_from(&Source::Peer("b".into()), connected("z", 1), now);
    let mirror = ReportBook::new();
    for event in state {
        mirror.record_from(&Source::Peer("me".into()), event, now);
    }
    assert_eq!(states(&mirror, "a"), [("x".into(), BreakerState::Open)]);
    mirror.record_from(&Source::Peer("me".into()), (*events.try_recv().unwrap()).clone(), now);
    assert_eq!(states(&mirror, "a"), [("x".into(), BreakerState::HalfOpen)]);
    assert!(events.try_recv().is_err());
}
