//! `make measure`: how fast a policy reaches the proxies, and how fast a trip reaches kubectl.
//!
//! Owns the rounds and the printed table. Nothing is asserted here: machines are noisy, and tests are never timed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fusebox_api::CircuitBreakerPolicy;
use fusebox_api::status::State;
use fusebox_e2e::{Fleet, OperatorOptions, Shop, Sidecar};
use fusebox_testkit::eventually;
use fusebox_testkit::load::Load;
use futures::TryStreamExt as _;
use futures::future::try_join_all;
use http::StatusCode;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};

const ROUNDS: usize = 100;
const PROXIES: usize = 10;
const GIVE_UP: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let proxies = try_join_all((0..PROXIES).map(|_| shop.caller_with_sidecar(&fleet))).await?;
    shop.apply_policy(&fleet, "payments", "trip: {consecutiveFailures: 1}, open: {baseDuration: 5m}").await?;
    for proxy in &proxies {
        proxy.enforces("payments").await?;
    }
    let policies: Api<CircuitBreakerPolicy> = Api::namespaced(fleet.client.clone(), &shop.namespace);

    println!("| what | rounds | p50 | p99 | max |\n|---|---|---|---|---|");
    row("policy applied -> enforced by one proxy", applied_to_enforced(&policies, &proxies[..1]).await?);
    row("override applied -> enforced by 10 proxies", override_to_enforced(&policies, &proxies).await?);
    row("trip -> status on the API server", trip_to_status(&fleet.client, &shop, &proxies[0]).await?);
    fail_fast(&policies, &proxies[0]).await
}

/// Switches a policy between Enforce and Shadow and waits until the proxy itself says that it does so.
async fn applied_to_enforced(policies: &Api<CircuitBreakerPolicy>, proxies: &[Sidecar]) -> Result<Vec<Duration>> {
    let mut samples = Vec::new();
    for round in 0..ROUNDS {
        let mode = if round % 2 == 0 { "Shadow" } else { "Enforce" };
        let begun = Instant::now();
        patch(policies, json!({"spec": {"mode": mode}})).await?;
        until(proxies, |state| state.to_string().contains(&format!("\"mode\":\"{mode}\""))).await?;
        samples.push(begun.elapsed());
    }
    Ok(samples)
}

async fn override_to_enforced(policies: &Api<CircuitBreakerPolicy>, proxies: &[Sidecar]) -> Result<Vec<Duration>> {
    let mut samples = Vec::new();
    for _ in 0..ROUNDS / 4 {
        let end = jiff::Timestamp::now() + Duration::from_secs(600);
        let force = json!({"state": "ForcedOpen", "until": format!("{end:.0}"), "reason": "measured"});
        let begun = Instant::now();
        patch(policies, json!({"spec": {"override": force}})).await?;
        answers(proxies, 503).await?;
        samples.push(begun.elapsed());
        patch(policies, json!({"spec": {"override": null}})).await?;
        answers(proxies, 200).await?;
    }
    Ok(samples)
}

/// From the answer that trips a breaker to the status event that a watch of the API server sees.
async fn trip_to_status(client: &Client, shop: &Shop, proxy: &Sidecar) -> Result<Vec<Duration>> {
    let policies: Api<CircuitBreakerPolicy> = Api::namespaced(client.clone(), &shop.namespace);
    let open = json!({"baseDuration": "1s", "maxDuration": "1s"});
    patch(&policies, json!({"spec": {"mode": "Enforce", "open": open, "halfOpen": {"successThreshold": 1}}})).await?;
    until_status(&policies, "every pod acknowledged the change", programmed).await?;
    let mut samples = Vec::new();
    for _ in 0..ROUNDS / 10 {
        answers(std::slice::from_ref(proxy), 200).await?;
        until_status(&policies, "the breakers are closed", |policy| state(policy) == Some(State::Closed)).await?;
        // The status was just written; the next write may follow two seconds later, as after a longer rest.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let events = watcher(policies.clone(), watcher::Config::default()).applied_objects();
        let mut events = std::pin::pin!(events);
        events.try_next().await?.context("the watch ended")?;
        shop.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
        let begun = Instant::now();
        proxy.get("/").await?;
        let opened = async {
            while state(&events.try_next().await?.context("the watch ended")?) != Some(State::PartiallyOpen) {}
            anyhow::Ok(())
        };
        tokio::time::timeout(GIVE_UP, opened).await.context("the status never said PartiallyOpen")??;
        samples.push(begun.elapsed());
        shop.upstream.set_status(StatusCode::OK);
    }
    Ok(samples)
}

fn state(policy: &CircuitBreakerPolicy) -> Option<State> {
    policy.status.as_ref()?.state
}

fn programmed(policy: &CircuitBreakerPolicy) -> bool {
    let conditions = policy.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| {
        condition.type_ == "Programmed"
            && condition.status == "True"
            && condition.observed_generation == policy.metadata.generation
    })
}

async fn fail_fast(policies: &Api<CircuitBreakerPolicy>, proxy: &Sidecar) -> Result<()> {
    let end = jiff::Timestamp::now() + Duration::from_secs(600);
    patch(
        policies,
        json!({"spec": {"override": {"state": "ForcedOpen", "until": format!("{end:.0}"), "reason": "measured"}}}),
    )
    .await?;
    answers(std::slice::from_ref(proxy), 503).await?;
    let report = Load::new(proxy.outbound(), 2_000, Duration::from_secs(10)).run().await?;
    println!("\nfail-fast while open, 2,000 requests/s for 10 s: {report}");
    Ok(())
}

async fn until_status(
    policies: &Api<CircuitBreakerPolicy>,
    what: &str,
    reached: impl Fn(&CircuitBreakerPolicy) -> bool,
) -> Result<()> {
    eventually(GIVE_UP, what, async || {
        let policy = policies.get("payments").await?;
        anyhow::ensure!(reached(&policy), "{:?}", policy.status);
        Ok(())
    })
    .await
}

async fn patch(policies: &Api<CircuitBreakerPolicy>, patch: Value) -> Result<()> {
    policies.patch("payments", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

async fn answers(proxies: &[Sidecar], wanted: u16) -> Result<()> {
    try_join_all(proxies.iter().map(async |proxy| {
        let begun = Instant::now();
        while proxy.get("/").await?.status != wanted {
            anyhow::ensure!(begun.elapsed() < GIVE_UP, "{} never answers {wanted}", proxy.pod.name());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }))
    .await
    .map(drop)
}

async fn until(proxies: &[Sidecar], reached: impl Fn(&Value) -> bool) -> Result<()> {
    let begun = Instant::now();
    for proxy in proxies {
        while !reached(&proxy.state().await?) {
            anyhow::ensure!(begun.elapsed() < GIVE_UP, "{} never gets there", proxy.pod.name());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}

fn row(what: &str, mut samples: Vec<Duration>) {
    samples.sort_unstable();
    let at = |share: usize| samples[(samples.len() * share / 100).min(samples.len() - 1)];
    println!("| {what} | {} | {:.0?} | {:.0?} | {:.0?} |", samples.len(), at(50), at(99), at(100));
}
