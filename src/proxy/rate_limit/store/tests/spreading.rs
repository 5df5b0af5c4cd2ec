//! Sentinels and clusters: who is asked, and what a change of that costs.

use fusebox_testkit::{RedisCluster, RedisSentinels};

use super::super::link::slot_of;
use super::*;

type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;

fn texts(addresses: &[std::net::SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn over_a_failover_each_bucket_lets_at_most_one_more_burst_pass() -> Result {
    const BURST: u32 = 20;
    let mut set = RedisSentinels::start().await?;
    let topology = RedisTopology::Sentinel {
        addresses: texts(&set.addresses()),
        primary: fusebox_testkit::redis::PRIMARY.to_owned(),
    };
    let store = started(&plain(topology));
    let mut passed = 0;
    for _ in 0..BURST / 2 {
        passed += u32::from(passes(&store, &hourly("a", BURST)).await);
    }
    set.first.kill();
    let lost = Instant::now();
    is_lost(&store).await?;
    is_connected(&store).await?;
    println!("connected to the new primary {:?} after the old one died", lost.elapsed());
    for _ in 0..3 * BURST {
        passed += u32::from(passes(&store, &hourly("a", BURST)).await);
    }
    println!("{passed} passed over the failover, {BURST} without one");
    assert!((BURST..=2 * BURST).contains(&passed), "{passed}");
    Ok(())
}

#[tokio::test]
async fn a_primary_that_was_replaced_is_left_though_it_still_answers() -> Result {
    let set = RedisSentinels::start().await?;
    let topology = RedisTopology::Sentinel {
        addresses: texts(&set.addresses()),
        primary: fusebox_testkit::redis::PRIMARY.to_owned(),
    };
    let store = started(&plain(topology));
    is_connected(&store).await?;
    set.failover().await?;
    eventually(PATIENCE, "decisions are made by the new primary", async || {
        store.decide(&[hourly("a", 1_000)]).await?;
        let keys = set.second.command(&["exists", bucket("a").as_str()]).await?;
        let role = set.second.command(&["role"]).await?;
        anyhow::ensure!(keys == "1" && role.starts_with("master"), "{keys} {role}");
        Ok(())
    })
    .await
}

fn clustered(cluster: &RedisCluster) -> RedisStore {
    plain(RedisTopology::Cluster { addresses: texts(&cluster.addresses()[..1]) })
}

/// Names of buckets on the node with a third of the slots.
fn on_node(node: u16) -> impl Iterator<Item = String> {
    let range = (u32::from(node) * 16_384 / 3)..(u32::from(node + 1) * 16_384 / 3);
    (0..)
        .map(|number: u32| format!("client-{number}"))
        .filter(move |name| range.contains(&u32::from(slot_of(bucket(name).as_str()))))
}

#[tokio::test]
async fn each_bucket_is_on_the_node_of_its_slot_and_limits_of_one_policy_are_together() -> Result {
    let cluster = RedisCluster::start().await?;
    let store = started(&clustered(&cluster));
    is_connected(&store).await?;
    for number in 0..30 {
        assert!(passes(&store, &hourly(&number.to_string(), 1)).await);
        assert!(!passes(&store, &hourly(&number.to_string(), 1)).await);
    }
    for node in &cluster.nodes {
        let keys: u32 = node.command(&["dbsize"]).await?.parse()?;
        assert!(keys > 3, "{keys} keys on {}", node.address());
    }
    let together = ["one", "two"].map(|limit| SharedDemand {
        bucket: BucketName(format!("fusebox:{{shop/payments}}:{limit}")),
        ..hourly("a", 1)
    });
    assert!(!store.decide(&together).await?.iter().any(Verdict::is_refused));
    Ok(())
}

#[tokio::test]
async fn a_slot_that_moved_is_followed_at_once() -> Result {
    let cluster = RedisCluster::start().await?;
    let store = started(&clustered(&cluster));
    is_connected(&store).await?;
    let name = on_node(2).next().unwrap();
    cluster.give(slot_of(bucket(&name).as_str()), 0).await?;
    assert!(passes(&store, &hourly(&name, 1)).await);
    assert_eq!(cluster.nodes[0].command(&["exists", bucket(&name).as_str()]).await?, "1");
    Ok(())
}

#[tokio::test]
async fn while_a_slot_is_on_its_way_each_decision_is_made_where_its_bucket_is() -> Result {
    let cluster = RedisCluster::start().await?;
    let store = started(&clustered(&cluster));
    is_connected(&store).await?;
    let name = on_node(2).next().unwrap();
    let (slot, way) = (slot_of(bucket(&name).as_str()), (2, 0));
    // What is on the old node is spent there, and what is not, on the new one, which learns the script by it.
    assert!(passes(&store, &hourly(&name, 3)).await);
    cluster.begin_moving(slot, way).await?;
    assert!(passes(&store, &hourly(&name, 3)).await);
    cluster.move_keys(slot, way).await?;
    assert!(passes(&store, &hourly(&name, 3)).await);
    assert!(!passes(&store, &hourly(&name, 3)).await);
    assert!(cluster.calls("asking").await? > 0);
    cluster.end_moving(slot, way.1).await?;
    assert!(!passes(&store, &hourly(&name, 3)).await);
    assert_eq!(store.unblock(&[bucket(&name)]).await?, 1);
    assert!(passes(&store, &hourly(&name, 1)).await);
    Ok(())
}

#[tokio::test]
async fn buckets_of_one_decision_that_a_cluster_moves_apart_are_waited_for_and_never_guessed() -> Result {
    let cluster = RedisCluster::start().await?;
    let quick = RedisStore { timeout_ms: 500, ..clustered(&cluster) };
    let store = started(&quick);
    is_connected(&store).await?;
    let name = on_node(2).next().unwrap();
    let [one, two] = ["one", "two"].map(|limit| {
        let together = BucketName(format!("{}-{limit}", bucket(&name).as_str()));
        SharedDemand { bucket: together, ..hourly(&name, 2) }
    });
    let (slot, way) = (slot_of(one.bucket.as_str()), (2, 0));
    let both = [one.clone(), two];
    assert!(passes(&store, &one).await);
    cluster.begin_moving(slot, way).await?;
    let asked = Instant::now();
    let error = store.decide(&both).await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let torn = matches!(&error, StoreLost::Timeout { .. }) || error.to_string().contains("moving the buckets");
    assert!(torn, "{error}");
    let ended = async {
        cluster.move_keys(slot, way).await?;
        cluster.end_moving(slot, way.1).await
    };
    let decided = eventually(PATIENCE, "both are decided on", async || Ok(store.decide(&both).await?));
    let (decided, ended) = tokio::join!(decided, ended);
    ended?;
    assert!(!decided?.iter().any(Verdict::is_refused));
    // The first bucket was spent from once before: what is left is what a bucket that nobody lost has left.
    assert!(store.decide(&both).await?[0].is_refused());
    assert!(matches!(store.state(), StoreState::Connected { .. }));
    Ok(())
}

#[tokio::test]
async fn a_node_that_died_takes_its_own_buckets_alone_and_comes_back() -> Result {
    let mut cluster = RedisCluster::start().await?;
    let store = started(&clustered(&cluster));
    is_connected(&store).await?;
    let [there, gone] = [0, 1].map(|node| on_node(node).next().unwrap());
    cluster.nodes[1].kill();
    eventually(PATIENCE, "the dead node is told of", async || {
        let state = store.state();
        let StoreState::Connected { warning } = &state else { anyhow::bail!("{state:?}") };
        anyhow::ensure!(warning.contains(&cluster.nodes[1].address().to_string()), "{warning}");
        Ok(())
    })
    .await?;
    assert!(store.decide(&[hourly(&gone, 9)]).await.is_err());
    for _ in 0..5 {
        assert!(passes(&store, &hourly(&there, 9)).await);
    }
    cluster.nodes[1].restart().await?;
    eventually(PATIENCE, "its buckets are decided again", async || {
        anyhow::ensure!(!store.decide(&[hourly(&gone, 1_000)]).await?[0].is_refused(), "refused");
        anyhow::ensure!(store.state() == StoreState::Connected { warning: String::new() }, "{:?}", store.state());
        Ok(())
    })
    .await
}
