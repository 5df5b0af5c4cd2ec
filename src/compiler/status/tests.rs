//! Tests of what golden files can't show: a status over time, bounds, and the order of things.

use fusebox_api::operations::{CircuitBreakerState, Elsewhere, LiveState, OpenPods};
use fusebox_policy::config::{BreakerKey, LimitKey, PolicyId, WorkloadId};
use fusebox_policy::report::BreakerState;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::*;
use crate::check::File;
use crate::compile;
use crate::kind::Kind;
use crate::plan::Plan;

const MANIFESTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: shop}, spec: {clusterIP: 10.0.0.1, selector: {app: pay}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, uid: uid-cart, labels: {fusebox.dev/sidecar: injected}}, spec: {initContainers: [{name: fusebox-proxy, restartPolicy: Always}]}, status: {conditions: [{type: Ready, status: \"True\"}]}}
---
{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {name: guard, namespace: shop, uid: uid-guard, generation: 2}, spec: {targetRefs: [{name: pay}]}}
";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_772_366_400 + second).unwrap()
}

fn plan() -> Plan {
    let files = [File { name: "in.yaml", text: MANIFESTS }];
    compile(&crate::manifest::load(&files, at(0)).unwrap())
}

fn key(name: &str) -> PolicyKey {
    PolicyKey::new(Kind::CircuitBreakerPolicy, PolicyId { namespace: "shop".into(), name: name.into() })
}

/// The status of a breaker policy.
fn fold(
    plan: &PolicyPlan,
    reports: &Reports,
    now: Timestamp,
    previous: Option<&CircuitBreakerPolicyStatus>,
) -> CircuitBreakerPolicyStatus {
    let previous = previous.cloned().map(PolicyStatus::CircuitBreaker);
    match super::fold(plan, reports, now, previous.as_ref()) {
        PolicyStatus::CircuitBreaker(status) => status,
        PolicyStatus::RateLimit(status) => panic!("{status:?}"),
    }
}

fn guard(plan: &Plan) -> &PolicyPlan {
    &plan.policies[&key("guard")]
}

/// The one pod is heard, enforces the plan, and says this of its breaker.
fn heard(policy: &PolicyPlan, state: BreakerState) -> Reports {
    let report = PodReport {
        connection: Connection::Connected,
        acked: vec![policy.version.clone()],
        nack: None,
        breakers: vec![breaker(policy.pods["uid-cart"].keys.breakers.first().unwrap().clone(), state)],
        limits: Vec::new(),
        broken_references: Vec::new(),
    };
    Reports {
        pods: BTreeMap::from([("uid-cart".to_owned(), report)]),
        completeness: Completeness::Complete,
        monitoring: BTreeMap::new(),
        behind: BTreeMap::new(),
    }
}

fn breaker(key: BreakerKey, state: BreakerState) -> BreakerReport {
    BreakerReport {
        key,
        state,
        forced: None,
        mode: fusebox_policy::config::Mode::Enforce,
        since_unix_ms: at(0).as_millisecond(),
        failure_percent: Some(33.4),
        slow_percent: None,
        trips: 1,
        last_trip_unix_ms: None,
        rejected: 0,
        reason: "ConsecutiveFailures".into(),
        next_probe_unix_ms: None,
    }
}

fn condition<'a>(status: &'a CircuitBreakerPolicyStatus, kind: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.type_ == kind).unwrap()
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let plan = plan();
    let policy = guard(&plan);
    let first = fold(policy, &heard(policy, BreakerState::Open), at(0), None);
    let second = fold(policy, &heard(policy, BreakerState::HalfOpen), at(60), Some(&first));
    assert_eq!(condition(&second, "Tripped").last_transition_time.0, at(0));
    let third = fold(policy, &heard(policy, BreakerState::Closed), at(90), Some(&second));
    assert_eq!(condition(&third, "Tripped").last_transition_time.0, at(90));
    assert_eq!(condition(&third, "Ready").last_transition_time.0, at(0));
}

