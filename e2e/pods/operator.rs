//! What running applications notice of the operator's absence: nothing; and how soon another one takes the lead.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fusebox_testkit::eventually;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use fusebox_e2e::stage::{PATIENCE, SYSTEM_NAMESPACE, Sidecars, Stage, on_stage};

const OPERATOR: &str = "deployment/fusebox-operator";
/// A lease of 15 s and 5 s of grace.
const NEW_LEADER_WITHIN: Duration = Duration::from_secs(20);
/// How many requests pass without an operator.
const REQUESTS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn requests_under_way_notice_nothing_of_the_operators_end() -> Result<()> {
    on_stage("operator-gone", Sidecars::Transparent, async |stage| {
        stage.payments((2, 1), "trip: {consecutiveFailures: 3}, open: {baseDuration: 3s}").await?;
        let outcome = without_operator(stage).await;
        system(stage, &["scale", OPERATOR, "--replicas=2"]).await?;
        system(stage, &["rollout", "status", OPERATOR, "--timeout=90s"]).await?;
        outcome
    })
    .await
}

async fn without_operator(stage: &Stage) -> Result<()> {
    let web = stage.pod_names("web").await?.pop().context("no client")?;
    let before = stage.answers(&web).await?.len();
    system(stage, &["scale", OPERATOR, "--replicas=0"]).await?;
    system(
        stage,
        &["wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=fusebox-operator", "--timeout=90s"],
    )
    .await?;
    let gone = stage.answers(&web).await?.len();
    stage.goes_on(&web, (gone, REQUESTS)).await?;
    println!("{} requests, none lost, {REQUESTS} of them without an operator", stage.all_well(&web, before).await?);
    // Breakers go on deciding by themselves.
    let servers = stage.pod_names("payments").await?;
    for pod in &servers {
        stage.break_pod(pod).await?;
    }
    stage.hears("web", (503, "circuit-open")).await?;
    for pod in &servers {
        stage.mend_pod(pod).await?;
    }
    stage.hears("web", (200, "")).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn another_operator_acts_soon_after_the_leader_was_deleted_by_force() -> Result<()> {
    on_stage("leader", Sidecars::None, async |stage| {
        let holder = leader(stage).await?;
        // The identity is the pod's name and a word for the process.
        let pod = holder.split_once('_').map_or(holder.as_str(), |(pod, _)| pod);
        system(stage, &["delete", "pod", pod, "--grace-period=0", "--force"]).await?;
        let started = Instant::now();
        // The old one has a moment to go on in; only then is what is written the new one's.
        eventually(PATIENCE, "another operator leads", async || {
            let now = leader(stage).await?;
            ensure!(now != holder, "{now} still does");
            Ok(())
        })
        .await?;
        stage.protect("payments", "trip: {consecutiveFailures: 3}").await?;
        eventually(PATIENCE, "another operator acts", async || {
            let status = stage.policy("payments").await?.status.unwrap_or_default();
            ensure!(!status.conditions.is_empty(), "the new policy has no conditions yet");
            Ok(())
        })
        .await?;
        let took = started.elapsed();
        println!("another operator acts after {took:.1?}");
        ensure!(took <= NEW_LEADER_WITHIN, "it took {took:?}");
        system(stage, &["rollout", "status", OPERATOR, "--timeout=90s"]).await.map(drop)
    })
    .await
}

/// The pod that holds the operators' lease.
async fn leader(stage: &Stage) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), SYSTEM_NAMESPACE);
    let list = leases.list(&kube::api::ListParams::default()).await?;
    let holders: Vec<String> = list.into_iter().filter_map(|lease| lease.spec?.holder_identity).collect();
    let held = holders.into_iter().find(|holder| holder.starts_with("fusebox-operator"));
    held.context("no operator holds a lease")
}

async fn system(stage: &Stage, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["--namespace", SYSTEM_NAMESPACE];
    all.extend(arguments);
    stage.kubectl(&all).await
}
