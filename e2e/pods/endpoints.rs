//! With scope Endpoint one bad pod of three is left out, and comes back.

use anyhow::Result;

use fusebox_e2e::stage::{Sidecars, on_stage};

const EACH: &str = "scope: Endpoint, maxOpenEndpointsPercent: 50, trip: {consecutiveFailures: 3}, \
     open: {baseDuration: 3s, maxDuration: 3s, jitterPercent: 0}, halfOpen: {successThreshold: 1}";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn one_bad_pod_of_three_is_left_out_and_comes_back() -> Result<()> {
    on_stage("endpoints", Sidecars::Transparent, async |stage| {
        stage.payments((3, 1), EACH).await?;
        stage.shows("payments", ("Closed", "0/3 endpoints")).await?;

        let servers = stage.pod_names("payments").await?;
        stage.break_pod(&servers[0]).await?;
        stage.shows("payments", ("PartiallyOpen", "1/3 endpoints")).await?;
        // Probes of the bad pod come seconds apart; between them every answer is a good one.
        stage.hears("web", (200, "")).await?;

        stage.mend_pod(&servers[0]).await?;
        stage.shows("payments", ("Closed", "0/3 endpoints")).await?;
        let before = stage.calls(&servers[0]).await?;
        fusebox_testkit::eventually(fusebox_e2e::stage::PATIENCE, "the mended pod is called again", async || {
            let calls = stage.calls(&servers[0]).await?;
            anyhow::ensure!(calls > before + 5, "{} calls more", calls - before);
            Ok(())
        })
        .await
    })
    .await
}
