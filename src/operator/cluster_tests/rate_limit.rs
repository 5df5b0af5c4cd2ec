//! What belongs to rate limits on a stream: values and live replicas down, limits up, commands and their answers, also by a peer.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use fusebox_policy::config::{
    LimitKey, PolicyId, PolicyVersion, ProxyConfig, Reference, ReferenceKind, Side, TargetId,
};
use fusebox_policy::report::{BlockedClient, BrokenReference, LimitReport, ProxyReport};
use fusebox_policy::stream::{Answer, Command, Down, LiveReplicas, Search, TopKey, Up};
use fusebox_testkit::eventually;
use serde_json::json;

use super::leases::leads;
use super::peers::whole;
use super::{AT_ONCE, Replica, SOON, Stream, authority, entry, pods, workload};
use crate::control::{Entries, Holder, Secret, Sidecar, Source, Unanswered};

fn policy(namespace: &str, name: &str) -> PolicyId {
    PolicyId { namespace: namespace.into(), name: name.into() }
}

fn reference(namespace: &str, name: &str) -> Reference {
    Reference { kind: ReferenceKind::Secret, namespace: namespace.into(), name: name.into(), key: "quotas".into() }
}

/// A configuration of the workload `web` with RateLimit `limits` of the namespace `owner`, which names the Secret `quotas` there.
fn limited(namespace: &str, owner: &str) -> Arc<ProxyConfig> {
    let route = json!({"port": 8080, "rateLimit": {
        "policy": {"namespace": owner, "name": "limits"}, "side": "Server", "maxTrackedKeys": 1,
        "target": {"kind": "Service", "namespace": namespace, "name": "web"},
        "limits": [{"name": "all", "scope": "Shared", "quotas": {"source": reference(owner, "quotas")},
                    "rules": [{"rate": {"requests": 1, "perMs": 1000, "burst": 1}}]}],
    }});
    let mut config = ProxyConfig::empty(workload(namespace));
    let id = policy(owner, "limits");
    config.policies.push(PolicyVersion { kind: "RateLimit".into(), id, uid: "u".into(), generation: 1 });
    config.inbound.extend(serde_json::from_value(route));
    config.into()
}

fn entries(value: &str) -> Option<Entries> {
    Some(Entries::from([("quotas".to_owned(), Secret::new(value.to_owned()))]))
}

/// The next values that the stream is sent.
async fn values(stream: &mut Stream) -> Result<Vec<String>> {
    let values = |line| match line {
        Down::References { values } => Some(values.into_iter().map(|value| value.value).collect()),
        _ => None,
    };
    stream.next(values).await.context("no values came")
}

async fn replicas(stream: &mut Stream) -> Result<Vec<LiveReplicas>> {
    let replicas = |line| match line {
        Down::Replicas { policies } => Some(policies),
        _ => None,
    };
    stream.next(replicas).await.context("no counts came")
}

async fn command(stream: &mut Stream) -> Result<(u64, Command)> {
    let command = |line| match line {
        Down::Command { id, command } => Some((id, command)),
        _ => None,
    };
    stream.next(command).await.context("no command came")
}

fn report(namespace: &str, name: &str) -> LimitReport {
    let target =
        TargetId { kind: "Service".into(), namespace: namespace.into(), name: "web".into(), section: String::new() };
    let key = LimitKey {
        policy: policy(namespace, name),
        target,
        side: Side::Server,
        port: 8080,
        limit: "all".into(),
        rule: String::new(),
    };
    let blocked = BlockedClient { key: "k".repeat(1000), since_unix_ms: 1, until_unix_ms: 2, refused: 3 };
    LimitReport {
        key,
        mode: fusebox_policy::config::Mode::Enforce,
        allowed: 5,
        limited: 3,
        delayed: 0,
        recent: None,
        last_limited_unix_ms: None,
        tracked_keys: 1,
        blocked_clients: 20,
        top_blocked: vec![blocked; 20],
        store_lost_since_unix_ms: None,
        store_error: String::new(),
    }
}

