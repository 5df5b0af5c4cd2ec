//! What one Redis decides.

use fusebox_policy::rate_limit::MAX_LIMITS;

use super::*;

type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;

async fn alone() -> Result<(Redis, SharedStore)> {
    let redis = Redis::start().await?;
    let store = started(&single(redis.address()));
    Ok((redis, store))
}

#[tokio::test]
async fn a_bucket_allows_its_burst_and_then_says_when_the_next_request_may_pass() -> Result {
    let (_redis, store) = alone().await?;
    let demand = hourly("a", 3);
    for left in [2, 1, 0] {
        let verdict = verdict(&store, &demand).await;
        assert_eq!((verdict.outcome, verdict.remaining), (Outcome::Allowed, left));
    }
    let verdict = verdict(&store, &demand).await;
    let (refusal, wait) = refused(verdict).unwrap();
    assert_eq!(refusal, Refusal::OverLimit);
    assert!(wait > Duration::from_secs(3_500) && wait <= Duration::from_secs(3_600), "{wait:?}");
    assert!(verdict.reset_after > Duration::from_secs(3 * 3_500));
    Ok(())
}

#[tokio::test]
async fn nothing_is_spent_where_one_of_several_refuses() -> Result {
    let (redis, store) = alone().await?;
    let (wide, narrow) = (hourly("wide", 10), hourly("narrow", 1));
    assert!(!store.decide(&[wide.clone(), narrow.clone()]).await?.iter().any(Verdict::is_refused));
    for _ in 0..5 {
        let verdicts = store.decide(&[wide.clone(), narrow.clone()]).await?;
        assert_eq!(verdicts.iter().map(Verdict::is_refused).collect::<Vec<_>>(), [false, true]);
        assert_eq!(verdicts[0].remaining, 9);
    }
    assert_eq!(verdict(&store, &wide).await.remaining, 8);
    assert!(redis.command(&["exists", bucket("narrow").as_str()]).await? == "1");
    Ok(())
}

