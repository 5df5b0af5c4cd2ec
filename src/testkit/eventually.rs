//! Waiting for a condition with a deadline.
//!
//! Owns the one sleep of all tests. It must not swallow what was seen: a timeout says what the condition last was.
//! A fixed sleep is either too short on a busy machine or wasted on an idle one.

use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use tokio::time::Instant;

/// How often a condition is looked at.
pub const POLL_EVERY: Duration = Duration::from_millis(50);

/// Calls `condition` every 50 ms until it answers `Ok`, and returns that value.
///
/// `what` is the claim, as in "the policy's status shows Open". A condition that hangs is cut off at the deadline too.
///
/// # Errors
/// After `deadline`, with the condition's last error.
pub async fn eventually<T>(deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut last: Error = anyhow!("the first look took the whole time");
    while Instant::now() < end {
        match tokio::time::timeout_at(end, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen,
            Err(_) => break,
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Err(last.context(format!("not within {deadline:?}: {what}; last seen")))
}

/// Checks that `condition` stays `Ok` for all of `period`, looking every 50 ms.
///
/// # Errors
/// As soon as the condition fails, with its error.
pub async fn consistently(period: Duration, what: &str, mut condition: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + period;
    while Instant::now() < end {
        condition().await.map_err(|seen| seen.context(format!("did not stay so for {period:?}: {what}")))?;
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_value_comes_back_as_soon_as_the_condition_holds() -> Result<()> {
        let mut looks = 0;
        let value = eventually(Duration::from_secs(5), "three looks", async || {
            looks += 1;
            ensure!(looks >= 3, "{looks} looks");
            Ok(looks)
        })
        .await?;
        assert_eq!(value, 3);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_says_what_was_last_seen() {
        let failed = eventually(Duration::from_secs(1), "the state is Open", async || {
            Err::<(), _>(anyhow!("the state is Closed"))
        })
        .await;
        let text = failed.map_err(|error| format!("{error:#}"));
        assert_eq!(text, Err("not within 1s: the state is Open; last seen: the state is Closed".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_condition_is_cut_off_at_the_deadline() {
        let failed =
            eventually(Duration::from_secs(1), "an answer", async || std::future::pending::<Result<()>>().await).await;
        assert!(failed.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_failing_look_ends_consistently() {
        let mut looks = 0;
        let failed = consistently(Duration::from_secs(1), "no write", async || {
            looks += 1;
            ensure!(looks < 3, "a write");
            Ok(())
        })
        .await;
        assert!(failed.is_err());
    }
}