fn top(namespace: &str) -> TopKey {
    TopKey {
        limit: report(namespace, "limits").key,
        key: "0123456789abcdef".into(),
        digest: "0123456789abcdef".into(),
        refused: 3,
        remaining: 0,
        blocked_until_unix_ms: Some(2),
    }
}

#[tokio::test]
async fn values_go_live_to_pods_of_the_policys_namespace_and_to_no_others() -> Result<()> {
    let ([own], [foreign]) = (pods().await?, pods().await?);
    let replica = Replica::ready(&[&own, &foreign], &[]).await?;
    let holder = Holder::of(&reference(own.namespace(), "quotas"));
    replica.control.references.set(&holder, entries("first"));
    replica
        .control
        .source
        .publish([limited(own.namespace(), own.namespace()), limited(foreign.namespace(), own.namespace())])?;
    let mut stream = replica.greet(&own).await?;
    stream.configuration().await?;
    assert_eq!(values(&mut stream).await?, ["first"]);
    let mut other = replica.greet(&foreign).await?;
    other.configuration().await?;

    let changed = Instant::now();
    replica.control.references.set(&holder, entries("second"));
    assert_eq!(values(&mut stream).await?, ["second"]);
    assert!(changed.elapsed() < AT_ONCE, "{:?}", changed.elapsed());
    replica.control.references.set(&holder, None);
    assert_eq!(values(&mut stream).await?, [""; 0], "what is gone is taken back");
    // Whatever it is told next comes after all that it could have been told.
    replica.control.source.publish([Arc::new(ProxyConfig::empty(workload(foreign.namespace())))])?;
    let first = other.next(|line| (!matches!(line, Down::Ping | Down::Replicas { .. })).then_some(line)).await?;
    ensure!(matches!(first, Down::Config { .. }), "a pod of another namespace was told a value: {first:?}");
    Ok(())
}

#[tokio::test]
async fn live_replicas_are_told_on_change_where_limits_are_shared() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &[]).await?;
    replica.control.source.publish([limited(pod.namespace(), pod.namespace())])?;
    let mut stream = replica.greet(&pod).await?;
    let id = policy(pod.namespace(), "limits");
    let told = |replicas| [LiveReplicas { policy: id.clone(), replicas }];
    assert_eq!(replicas(&mut stream).await?, told(1));
    replica.control.replicas.replace([(id.clone(), 3), (policy("other", "limits"), 9)].into());
    assert_eq!(replicas(&mut stream).await?, told(3));
    Ok(())
}

#[tokio::test]
async fn limits_and_broken_values_count_only_for_what_is_bound_to_the_pod() -> Result<()> {
    let [pod] = pods().await?;
    let namespace = pod.namespace();
    let replica = Replica::ready(&[&pod], &[]).await?;
    replica.control.source.publish([limited(namespace, namespace)])?;
    let mut stream = replica.greet(&pod).await?;
    stream.configuration().await?;
    let broken = |name| BrokenReference { reference: reference(namespace, name), problem: "p".repeat(2000) };
    let mut endless = report(namespace, "limits");
    endless.key.rule = "r".repeat(1000);
    let reported = ProxyReport {
        full: true,
        limits: vec![report(namespace, "limits"), report(namespace, "foreign"), endless],
        broken_references: vec![broken("quotas"), broken("foreign")],
        ..ProxyReport::default()
    };
    stream.send(&Up::Report(reported)).await?;
    let state = eventually(SOON, "the report is in the book", async || {
        let state = replica.control.book.get(pod.uid()).context("not connected")?;
        ensure!(!state.limits.is_empty(), "nothing reported");
        Ok(state)
    })
    .await?;
    let limits: Vec<_> = state.limits.values().collect();
    assert_eq!((limits.len(), limits[0].top_blocked.len(), limits[0].top_blocked[0].key.len()), (1, 10, 128));
    assert_eq!(state.broken_references.len(), 1);
    assert!(state.broken_references[0].problem.len() <= 512);
    assert_eq!(replica.control.metrics.reports_dropped.with_label_values(&["PolicyNotBound"]).get(), 2);
    Ok(())
}