#[test]
fn the_same_input_gives_the_same_status_at_any_later_time() {
    let plan = plan();
    let policy = guard(&plan);
    let reports = heard(policy, BreakerState::Open);
    let first = fold(policy, &reports, at(0), None);
    assert_eq!(fold(policy, &reports, at(3_600), Some(&first)), first);
}

#[test]
fn an_open_breaker_is_tripped_and_ready() {
    let plan = plan();
    let policy = guard(&plan);
    let status = fold(policy, &heard(policy, BreakerState::Open), at(0), None);
    assert_eq!(condition(&status, "Tripped").status, "True");
    assert_eq!(condition(&status, "Ready").status, "True");
    assert_eq!(status.summary.unwrap().failure_percent, Some(33));
}

#[test]
fn a_new_listener_keeps_what_stands_until_pods_had_the_time_to_speak() {
    let plan = plan();
    let policy = guard(&plan);
    let before = fold(policy, &heard(policy, BreakerState::Open), at(0), None);
    let settling = fold(policy, &Reports::default(), at(5), Some(&before));
    assert_eq!((settling.state, &settling.targets), (before.state, &before.targets));
    assert_eq!(condition(&settling, "Programmed").status, "True");
    let complete = Reports { completeness: Completeness::Complete, ..Reports::default() };
    let after = fold(policy, &complete, at(30), Some(&settling));
    assert_eq!(after.state, Some(fusebox_api::status::State::Unknown));
    assert_eq!(condition(&after, "Programmed").reason, "Pending");
}

#[test]
fn a_refusal_of_an_older_revision_is_forgotten() {
    let plan = plan();
    let policy = guard(&plan);
    let mut reports = heard(policy, BreakerState::Closed);
    let nack = Nack { revision: "older".into(), error: "no".into() };
    reports.pods.get_mut("uid-cart").unwrap().nack = Some(nack);
    assert_eq!(condition(&fold(policy, &reports, at(0), None), "Programmed").status, "True");
}

#[test]
fn an_acknowledgement_of_an_older_generation_does_not_count() {
    let plan = plan();
    let policy = guard(&plan);
    let mut reports = heard(policy, BreakerState::Closed);
    reports.pods.get_mut("uid-cart").unwrap().acked[0].generation = 1;
    assert_eq!(condition(&fold(policy, &reports, at(0), None), "Programmed").reason, "Pending");
}

#[test]
fn a_breaker_of_another_policy_in_a_bound_pod_is_not_heard() {
    let plan = plan();
    let policy = guard(&plan);
    let mut reports = heard(policy, BreakerState::Open);
    reports.pods.get_mut("uid-cart").unwrap().breakers[0].key.policy.name = "other".into();
    let status = fold(policy, &reports, at(0), None);
    assert_eq!(status.state, Some(fusebox_api::status::State::Closed));
}

#[test]
fn more_targets_than_the_bound_are_left_out_and_said_so() {
    let mut files = MANIFESTS.to_owned();
    let rules: Vec<String> =
        (0..16).map(|index| format!("{{name: r{index}, match: {{path: {{value: /r{index}}}}}}}")).collect();
    let targets: Vec<String> = (0..16).map(|index| format!("{{name: s{index}}}")).collect();
    files += &format!(
        "---\n{{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {{name: big, namespace: shop}}, spec: {{targetRefs: [{}], rules: [{}]}}}}\n",
        targets.join(", "),
        rules.join(", ")
    );
    for index in 0..16 {
        files += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{index}, namespace: shop}}, spec: {{clusterIP: 10.0.1.{index}, ports: [{{port: 80}}]}}}}\n"
        );
    }
    let plan = compile(&crate::manifest::load(&[File { name: "in.yaml", text: &files }], at(0)).unwrap());
    let big = &plan.policies[&key("big")];
    let status = fold(big, &Reports::default(), at(0), None);
    assert_eq!((status.targets.len(), status.truncated), (fusebox_api::status::MAX_TARGETS, true));
    let workload = WorkloadId { namespace: "shop".into(), kind: "Pod".into(), name: "cart".into() };
    assert_eq!(plan.workloads[&workload].config.outbound.len(), 17);
}

