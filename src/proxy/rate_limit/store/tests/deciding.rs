//! What one Redis decides.

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
        let verdict = store.decide(std::slice::from_ref(&demand)).await?[0];
        assert_eq!((verdict.allowed, verdict.remaining, verdict.retry_after), (true, left, Duration::ZERO));
    }
    let verdict = store.decide(std::slice::from_ref(&demand)).await?[0];
    assert!(!verdict.allowed && verdict.blocked_for.is_none());
    assert!(verdict.retry_after > Duration::from_secs(3_500) && verdict.retry_after <= Duration::from_secs(3_600));
    assert!(verdict.reset > Duration::from_secs(3 * 3_500));
    Ok(())
}

#[tokio::test]
async fn nothing_is_spent_where_one_of_several_refuses() -> Result {
    let (redis, store) = alone().await?;
    let (wide, narrow) = (hourly("wide", 10), hourly("narrow", 1));
    assert!(store.decide(&[wide.clone(), narrow.clone()]).await?.iter().all(|verdict| verdict.allowed));
    for _ in 0..5 {
        let verdicts = store.decide(&[wide.clone(), narrow.clone()]).await?;
        assert_eq!(verdicts.iter().map(|verdict| verdict.allowed).collect::<Vec<_>>(), [true, false]);
        assert_eq!(verdicts[0].remaining, 9);
    }
    assert_eq!(store.decide(std::slice::from_ref(&wide)).await?[0].remaining, 8);
    assert_eq!(redis.command(&["dbsize"]).await?, "2");
    Ok(())
}