#[tokio::test]
async fn a_weight_is_spent_whole_or_not_at_all() -> Result {
    let (_redis, store) = alone().await?;
    let heavy = weighing(4, hourly("a", 10));
    assert!(passes(&store, &heavy).await && passes(&store, &heavy).await);
    let third = verdict(&store, &heavy).await;
    assert_eq!((third.is_refused(), third.remaining), (true, 2));
    assert!(passes(&store, &hourly("a", 10)).await);
    assert_eq!(verdict(&store, &weighing(0, hourly("a", 10))).await.remaining, 1);
    let (_, wait) = refused(verdict(&store, &weighing(11, hourly("a", 10))).await).unwrap();
    assert_eq!(wait, Duration::MAX, "no bucket ever holds so much");
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_beyond_is_refused_for_the_whole_time_and_not_longer_however_often_it_comes() -> Result {
    const BLOCK: Duration = Duration::from_millis(400);
    let (_redis, store) = alone().await?;
    // Refilled within a millisecond: only the block refuses.
    let once = blocking(BLOCK, demand("a", (1_000, 1_000, 1)));
    let begun = Instant::now();
    let (refusal, wait) = refused(verdict(&store, &weighing(2, once.clone())).await).unwrap();
    assert_eq!((refusal, wait), (Refusal::BlockBegins, Duration::MAX));
    let mut ends = Vec::new();
    eventually(PATIENCE, "the client is let in again", async || {
        let verdict = verdict(&store, &once).await;
        if let Some((refusal, left)) = refused(verdict) {
            assert_eq!(refusal, Refusal::Blocked);
            ends.push(begun.elapsed() + left);
        }
        anyhow::ensure!(!verdict.is_refused(), "{verdict:?}");
        Ok(())
    })
    .await?;
    let spread = ends.iter().max().zip(ends.iter().min()).map(|(latest, earliest)| *latest - *earliest);
    assert!(spread.is_some_and(|spread| spread < BLOCK / 2), "the end of the block moved: {ends:?}");
    Ok(())
}

#[tokio::test]
async fn a_block_is_begun_by_the_limit_that_was_exceeded_and_by_no_other() -> Result {
    let (_redis, store) = alone().await?;
    let [own, common] = [hourly("own", 1), hourly("common", 9)].map(|demand| blocking(Duration::from_secs(60), demand));
    assert!(passes(&store, &own).await && passes(&store, &common).await);
    for expected in [Refusal::BlockBegins, Refusal::Blocked] {
        let verdicts = store.decide(&[own.clone(), common.clone()]).await?;
        assert_eq!(refused(verdicts[0]).map(|(refusal, _)| refusal), Some(expected));
        assert_eq!((verdicts[1].is_refused(), verdicts[1].remaining), (false, 8));
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_is_let_go_has_a_full_bucket() -> Result {
    let (_redis, store) = alone().await?;
    let demand = blocking(Duration::from_secs(60), hourly("a", 2));
    while passes(&store, &demand).await {}
    assert_eq!(store.unblock(&[bucket("a"), bucket("nobody")]).await?, 1);
    let verdict = verdict(&store, &demand).await;
    assert_eq!((verdict.outcome, verdict.remaining), (Outcome::Allowed, 1));
    Ok(())
}

#[tokio::test]
async fn a_bucket_is_kept_until_it_is_full_and_no_longer() -> Result {
    let (redis, store) = alone().await?;
    let demand = demand("a", (10, 1_000, 5));
    assert!(passes(&store, &demand).await);
    // Below nothing where it is gone already.
    let kept: i64 = redis.command(&["pttl", bucket("a").as_str()]).await?.parse()?;
    assert!((-2..=102).contains(&kept), "{kept} ms");
    eventually(PATIENCE, "the store is empty", async || {
        let keys = redis.command(&["dbsize"]).await?;
        anyhow::ensure!(keys == "0", "{keys} keys");
        Ok(())
    })
    .await?;
    assert_eq!(verdict(&store, &demand).await.remaining, 4);
    Ok(())
}

#[tokio::test]
async fn a_changed_rate_keeps_what_was_left_and_hands_out_nothing() -> Result {
    let (_redis, store) = alone().await?;
    let left = async |burst, per_ms| verdict(&store, &weighing(0, demand("a", (1, per_ms, burst)))).await.remaining;
    for _ in 0..7 {
        assert!(passes(&store, &hourly("a", 10)).await);
    }
    assert_eq!(left(100, 1_000_000).await, 3);
    assert!(passes(&store, &hourly("a", 2)).await, "two of the three are kept, one of them is spent");
    // Rounding is against the client: of the one that is left a hair may be missing.
    assert!(left(1_000, 3_600_000).await <= 1);
    Ok(())
}

#[tokio::test]
async fn two_rates_that_take_turns_neither_hand_out_nor_eat_up() -> Result {
    let (_redis, store) = alone().await?;
    let (one, other) = (hourly("a", 1_000), demand("a", (7, 25_200_000, 900)));
    for _ in 0..100 {
        assert!(passes(&store, &one).await);
    }
    for _ in 0..50 {
        assert!(passes(&store, &other).await && passes(&store, &one).await);
    }
    let verdict = verdict(&store, &weighing(0, one)).await;
    assert!((799..=800).contains(&verdict.remaining), "{verdict:?}");
    Ok(())
}

#[tokio::test]
async fn a_clock_that_was_set_back_costs_no_more_than_an_empty_bucket() -> Result {
    let (redis, store) = alone().await?;
    let demand = blocking(Duration::from_secs(60), hourly("a", 2));
    // A bucket and a block as of a store whose clock stood a year ahead.
    let now_s: u64 = redis.command(&["time"]).await?.lines().next().map_or(Ok(0), str::parse)?;
    let year_ahead_us = (now_s + 31_536_000) * 1_000_000;
    let text = format!("{year_ahead_us} 0 1 3600000000 2 {year_ahead_us}");
    redis.command(&["set", bucket("a").as_str(), &text]).await?;
    let verdict = verdict(&store, &demand).await;
    let (refusal, wait) = refused(verdict).unwrap();
    assert_eq!((refusal, verdict.remaining), (Refusal::Blocked, 0));
    assert!(wait <= Duration::from_secs(3_600) && verdict.reset_after <= Duration::from_secs(7_200), "{verdict:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_holds_something_else_is_an_error_of_its_own_and_the_store_stays() -> Result {
    let (redis, store) = alone().await?;
    redis.command(&["set", bucket("a").as_str(), "hello"]).await?;
    redis.command(&["lpush", bucket("b").as_str(), "hello"]).await?;
    for _ in 0..10 {
        for (name, code) in [("a", "FOREIGN"), ("b", "WRONGTYPE")] {
            let error = store.decide(&[hourly(name, 1)]).await.unwrap_err();
            assert_eq!(error.reason(), "Answered");
            assert!(error.to_string().contains(code), "{error}");
        }
    }
    assert!(matches!(store.state(), StoreState::Connected { .. }));
    assert!(passes(&store, &hourly("c", 1)).await);
    Ok(())
}

#[tokio::test]
async fn a_server_that_forgot_the_script_is_sent_it_again() -> Result {
    let (redis, store) = alone().await?;
    assert!(passes(&store, &hourly("a", 5)).await);
    redis.command(&["script", "flush"]).await?;
    assert_eq!(verdict(&store, &hourly("a", 5)).await.remaining, 3);
    Ok(())
}

#[tokio::test]
async fn an_eviction_policy_that_drops_buckets_is_told_of_and_used_all_the_same() -> Result {
    let redis = Redis::builder().setting("maxmemory-policy volatile-ttl").start().await?;
    let store = started(&single(redis.address()));
    is_connected(&store).await?;
    let StoreState::Connected { warning } = store.state() else { anyhow::bail!("lost") };
    assert!(warning.contains("volatile-ttl") && warning.contains("noeviction"), "{warning}");
    assert!(passes(&store, &hourly("a", 5)).await);
    Ok(())
}

#[tokio::test]
async fn no_decision_is_over_nothing_or_over_more_limits_than_a_policy_has() -> Result {
    let store = SharedStore::start();
    assert_eq!(store.decide(&[]).await.unwrap_err().reason(), "Demands");
    let many: Vec<SharedDemand> = (0..=MAX_LIMITS).map(|number| hourly(&number.to_string(), 1)).collect();
    assert_eq!(store.decide(&many).await.unwrap_err().reason(), "Demands");
    Ok(())
}
