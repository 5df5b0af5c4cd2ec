//! An override in a policy reaches every pod, and its end frees them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fusebox_testkit::eventually;

use fusebox_e2e::stage::{PATIENCE, Sidecars, on_stage};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn an_override_opens_the_breaker_of_every_pod_and_its_end_frees_them() -> Result<()> {
    on_stage("override", Sidecars::Transparent, async |stage| {
        stage.payments((1, 3), "trip: {consecutiveFailures: 3}").await?;

        let until = jiff::Timestamp::now() + Duration::from_secs(600);
        let forced = format!("override: {{state: ForcedOpen, until: \"{until:.0}\", reason: INC-42}}");
        stage.protect("payments", &format!("trip: {{consecutiveFailures: 3}}, {forced}")).await?;
        stage.hears("web", (503, "circuit-open")).await?;
        eventually(PATIENCE, "the status says that it is overridden", async || {
            let conditions = stage.policy("payments").await?.status.map(|status| status.conditions);
            let conditions = conditions.unwrap_or_default();
            let overridden = conditions.iter().find(|one| one.type_ == "Overridden" && one.status == "True");
            overridden.map(drop).context("it does not yet")
        })
        .await?;

        stage.protect("payments", "trip: {consecutiveFailures: 3}").await?;
        stage.hears("web", (200, "")).await
    })
    .await
}