/// What the one pod said, as somebody hears it who asks now.
fn live_of(policy: &PolicyPlan, breakers: Vec<BreakerReport>, acked: &[PolicyVersion]) -> CircuitBreakerState {
    let breakers = breakers.into_iter().map(|breaker| (breaker.key.clone(), breaker)).collect();
    let heard = Heard {
        connected: true,
        since_unix_ms: at(0).as_millisecond(),
        version: "0.1.0",
        revision: &policy.pods["uid-cart"].revision,
        policies: acked,
        refused: "",
        breakers: &breakers,
        limits: &BTreeMap::new(),
        broken: &[],
    };
    live(policy, &BTreeMap::from([("uid-cart", heard)]), Completeness::Complete)
}

#[test]
fn a_live_breaker_is_closed_only_on_a_pod_that_enforces_it() {
    let plan = plan();
    let policy = guard(&plan);
    let state = |told: &CircuitBreakerState| told.enforcers.pods[0].breakers[0].state;
    let silent = live(policy, &BTreeMap::new(), Completeness::Settling);
    assert!(
        state(&silent) == LiveState::Unknown && silent.enforcers.incomplete && !silent.enforcers.pods[0].connected,
        "{silent:?}"
    );
    assert_eq!(state(&live_of(policy, vec![], &[])), LiveState::Unknown);
    let acked = std::slice::from_ref(&policy.version);
    let closed = live_of(policy, vec![], acked);
    assert!(
        state(&closed) == LiveState::Closed && closed.enforcers.pods[0].current && !closed.enforcers.incomplete,
        "{closed:?}"
    );
    assert_eq!(closed.enforcers.pods[0].generation, Some(2));
}

#[test]
fn a_forced_breaker_shows_what_it_does_and_who_made_it() {
    let plan = plan();
    let policy = guard(&plan);
    let key = policy.pods["uid-cart"].keys.breakers.first().unwrap().clone();
    let forced = BreakerReport {
        forced: Some(fusebox_policy::config::ForcedState::ForcedOpen),
        ..breaker(key, BreakerState::Closed)
    };
    let told = live_of(policy, vec![forced], std::slice::from_ref(&policy.version));
    let shown = &told.enforcers.pods[0].breakers[0];
    assert_eq!((shown.state, shown.reason.as_str()), (LiveState::Open, "ForcedOpen"));
}

#[test]
fn pods_of_other_namespaces_are_counted_and_not_named() {
    let plan = plan();
    let mut policy = guard(&plan).clone();
    policy.pods.get_mut("uid-cart").unwrap().namespace = "bank".into();
    let told = live_of(&policy, vec![], std::slice::from_ref(&policy.version));
    assert!(told.enforcers.pods.is_empty() && !serde_json::to_string(&told).unwrap().contains("cart"), "{told:?}");
    let elsewhere = Elsewhere { namespace: "bank".into(), pods: 1, ready: 1, current: 1, more: OpenPods { open: 0 } };
    assert_eq!(told.enforcers.elsewhere, [elsewhere]);
}

