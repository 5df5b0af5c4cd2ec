//! Elections on a real API server, with short times.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fusebox_testkit::{Cluster, eventually};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::SOON;
use crate::certificates::{Certificates, Names, SECRET, Schedule, TlsSource, Trust};
use crate::health::Health;
use crate::lease::{ADDRESS_ANNOTATION, Candidate, GuardedError, Leadership, Role, Timing, client, run};
use crate::metrics::Metrics;

/// A replica as far as its lease goes.
pub(super) struct Standing {
    pub(super) leadership: Leadership,
    /// Ends it gracefully.
    pub(super) shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _guard: DropGuard,
}

pub(super) fn timing() -> Result<Timing> {
    Ok(Timing::new(Duration::from_millis(2_000), Duration::from_millis(250), Duration::from_millis(1_200))?)
}

/// Stands for election in the namespace.
pub(super) async fn stand(namespace: &str, name: &str, leadership: Leadership) -> Result<Standing> {
    stand_for(namespace, (name, timing()?), leadership).await
}

async fn stand_for(namespace: &str, (name, timing): (&str, Timing), leadership: Leadership) -> Result<Standing> {
    let client = client(Cluster::shared().await?.config().await?, &timing)?;
    let candidate = Candidate {
        namespace: namespace.to_owned(),
        name: "fusebox-operator".to_owned(),
        identity: name.to_owned(),
        address: format!("{name}.invalid:1"),
        timing,
    };
    Ok(stand_as(client, candidate, leadership))
}

pub(super) fn stand_as(client: kube::Client, candidate: Candidate, leadership: Leadership) -> Standing {
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(client, candidate, leadership.clone(), shutdown.clone()));
    Standing { leadership, _guard: shutdown.clone().drop_guard(), shutdown, task }
}

pub(super) async fn leads(standing: &Standing) -> Result<()> {
    eventually(SOON, "it leads", async || {
        ensure!(standing.leadership.may_write(Instant::now()), "{:?}", standing.leadership.role());
        Ok(())
    })
    .await
}

async fn namespace() -> Result<String> {
    Cluster::shared().await?.unique_namespace("lease").await
}

#[tokio::test]
async fn exactly_one_of_two_leads_and_the_other_knows_its_address() -> Result<()> {
    let namespace = namespace().await?;
    let first = stand(&namespace, "first", Leadership::new(&timing()?)).await?;
    leads(&first).await?;
    let second = stand(&namespace, "second", Leadership::new(&timing()?)).await?;
    let address = eventually(SOON, "the second follows", async || match second.leadership.role() {
        Role::Follower { leader: Some(leader) } => Ok(leader.address),
        role => anyhow::bail!("{role:?}"),
    })
    .await?;
    assert_eq!(address, "first.invalid:1");
    fusebox_testkit::consistently(timing()?.lease() * 2, "only the first leads", async || {
        ensure!(first.leadership.may_write(Instant::now()) && !second.leadership.may_write(Instant::now()));
        Ok(())
    })
    .await?;
    let refused = second.leadership.guard(async { Ok::<_, std::io::Error>(()) }).await;
    assert!(matches!(refused, Err(GuardedError::NotLeader)));
    Ok(())
}

#[tokio::test]
async fn a_killed_leader_is_replaced_after_its_lease_and_never_before_its_last_write() -> Result<()> {
    let namespace = namespace().await?;
    let first = stand(&namespace, "first", Leadership::new(&timing()?)).await?;
    leads(&first).await?;
    let second = stand(&namespace, "second", Leadership::new(&timing()?)).await?;
    first.task.abort();
    let killed = Instant::now();
    leads(&second).await?;
    let until = first.leadership.write_until().context("the first never led")?;
    assert!(Instant::now() > until + first.leadership.write_timeout(), "the first could still have written");
    assert!(killed.elapsed() < timing()?.lease() + Duration::from_secs(5), "{:?}", killed.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_leader_that_shuts_down_gives_its_lease_back_before_it_would_end() -> Result<()> {
    let namespace = namespace().await?;
    // Far longer than this test waits for anything.
    let long = Timing::new(5 * SOON, Duration::from_millis(250), SOON)?;
    let first = stand_for(&namespace, ("first", long), Leadership::new(&long)).await?;
    leads(&first).await?;
    let second = stand_for(&namespace, ("second", long), Leadership::new(&long)).await?;
    first.shutdown.cancel();
    leads(&second).await?;
    assert!(!first.leadership.may_write(Instant::now()));
    let leases: Api<Lease> = Api::namespaced(Cluster::shared().await?.client().await?, &namespace);
    let lease = leases.get("fusebox-operator").await?;
    let annotations = lease.metadata.annotations.context("no annotations")?;
    assert_eq!(annotations.get(ADDRESS_ANNOTATION).map(String::as_str), Some("second.invalid:1"));
    assert_eq!(lease.spec.and_then(|spec| spec.lease_transitions), Some(2));
    Ok(())
}

#[tokio::test]
async fn a_lease_that_another_took_is_lost_at_once() -> Result<()> {
    let namespace = namespace().await?;
    let first = stand(&namespace, "first", Leadership::new(&timing()?)).await?;
    leads(&first).await?;
    let leases: Api<Lease> = Api::namespaced(Cluster::shared().await?.client().await?, &namespace);
    let patch = serde_json::json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}});
    leases.patch("fusebox-operator", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(patch)).await?;
    eventually(SOON, "the first follows the thief", async || match first.leadership.role() {
        Role::Follower { leader: Some(leader) } if leader.identity == "thief" => Ok(()),
        role => anyhow::bail!("{role:?}"),
    })
    .await?;
    assert!(!first.leadership.may_write(Instant::now()));
    Ok(())
}

async fn certificates(namespace: &str, leadership: Leadership) -> Result<(TlsSource, DropGuard)> {
    let stop = CancellationToken::new();
    let certificates = Certificates {
        client: Cluster::shared().await?.client().await?,
        namespace: namespace.to_owned(),
        leadership,
        schedule: Schedule::default(),
        names: Names::new(namespace, []),
        trust: Trust::new(SOON),
        health: Health::starting([]),
        metrics: Metrics::new()?,
    };
    let (tls, keeping) = certificates.own(stop.clone());
    tokio::spawn(keeping);
    Ok((tls, stop.drop_guard()))
}

#[tokio::test]
async fn all_replicas_share_the_authority_that_the_leader_made() -> Result<()> {
    let namespace = namespace().await?;
    let (mut follower, _follows) = certificates(&namespace, Leadership::new(&timing()?)).await?;
    let first = stand(&namespace, "first", Leadership::new(&timing()?)).await?;
    leads(&first).await?;
    let (mut leader, _leads) = certificates(&namespace, first.leadership.clone()).await?;
    let (tls, others) = (leader.ready().await.context("no certificate")?, follower.ready().await.context("none")?);
    assert_eq!(tls.bundle(), others.bundle());
    let secrets: Api<Secret> = Api::namespaced(Cluster::shared().await?.client().await?, &namespace);
    let keys: Vec<String> = secrets.get(SECRET).await?.data.context("no data")?.into_keys().collect();
    assert_eq!(keys, ["ca.crt", "ca.key"]);
    Ok(())
}