#[tokio::test]
async fn a_weight_is_spent_whole_or_not_at_all() -> Result {
    let (_redis, store) = alone().await?;
    let heavy = SharedDemand { cost: 4, ..hourly("a", 10) };
    assert!(passes(&store, &heavy).await && passes(&store, &heavy).await);
    let verdict = store.decide(std::slice::from_ref(&heavy)).await?[0];
    assert_eq!((verdict.allowed, verdict.remaining), (false, 2));
    assert!(passes(&store, &hourly("a", 10)).await);
    let free = SharedDemand { cost: 0, ..hourly("a", 10) };
    assert_eq!(store.decide(&[free]).await?[0].remaining, 1);
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_beyond_is_refused_for_the_whole_time_and_not_longer_however_often_it_comes() -> Result {
    let (_redis, store) = alone().await?;
    // Refilled within a millisecond: only the block refuses.
    let blocking = SharedDemand { block_for: Some(Duration::from_millis(400)), ..demand("a", (1_000, 1_000, 1)) };
    let begun = Instant::now();
    let heavy = SharedDemand { cost: 2, ..blocking.clone() };
    let first = store.decide(&[heavy]).await?[0];
    assert!(first.blocked_for.is_some_and(|left| left <= Duration::from_millis(400)), "{first:?}");
    let mut ends = Vec::new();
    eventually(PATIENCE, "the client is let in again", async || {
        let verdict = store.decide(std::slice::from_ref(&blocking)).await?[0];
        ends.extend(verdict.blocked_for.map(|left| begun.elapsed() + left));
        anyhow::ensure!(verdict.allowed, "{verdict:?}");
        Ok(())
    })
    .await?;
    let (earliest, latest) = (ends.iter().min(), ends.iter().max());
    let spread = latest.zip(earliest).map(|(latest, earliest)| *latest - *earliest);
    assert!(spread.is_some_and(|spread| spread < Duration::from_millis(200)), "the end of the block moved: {ends:?}");
    Ok(())
}

#[tokio::test]
async fn a_blocked_client_blocks_nobody_else() -> Result {
    let (_redis, store) = alone().await?;
    let block_for = Some(Duration::from_secs(60));
    let own = SharedDemand { block_for, ..hourly("own", 1) };
    let common = SharedDemand { block_for, ..hourly("common", 1) };
    assert!(passes(&store, &own).await && passes(&store, &common).await);
    assert!(!passes(&store, &own).await, "its block begins");
    let verdicts = store.decide(&[own.clone(), common.clone()]).await?;
    assert!(verdicts[0].blocked_for.is_some() && verdicts[1].blocked_for.is_none(), "{verdicts:?}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_is_let_go_has_a_full_bucket() -> Result {
    let (_redis, store) = alone().await?;
    let blocking = SharedDemand { block_for: Some(Duration::from_secs(60)), ..hourly("a", 2) };
    while passes(&store, &blocking).await {}
    assert_eq!(store.unblock(&[bucket("a"), bucket("nobody")]).await?, 1);
    let verdict = store.decide(&[blocking]).await?[0];
    assert_eq!((verdict.allowed, verdict.remaining), (true, 1));
    Ok(())
}

#[tokio::test]
async fn a_bucket_is_kept_until_it_is_full_and_no_longer() -> Result {
    let (redis, store) = alone().await?;
    let demand = demand("a", (10, 1_000, 5));
    assert!(passes(&store, &demand).await);
    let kept: u64 = redis.command(&["pttl", bucket("a").as_str()]).await?.parse()?;
    assert!(kept <= 102, "{kept} ms");
    eventually(PATIENCE, "the store is empty", async || {
        let keys = redis.command(&["dbsize"]).await?;
        anyhow::ensure!(keys == "0", "{keys} keys");
        Ok(())
    })
    .await?;
    assert_eq!(store.decide(std::slice::from_ref(&demand)).await?[0].remaining, 4);
    Ok(())
}

#[tokio::test]
async fn a_changed_rate_keeps_what_was_left_and_hands_out_nothing() -> Result {
    let (_redis, store) = alone().await?;
    let rate = |burst, per_ms| SharedDemand { cost: 0, ..demand("a", (1, per_ms, burst)) };
    let left = async |burst, per_ms| store.decide(&[rate(burst, per_ms)]).await.map(|verdicts| verdicts[0].remaining);
    for _ in 0..7 {
        assert!(passes(&store, &hourly("a", 10)).await);
    }
    assert_eq!(left(100, 1_000_000).await?, 3);
    assert!(passes(&store, &hourly("a", 2)).await, "two of the three are kept, one of them is spent");
    // Rounding is against the client: of the one that is left a hair may be missing.
    assert!(left(1_000_000, 3_600_000).await? <= 1);
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
    let verdict = store.decide(&[SharedDemand { cost: 0, ..one }]).await?[0];
    assert!((799..=800).contains(&verdict.remaining), "{verdict:?}");
    Ok(())
}

#[tokio::test]
async fn a_clock_that_was_set_back_costs_no_more_than_an_empty_bucket() -> Result {
    let (redis, store) = alone().await?;
    let demand = SharedDemand { block_for: Some(Duration::from_secs(60)), ..hourly("a", 2) };
    // A bucket and a block as of a store whose clock stood a year ahead.
    let year_ahead_us = redis.command(&["time"]).await?.lines().next().map_or(0, |time| time.parse().unwrap_or(0))
        * 1_000_000_u64
        + 31_536_000_000_000;
    let text = format!("{year_ahead_us} 0 1 3600000000 2 {year_ahead_us}");
    redis.command(&["set", bucket("a").as_str(), &text]).await?;
    let verdict = store.decide(std::slice::from_ref(&demand)).await?[0];
    assert_eq!((verdict.allowed, verdict.remaining), (false, 0));
    assert!(verdict.blocked_for.is_some_and(|left| left <= Duration::from_secs(60)), "{verdict:?}");
    assert!(verdict.reset <= Duration::from_secs(7_200), "{verdict:?}");
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
    assert_eq!(store.decide(&[hourly("a", 5)]).await?[0].remaining, 3);
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
    let many: Vec<SharedDemand> = (0..=MAX_DEMANDS).map(|number| hourly(&number.to_string(), 1)).collect();
    assert_eq!(store.decide(&many).await.unwrap_err().reason(), "Demands");
    Ok(())
}