#[tokio::test]
async fn a_command_is_answered_by_the_pod_that_was_asked_and_by_no_other() -> Result<()> {
    let [asked, other] = pods().await?;
    let namespace = asked.namespace();
    let replica = Replica::ready(&[&asked, &other], &[]).await?;
    replica.control.source.publish([limited(namespace, namespace)])?;
    let mut stream = replica.greet(&asked).await?;
    stream.configuration().await?;
    let mut forging = replica.greet(&other).await?;
    forging.configuration().await?;
    let ask = |policy: PolicyId| {
        let (commands, uid) = (replica.control.commands.clone(), asked.uid().to_owned());
        tokio::spawn(async move { commands.ask(&Source::Local, &uid, Command::TopKeys { policy, most: 10 }).await })
    };
    let waiting = ask(policy(namespace, "limits"));
    let (id, sent) = command(&mut stream).await?;
    assert_eq!(sent, Command::TopKeys { policy: policy(namespace, "limits"), most: 10 });
    forging.send(&Up::Answer { id, answer: Answer::TopKeys { keys: vec![] } }).await?;
    stream.send(&Up::Answer { id: id + 7, answer: Answer::TopKeys { keys: vec![] } }).await?;
    stream.send(&Up::Answer { id, answer: Answer::TopKeys { keys: vec![top(namespace)] } }).await?;
    assert_eq!(waiting.await??, Answer::TopKeys { keys: vec![top(namespace)] });

    let Answer::Failed { problem } = ask(policy(namespace, "another")).await?? else { bail!("it was asked") };
    assert_eq!(problem, "the sidecar does not enforce this policy");
    let silent = ask(policy(namespace, "limits"));
    command(&mut stream).await?;
    assert_eq!(silent.await?, Err(Unanswered::Late));
    replica.control.directory.remove(asked.uid());
    replica.ended("PodGone").await?;
    assert_eq!(ask(policy(namespace, "limits")).await?, Err(Unanswered::NotConnected));
    Ok(())
}

#[tokio::test]
async fn the_leader_asks_a_pod_that_is_connected_to_a_follower() -> Result<()> {
    let [pod] = pods().await?;
    let namespace = pod.namespace();
    let authority = authority()?;
    let leader = whole(&authority, "leader", &[&pod]).await?;
    leads(&leader.standing).await?;
    let follower = whole(&authority, "follower", &[&pod]).await?;
    for replica in [&leader.replica, &follower.replica] {
        replica.control.directory.replace([entry(&pod, Sidecar::Present)]);
        replica.control.source.publish([limited(namespace, namespace)])?;
    }
    let mut stream = follower.replica.greet(&pod).await?;
    stream.configuration().await?;
    let control = &leader.replica.control;
    let source = eventually(SOON, "the leader knows where the pod is", async || {
        control.book.source(pod.uid()).context("not connected")
    })
    .await?;
    assert_eq!(source, Source::Peer("follower".into()));
    let unblock = Command::Unblock {
        policy: policy(namespace, "limits"),
        key_digest: "0123456789abcdef".into(),
        search: Search::Watched,
    };
    let answering = async {
        let (id, sent) = command(&mut stream).await?;
        assert_eq!(sent, unblock);
        stream.send(&Up::Answer { id, answer: Answer::Unblocked { buckets: 2, searched: None } }).await
    };
    let (answer, answered) = tokio::join!(control.commands.ask(&source, pod.uid(), unblock.clone()), answering);
    answered?;
    assert_eq!(answer?, Answer::Unblocked { buckets: 2, searched: None });
    follower.replica.control.directory.remove(pod.uid());
    follower.replica.ended("PodGone").await?;
    assert_eq!(control.commands.ask(&source, pod.uid(), unblock.clone()).await, Err(Unanswered::NotConnected));
    Ok(())
}