const LIMITED: &str = "
{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: shop}, spec: {clusterIP: 10.0.0.1, selector: {app: pay}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pay, namespace: shop, uid: uid-pay, labels: {app: pay, fusebox.dev/sidecar: injected}}, spec: {initContainers: [{name: fusebox-proxy, restartPolicy: Always}]}, status: {conditions: [{type: Ready, status: \"True\"}]}}
---
{apiVersion: fusebox.dev/v1alpha1, kind: RateLimit, metadata: {name: limit, namespace: shop, generation: 2}, spec: {targetRefs: [{name: pay}], limits: [{name: all, rate: {requests: 60, per: 1m}}]}}
";

/// The plan of the one RateLimit.
fn limit() -> PolicyPlan {
    let files = [File { name: "in.yaml", text: LIMITED }];
    let plan = compile(&crate::manifest::load(&files, at(0)).unwrap());
    plan.policies.into_values().next().unwrap()
}

/// The one pod enforces the limit and says that it let so many pass, refused so many, all of late, and blocks so many.
fn limiting(policy: &PolicyPlan, (allowed, limited, blocked): (u64, u64, u64)) -> Reports {
    let last = (limited > 0).then(|| at(-1).as_millisecond());
    let more = serde_json::json!({"recent": {"allowed": allowed, "limited": limited}, "lastLimitedUnixMs": last});
    reporting(policy, (allowed, limited, blocked), &more)
}

/// The one pod enforces the limit and says this of it.
fn reporting(policy: &PolicyPlan, (allowed, limited, blocked): (u64, u64, u64), more: &serde_json::Value) -> Reports {
    let key = policy.pods["uid-pay"].keys.limits.first().unwrap().clone();
    let mut told = serde_json::json!({
        "key": key, "allowed": allowed, "limited": limited, "trackedKeys": 1, "blockedClients": blocked,
    });
    told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let told: LimitReport = serde_json::from_value(told).unwrap();
    let report = PodReport {
        connection: Connection::Connected,
        acked: vec![policy.version.clone()],
        nack: None,
        breakers: Vec::new(),
        limits: vec![told],
        broken_references: Vec::new(),
    };
    let pods = BTreeMap::from([("uid-pay".to_owned(), report)]);
    Reports { pods, completeness: Completeness::Complete, ..Reports::default() }
}

fn folded(policy: &PolicyPlan, reports: &Reports, second: i64, previous: Option<&PolicyStatus>) -> RateLimitStatus {
    super::fold(policy, reports, at(second), previous).rate_limit().unwrap().clone()
}

#[test]
fn a_new_listener_keeps_what_limits_did_until_pods_had_the_time_to_speak() {
    let policy = limit();
    let before = folded(&policy, &limiting(&policy, (1_000, 9_000, 3)), 0, None);
    let standing = PolicyStatus::RateLimit(before.clone());
    let settling = folded(&policy, &Reports::default(), 5, Some(&standing));
    assert_eq!((&settling.summary, &settling.targets), (&before.summary, &before.targets));
    assert_eq!(settling.conditions, before.conditions);
    let complete = Reports { completeness: Completeness::Complete, ..Reports::default() };
    let after = folded(&policy, &complete, 30, Some(&PolicyStatus::RateLimit(settling)));
    let counts = |status: &RateLimitStatus| (status.targets[0].allowed, status.summary.clone().unwrap().blocked);
    assert_eq!((counts(&before), counts(&after)), ((Some(1_000), Some(3)), (None, None)));
}

#[test]
fn more_requests_of_the_same_three_digits_are_no_new_status() {
    let policy = limit();
    let first = folded(&policy, &limiting(&policy, (123_400, 0, 0)), 0, None);
    let standing = PolicyStatus::RateLimit(first.clone());
    assert_eq!(folded(&policy, &limiting(&policy, (123_999, 0, 0)), 60, Some(&standing)), first);
    let blocked = folded(&policy, &limiting(&policy, (123_999, 1, 1)), 90, Some(&standing));
    assert!(limited_condition(&blocked).2.contains("1 request was refused in the last minute"), "{blocked:?}");
    let limited = blocked.conditions.iter().find(|it| it.type_ == "Limited").unwrap();
    assert_eq!((limited.status.as_str(), limited.last_transition_time.0), ("True", at(90)));
    assert_eq!(blocked.summary.unwrap().limited_percent, Some(1), "one refusal is not none");
}

fn limited_condition(status: &RateLimitStatus) -> (&str, &str, &str) {
    let found = status.conditions.iter().find(|it| it.type_ == "Limited").unwrap();
    (&found.status, &found.reason, &found.message)
}

#[test]
fn a_limit_is_limited_while_it_refused_of_late_and_not_for_what_was_long_ago() {
    let policy = limit();
    let last = serde_json::json!(at(-3).as_millisecond());
    let recent =
        |limited: u64| serde_json::json!({"recent": {"allowed": 30, "limited": limited}, "lastLimitedUnixMs": last});
    let late = folded(&policy, &reporting(&policy, (90, 910, 0), &recent(10)), 0, None);
    let words = "10 requests were refused in the last minute, the last at 2026-03-01T11:59:57Z; `fusebox limits limit` shows whose they were";
    assert_eq!(limited_condition(&late), ("True", "RequestsLimited", words));
    assert_eq!(
        late.summary.as_ref().unwrap().limited_percent,
        Some(25),
        "of the last minute, not since the pod started"
    );
    let (target, long_ago) =
        (&late.targets[0], folded(&policy, &reporting(&policy, (90, 910, 0), &recent(0)), 0, None));
    assert_eq!((target.limited, target.limited_recently, target.limited_percent), (Some(910), Some(10), Some(25)));
    assert_eq!(target.last_limited.as_ref().map(|it| it.0), Some(at(-3)));
    assert_eq!((limited_condition(&long_ago).0, limited_condition(&long_ago).1), ("False", "NoneLimited"));
    assert_eq!(long_ago.targets[0].last_limited, target.last_limited, "when it was is known all the same");
}

#[test]
fn a_sidecar_of_the_version_before_blocks_clients_as_ever_and_nothing_recent_is_made_up_for_it() {
    let policy = limit();
    let older = |counts| folded(&policy, &reporting(&policy, counts, &serde_json::json!({})), 0, None);
    let silent = older((90, 910, 0));
    assert_eq!((limited_condition(&silent).0, limited_condition(&silent).1), ("False", "NoneBlocked"));
    assert!(limited_condition(&silent).2.contains("older version"), "{silent:?}");
    let target = &silent.targets[0];
    assert_eq!((target.limited, target.limited_recently, target.limited_percent), (Some(910), None, None));
    assert_eq!(limited_condition(&older((90, 910, 2))).1, "ClientsBlocked");
}

#[test]
fn a_status_of_another_kind_is_none_that_stood() {
    let policy = limit();
    let other = PolicyStatus::CircuitBreaker(CircuitBreakerPolicyStatus::default());
    let reports = limiting(&policy, (1, 0, 0));
    assert_eq!(folded(&policy, &reports, 0, Some(&other)), folded(&policy, &reports, 0, None));
}

#[test]
fn an_acknowledgement_of_another_kind_of_that_name_does_not_count() {
    let policy = limit();
    let mut reports = limiting(&policy, (1, 0, 0));
    reports.pods.get_mut("uid-pay").unwrap().acked[0].kind = "CircuitBreakerPolicy".into();
    let status = folded(&policy, &reports, 0, None);
    assert_eq!((status.targets[0].pods.reporting, status.targets[0].allowed), (0, None));
}

#[test]
fn live_limits_beyond_the_bound_are_left_out_and_said_so() {
    use fusebox_api::operations::{MAX_LIMITS, State as _};
    let mut policy = limit();
    let keys = MAX_LIMITS / 2 + 1;
    let pod = policy.pods.get_mut("uid-pay").unwrap();
    let key = pod.keys.limits.first().unwrap().clone();
    std::sync::Arc::make_mut(&mut pod.keys).limits =
        (0..keys).map(|number| LimitKey { rule: format!("{number:05}"), ..key.clone() }).collect();
    let other = BoundPod { name: "pay-2".into(), ..pod.clone() };
    let live = |policy: &PolicyPlan| live_limits(policy, &BTreeMap::new(), &BTreeMap::new(), Completeness::Complete);
    let whole = live(&policy);
    assert!(!whole.enforcers.truncated && whole.size() == keys, "{} limits", whole.size());
    policy.pods.insert("uid-pay-2".into(), other);
    let cut = live(&policy);
    assert!(cut.enforcers.truncated && cut.size() == MAX_LIMITS, "{} limits", cut.size());
    assert_eq!(cut.enforcers.pods.iter().map(|pod| pod.limits.len()).collect::<Vec<_>>(), [keys, MAX_LIMITS - keys]);
}
