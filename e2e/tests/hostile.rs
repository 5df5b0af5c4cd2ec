//! Hostile input beside good traffic, for some seconds: the good requests are all answered. `make hostile` also takes the time.

use std::time::Duration;

use anyhow::{Result, ensure};
use fusebox_e2e::attack;
use fusebox_e2e::standalone::Standalone;
use fusebox_testkit::FlakyUpstream;
use fusebox_testkit::load::Load;

#[tokio::test(flavor = "multi_thread")]
async fn good_requests_are_answered_while_others_attack() -> Result<()> {
    let upstream = FlakyUpstream::start().await?;
    let Standalone { proxy: _proxy, listener } = Standalone::start(&upstream).await?;
    let attackers = attack::begin(listener.address());
    let report = Load::new(listener.address(), 50, Duration::from_secs(3)).run().await?;
    drop(attackers);
    ensure!(report.errors == 0, "{} good requests failed, first: {:?}", report.errors, report.first_error);
    ensure!(report.statuses.keys().eq([&200]), "good requests were answered {:?}", report.statuses);
    Ok(())
}
