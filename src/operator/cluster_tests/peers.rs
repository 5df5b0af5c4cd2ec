//! What a follower's sidecars say reaches the leader, and goes when the follower does.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use fusebox_policy::report::ProxyReport;
use fusebox_policy::stream::Up;
use fusebox_testkit::pods::TestPod;
use fusebox_testkit::{Cluster, eventually};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::leases::{Standing, leads, stand_as, timing};
use super::streams::breaker;
use super::{Replica, SOON, authority, breakers, config, entry, pods};
use crate::certificates::Authority;
use crate::control::Sidecar;
use crate::lease::{Candidate, client};
use crate::peer::{Forwarder, forward};

/// A replica that stands for election and forwards.
pub(super) struct Whole {
    pub(super) replica: Replica,
    pub(super) standing: Standing,
    candidate: Candidate,
    forwarding: CancellationToken,
    _guard: DropGuard,
}

pub(super) async fn whole(authority: &Authority, identity: &str, pods: &[&TestPod]) -> Result<Whole> {
    let timing = timing()?;
    let replica = Replica::start(authority, &timing).await?;
    let namespace = pods.first().context("no pod")?.namespace();
    replica.control.directory.replace(pods.iter().map(|pod| entry(pod, Sidecar::Present)));
    replica.control.source.publish([config(namespace, &["a"])])?;
    let candidate = Candidate {
        namespace: namespace.to_owned(),
        name: "fusebox-operator".to_owned(),
        identity: identity.to_owned(),
        address: replica.address.to_string(),
        timing,
    };
    let client = client(Cluster::shared().await?.config().await?, &timing)?;
    let leadership = replica.control.leadership.clone();
    let standing = stand_as(client, candidate.clone(), leadership.clone());
    let forwarding = CancellationToken::new();
    let (book, tls) = (replica.control.book.clone(), replica.tls.clone());
    let commands = replica.control.commands.clone();
    let forwarder = Forwarder { book, commands, leadership, tls, identity: identity.to_owned() };
    tokio::spawn(forward(forwarder, forwarding.clone()));
    Ok(Whole { replica, standing, candidate, _guard: forwarding.clone().drop_guard(), forwarding })
}

async fn book_shows(replica: &Replica, pod: &TestPod, expected: &[&str]) -> Result<()> {
    eventually(SOON, "the book shows the pod's breakers", async || {
        let shown = breakers(&replica.control.book);
        ensure!(shown.get(pod.name()).is_some_and(|names| names == expected), "{shown:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_followers_sidecars_are_known_to_the_leader_and_to_the_next_one() -> Result<()> {
    let [early, late] = pods().await?;
    let authority = authority()?;
    let leader = whole(&authority, "leader", &[&early, &late]).await?;
    leads(&leader.standing).await?;
    let follower = whole(&authority, "follower", &[&early, &late]).await?;

    let full = |pod: &TestPod| {
        Up::Report(ProxyReport { full: true, breakers: vec![breaker(pod.namespace(), "a")], ..ProxyReport::default() })
    };
    let mut first = follower.replica.greet(&early).await?;
    first.send(&full(&early)).await?;
    book_shows(&leader.replica, &early, &["a"]).await?;
    let mut second = follower.replica.greet(&late).await?;
    second.send(&full(&late)).await?;
    book_shows(&leader.replica, &late, &["a"]).await?;

    // The follower falls silent: its pods are lost to the leader, and come back with it.
    follower.forwarding.cancel();
    eventually(SOON, "the leader lost the follower's pods", async || {
        let state = leader.replica.control.book.get(early.uid()).context("forgotten too soon")?;
        state.lost_for(Instant::now()).context("still connected")
    })
    .await?;

    // The leader goes: the follower leads, with its own sidecars in its book.
    leader.standing.shutdown.cancel();
    leads(&follower.standing).await?;
    book_shows(&follower.replica, &early, &["a"]).await
}

#[tokio::test]
async fn sidecars_of_a_leader_that_steps_down_reach_its_successor() -> Result<()> {
    let [pod] = pods().await?;
    let authority = authority()?;
    let leader = whole(&authority, "first", &[&pod]).await?;
    leads(&leader.standing).await?;
    let mut stream = leader.replica.greet(&pod).await?;
    let report = ProxyReport { full: true, breakers: vec![breaker(pod.namespace(), "a")], ..ProxyReport::default() };
    stream.send(&Up::Report(report)).await?;
    book_shows(&leader.replica, &pod, &["a"]).await?;
    let successor = whole(&authority, "second", &[&pod]).await?;
    leader.standing.shutdown.cancel();
    leads(&successor.standing).await?;
    // It stands again, as after a lost lease, and follows.
    let again = leader.candidate.clone();
    let client = client(Cluster::shared().await?.config().await?, &timing()?)?;
    let _standing = stand_as(client, again, leader.replica.control.leadership.clone());
    book_shows(&successor.replica, &pod, &["a"]).await
}

#[tokio::test]
async fn a_peer_of_another_authority_is_refused() -> Result<()> {
    let [pod] = pods().await?;
    let leader = whole(&authority()?, "leader", &[&pod]).await?;
    leads(&leader.standing).await?;
    let stranger = whole(&authority()?, "stranger", &[&pod]).await?;
    let mut stream = stranger.replica.greet(&pod).await?;
    stream.configuration().await?;
    fusebox_testkit::consistently(timing()?.lease(), "the leader knows nothing of it", async || {
        ensure!(leader.replica.control.book.snapshot().is_empty());
        Ok(())
    })
    .await
}
