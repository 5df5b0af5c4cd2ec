//! Who is limited about now: from a refused request to `kubectl get`, and a minute later to nobody, with hardly a write between.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fusebox_api::RateLimit;
use fusebox_api::rate_limit::RateLimitStatus;
use fusebox_e2e::fleet::PATIENCE;
use fusebox_e2e::{Fleet, OperatorOptions, Shop};
use fusebox_testkit::eventually;
use kube::Api;

/// For so long a client is refused again and again.
const CROWD: Duration = Duration::from_secs(10);

/// What was refused is forgotten after a minute and what it takes to tell.
const FORGOTTEN: Duration = Duration::from_secs(120);

struct Shown {
    fleet: Fleet,
    shop: Shop,
}

impl Shown {
    /// Waits until condition Limited has this status and reason; the status then.
    async fn limited(&self, (status, reason): (&str, &str), within: Duration) -> Result<RateLimitStatus> {
        let api: Api<RateLimit> = Api::namespaced(self.fleet.client.clone(), &self.shop.namespace);
        eventually(within, &format!("the policy is Limited={status}, {reason}"), async || {
            let found = api.get("payments").await?.status.context("no status")?;
            let condition = found.conditions.iter().find(|it| it.type_ == "Limited").context("no such condition")?;
            ensure!((condition.status.as_str(), condition.reason.as_str()) == (status, reason), "{found:?}");
            Ok(found)
        })
        .await
    }

    /// How often the operator wrote a RateLimit's status so far.
    fn writes(&self) -> Result<usize> {
        let writes = self.fleet.writes_of(self.fleet.operators[0].identity())?;
        Ok(writes.iter().filter(|write| write.object.resource == "ratelimits").count())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_limited_while_it_refuses_and_a_minute_later_no_more_with_few_writes() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let server = shop.server(&fleet).await?;
    let policy = format!(
        "{{apiVersion: fusebox.dev/v1alpha1, kind: RateLimit, metadata: {{namespace: {}, name: payments}}, spec: \
         {{targetRefs: [{{name: payments}}], limits: [{{name: all, rate: {{requests: 1, per: 24h}}}}]}}}}",
        shop.namespace
    );
    fleet.cluster.apply(&policy).await?;
    server.enforces("payments").await?;
    let shown = Shown { fleet, shop };
    shown.limited(("False", "NoneLimited"), PATIENCE).await?;

    assert_eq!(server.get_inbound("/").await?.status, 200);
    assert_eq!(server.get_inbound("/").await?.status, 429);
    let status = shown.limited(("True", "RequestsLimited"), PATIENCE).await?;
    let message = &status.conditions.iter().find(|it| it.type_ == "Limited").context("no such condition")?.message;
    ensure!(message.contains(" refused in the last minute, the last at "), "{message}");
    ensure!(status.summary.and_then(|summary| summary.limited_percent) >= Some(50), "{:?}", status.targets);
    let before = shown.writes()?;
    let begun = Instant::now();
    while begun.elapsed() < CROWD {
        assert_eq!(server.get_inbound("/").await?.status, 429);
    }
    let writes = shown.writes()? - before;
    println!("{writes} writes of the status while requests were refused for {CROWD:?}");
    ensure!(writes <= 2, "{writes} writes in {CROWD:?}: numbers and times must not cause one each");

    let after = shown.limited(("False", "NoneLimited"), FORGOTTEN).await?;
    println!("nobody was limited any more {:?} after the last refusal", begun.elapsed() - CROWD);
    let target = after.targets.first().context("a target")?;
    ensure!((target.limited_recently, target.limited_percent) == (Some(0), None), "{target:?}");
    ensure!(target.limited >= Some(2) && target.last_limited.is_some(), "what was is known all the same: {target:?}");
    Ok(())
}
