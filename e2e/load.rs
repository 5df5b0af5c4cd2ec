//! Breakers that trip a thousand times a second on many pods cost few status writes, and the last state is exact.
//!
//! A test program of its own, so that fifty busy proxies never run beside a test that waits for something.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use fusebox_e2e::{Fleet, OperatorOptions, Shop, Sidecar};
use fusebox_testkit::AuditEvent;
use fusebox_testkit::upstream::Behaviour;
use futures::future::try_join_all;
use http::StatusCode;

const PROXIES: usize = 50;
// The shortest open time is 100 ms, so that one breaker trips at most ten times a second.
const RULES: [&str; 4] = ["a", "b", "c", "d"];
const PERIOD: Duration = Duration::from_secs(10);
const BETWEEN_WRITES: Duration = Duration::from_secs(2);
const OPEN: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_trips_a_second_make_one_status_write_in_two_seconds() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let proxies = try_join_all((0..PROXIES).map(|_| shop.caller_with_sidecar(&fleet))).await?;
    shop.apply_policy(&fleet, "payments", &flapping_spec()).await?;
    for proxy in &proxies {
        proxy.enforces("payments").await?;
    }

    shop.upstream.set(Behaviour::FailPaths { ending: "/fail", status: StatusCode::INTERNAL_SERVER_ERROR });
    let begun = Instant::now();
    try_join_all(proxies.iter().flat_map(|proxy| RULES.map(|rule| flap(proxy, rule)))).await?;
    let trips: u64 = try_join_all(proxies.iter().map(trips_of)).await?.into_iter().sum();
    let a_second = trips as f64 / begun.elapsed().as_secs_f64();
    println!("{a_second:.0} trips a second");
    assert!(a_second > 300.0, "only {a_second} trips a second, so this shows little");

    // The last word: every breaker was left closed, and the sum of all trips stands in the status to the last one.
    shop.shows(&fleet, "payments", (".status.state", "Closed")).await?;
    shop.shows(&fleet, "payments", (".status.summary.trips", &trips.to_string())).await?;
    assert_paced(&status_writes(&fleet)?)
}

fn flapping_spec() -> String {
    let rule = |name| format!("{{name: {name}, match: {{path: {{type: PathPrefix, value: /{name}}}}}}}");
    let rules = RULES.map(rule).join(", ");
    format!(
        "trip: {{consecutiveFailures: 1}}, open: {{baseDuration: 100ms, maxDuration: 100ms, jitterPercent: 0}}, \
         halfOpen: {{successThreshold: 1}}, rules: [{rules}]"
    )
}

/// Trips one rule's breaker as often as its open time lets it, and leaves it closed.
async fn flap(proxy: &Sidecar, rule: &str) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PERIOD {
        proxy.get(&format!("/{rule}/fail")).await?;
        tokio::time::sleep(OPEN).await;
        while proxy.get(&format!("/{rule}/well")).await?.status != StatusCode::OK {
            tokio::time::sleep(OPEN / 20).await;
        }
    }
    Ok(())
}

async fn trips_of(proxy: &Sidecar) -> Result<u64> {
    let state = proxy.state().await?;
    let breakers = state["breakers"].as_array().cloned().unwrap_or_default();
    Ok(breakers.iter().filter_map(|breaker| breaker["trips"].as_u64()).sum())
}

fn status_writes(fleet: &Fleet) -> Result<Vec<AuditEvent>> {
    let mut writes = fleet.writes_of(fleet.operators[0].identity())?;
    writes.retain(|event| event.object.resource == "circuitbreakerpolicies" && event.object.subresource == "status");
    writes.sort_by_key(|event| event.request_received_timestamp);
    Ok(writes)
}

/// At most one write for each policy in any two seconds.
fn assert_paced(writes: &[AuditEvent]) -> Result<()> {
    anyhow::ensure!(writes.len() > 3, "only {} status writes", writes.len());
    println!("{} status writes in all", writes.len());
    let mut last = BTreeMap::new();
    for write in writes {
        let at = write.request_received_timestamp;
        if let Some(before) = last.insert(write.object.name.clone(), at) {
            let gap = Duration::try_from(at.duration_since(before))?;
            // The pace is kept by the operator's clock; a request may take a little longer to arrive than the one before.
            let slack = Duration::from_millis(200);
            anyhow::ensure!(gap + slack >= BETWEEN_WRITES, "two writes of {} within {gap:?}", write.object.name);
        }
    }
    Ok(())
}
