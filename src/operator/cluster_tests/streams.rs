//! What goes over a stream: configurations down, acknowledgements and reports up, and what ends it.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use fusebox_policy::config::{BreakerKey, Mode, PolicyId, Side, TargetId};
use fusebox_policy::report::{BreakerReport, BreakerState, ProxyReport};
use fusebox_policy::stream::{MAX_LINE_UP, Up};
use fusebox_testkit::eventually;

use super::{AT_ONCE, Replica, SOON, breakers, config, entry, pods, version};
use crate::control::Sidecar;

/// A breaker of a policy, as a sidecar reports it.
pub(super) fn breaker(namespace: &str, policy: &str) -> BreakerReport {
    let (namespace, name) = (namespace.to_owned(), "web".to_owned());
    let target = TargetId { kind: "Service".into(), namespace: namespace.clone(), name, section: String::new() };
    let policy = PolicyId { namespace, name: policy.into() };
    BreakerReport {
        key: BreakerKey { policy, target, side: Side::Server, port: 80, rule: String::new(), endpoint: String::new() },
        state: BreakerState::Open,
        forced: None,
        mode: Mode::Enforce,
        since_unix_ms: 1,
        failure_percent: Some(50.0),
        slow_percent: None,
        trips: 1,
        last_trip_unix_ms: Some(1),
        rejected: 0,
        reason: "ConsecutiveFailures".into(),
        next_probe_unix_ms: None,
    }
}

#[tokio::test]
async fn a_stream_gets_its_configuration_and_every_change_at_once() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &["a"]).await?;
    let mut stream = replica.greet(&pod).await?;
    let (revision, first) = stream.configuration().await?;
    assert_eq!(first, *config(pod.namespace(), &["a"]));
    assert_eq!(revision, first.revision());
    let changed = Instant::now();
    replica.control.source.publish([config(pod.namespace(), &["a", "b"])])?;
    let (_, second) = stream.configuration().await?;
    assert_eq!(second, *config(pod.namespace(), &["a", "b"]));
    assert!(changed.elapsed() < AT_ONCE, "{:?}", changed.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_enforces_it_already_is_not_sent_it_again() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &["a"]).await?;
    let current = config(pod.namespace(), &["a"]);
    let mut stream = replica.open(&pod.control_token().await?).await?;
    let (revision, policies) = (Some(current.revision()), current.policies.clone());
    stream.send(&Up::Hello { version: "test".into(), revision, policies: policies.clone() }).await?;
    let connected = async || replica.control.book.get(pod.uid()).context("not connected");
    let state = eventually(SOON, "the pod is connected", connected).await?;
    assert_eq!(state.acknowledged.clone().context("nothing enforced")?.policies, policies);
    replica.control.source.publish([config(pod.namespace(), &["a", "b"])])?;
    let (_, next) = stream.configuration().await?;
    assert_eq!(next.policies.len(), 2, "the first thing sent is the change");
    Ok(())
}

#[tokio::test]
async fn what_is_not_bound_to_the_pod_counts_for_nothing() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &["mine"]).await?;
    let mut stream = replica.greet(&pod).await?;
    let (revision, _) = stream.configuration().await?;
    let namespace = pod.namespace();
    let future = fusebox_policy::config::PolicyVersion { generation: 3, ..version(namespace, "mine") };
    let policies = vec![version(namespace, "mine"), version(namespace, "foreign"), future];
    stream.send(&Up::Ack { revision, policies }).await?;
    let reported = vec![breaker(namespace, "mine"), breaker(namespace, "foreign")];
    stream.send(&Up::Report(ProxyReport { full: true, breakers: reported, ..ProxyReport::default() })).await?;
    eventually(SOON, "the own policy's report is in the book", async || {
        ensure!(breakers(&replica.control.book)[pod.name()] == ["mine"], "{:?}", breakers(&replica.control.book));
        Ok(())
    })
    .await?;
    let state = replica.control.book.get(pod.uid()).context("not connected")?;
    assert_eq!(state.acknowledged.clone().context("no ack")?.policies, [version(namespace, "mine")]);
    assert_eq!(replica.control.metrics.reports_dropped.with_label_values(&["PolicyNotBound"]).get(), 1);
    Ok(())
}

#[tokio::test]
async fn a_refused_configuration_is_kept_with_the_sidecars_words() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &["a"]).await?;
    let mut stream = replica.greet(&pod).await?;
    let (revision, _) = stream.configuration().await?;
    stream.send(&Up::Nack { revision, error: "rules[0]: ".to_owned() + &"é".repeat(2_000) }).await?;
    let rejected = eventually(SOON, "the refusal is in the book", async || {
        replica.control.book.get(pod.uid()).and_then(|state| state.rejected.clone()).context("not yet")
    })
    .await?;
    assert_eq!(rejected.policies, [version(pod.namespace(), "a")]);
    assert!(rejected.error.starts_with("rules[0]") && rejected.error.len() <= 1024);
    Ok(())
}

#[tokio::test]
async fn a_stream_ends_with_its_pod() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &["a"]).await?;
    let mut stream = replica.greet(&pod).await?;
    stream.configuration().await?;
    let deleted = Instant::now();
    replica.control.directory.remove(pod.uid());
    stream.end().await?;
    assert!(deleted.elapsed() < AT_ONCE, "{:?}", deleted.elapsed());
    replica.ended("PodGone").await?;
    assert!(replica.control.book.get(pod.uid()).is_none());
    Ok(())
}

#[tokio::test]
async fn a_pod_that_loses_its_mark_loses_its_stream() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &["a"]).await?;
    let mut stream = replica.greet(&pod).await?;
    stream.configuration().await?;
    replica.control.directory.insert(entry(&pod, Sidecar::Absent));
    stream.end().await?;
    replica.ended("PodChanged").await
}

#[tokio::test]
async fn a_newer_stream_replaces_the_older_and_the_pod_stays_connected() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &["a"]).await?;
    let mut older = replica.greet(&pod).await?;
    older.configuration().await?;
    let mut newer = replica.greet(&pod).await?;
    newer.configuration().await?;
    older.end().await?;
    replica.ended("Replaced").await?;
    let state = replica.control.book.get(pod.uid()).context("not connected")?;
    assert_eq!(state.lost_for(Instant::now()), None);
    Ok(())
}

#[tokio::test]
async fn lines_that_are_wrong_end_the_stream_with_a_reason() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &["a"]).await?;
    let token = pod.control_token().await?;

    let mut stream = replica.open(&token).await?;
    stream.send(&Up::Pong).await?;
    stream.end().await?;
    replica.ended("HelloMissing").await?;

    let mut stream = replica.greet(&pod).await?;
    stream.send_bytes(b"{\"type\":\"ofANewerVersion\"}\n{\"type\":\"ack\"}\n".to_vec()).await?;
    stream.end().await?;
    replica.ended("LineMalformed").await?;

    let mut stream = replica.greet(&pod).await?;
    stream.send_bytes(vec![b'a'; MAX_LINE_UP + 1]).await?;
    stream.end().await?;
    replica.ended("LineTooLong").await?;

    let mut stream = replica.greet(&pod).await?;
    stream.send(&Up::Hello { version: "again".into(), revision: None, policies: vec![] }).await?;
    stream.end().await?;
    replica.ended("HelloTwice").await
}

#[tokio::test]
async fn a_shutdown_ends_the_streams() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &["a"]).await?;
    let mut stream = replica.greet(&pod).await?;
    stream.configuration().await?;
    replica.shutdown.cancel();
    stream.end().await?;
    replica.ended("Shutdown").await
}
