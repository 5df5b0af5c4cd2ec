//! Buckets found by the first digits of a client's digest, on one server and over a cluster's nodes.

use fusebox_policy::config::{LimitKey, PolicyId, Side, TargetId};
use fusebox_policy::rate_limit::{KeyDigest, digest};
use fusebox_testkit::RedisCluster;

use super::*;

type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;

fn family(name: &str, tag: Tag) -> BucketFamily {
    let policy = PolicyId { namespace: "shop".into(), name: "api".into() };
    let target =
        TargetId { kind: "Service".into(), namespace: "shop".into(), name: "payments".into(), section: String::new() };
    let key = LimitKey { policy, target, side: Side::Server, port: 80, limit: name.into(), rule: String::new() };
    BucketFamily::new("fusebox", &key, tag)
}

fn client(number: u32) -> KeyDigest {
    digest(&[&number.to_be_bytes()])
}

/// Spends from the buckets of so many clients.
async fn spend(store: &SharedStore, family: &BucketFamily, clients: u32) -> Result {
    for number in 0..clients {
        let spent = SharedDemand { bucket: family.bucket(client(number).id()), ..hourly("a", 9) };
        store.decide(&[spent]).await?;
    }
    Ok(())
}

async fn finds_one_among_many(store: &SharedStore) -> Result {
    const CLIENTS: u32 = 3_000;
    let [own, other] = [family("per-key", Tag::Client), family("other", Tag::Client)];
    spend(store, &own, CLIENTS).await?;
    spend(store, &other, 8).await?;
    let wanted = client(7);
    let found = store.search(&own.pattern(&wanted.short_hex())).await?;
    assert_eq!(found.cut_off, None);
    // The pattern is that of all the policy's limits; whose a bucket is says its family.
    assert_eq!(found.buckets.len(), 2, "{found:?}");
    let clients: Vec<_> = found.buckets.iter().filter_map(|bucket| own.client_of(bucket)).collect();
    assert_eq!(clients, [wanted.id()]);
    let nobody = store.search(&own.pattern("0123456789abcdef")).await?;
    assert_eq!(nobody, Found::default());
    Ok(())
}

#[tokio::test]
async fn sixteen_digits_find_a_client_among_thousands_on_one_server() -> Result {
    let redis = Redis::start().await?;
    finds_one_among_many(&started(&single(redis.address()))).await
}

#[tokio::test]
async fn sixteen_digits_find_a_client_on_whatever_node_of_a_cluster() -> Result {
    let cluster = RedisCluster::start().await?;
    let addresses = vec![cluster.nodes[0].address().to_string()];
    let store = started(&plain(RedisTopology::Cluster { addresses }));
    is_connected(&store).await?;
    finds_one_among_many(&store).await?;
    let own = family("per-key", Tag::Client);
    for number in 0..20 {
        let found = store.search(&own.pattern(&client(number).short_hex())).await?;
        assert!(found.buckets.contains(&own.bucket(client(number).id())), "client {number}: {found:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_policy_with_several_shared_limits_is_searched_by_the_same_pattern() -> Result {
    let redis = Redis::start().await?;
    let store = started(&single(redis.address()));
    let own = family("per-key", Tag::Policy);
    spend(&store, &own, 10).await?;
    let found = store.search(&own.pattern(&client(3).hex())).await?;
    assert_eq!(found.buckets, [own.bucket(client(3).id())]);
    Ok(())
}

#[tokio::test]
async fn a_search_that_the_acl_or_a_missing_node_cuts_short_says_so() -> Result {
    let redis = Redis::start().await?;
    redis.command(&["acl", "setuser", "default", "-scan"]).await?;
    let store = started(&single(redis.address()));
    is_connected(&store).await?;
    let found = store.search(&family("per-key", Tag::Client).pattern("0123456789abcdef")).await?;
    assert!(found.cut_off.as_ref().is_some_and(|why| why.to_string().contains("+scan")), "{found:?}");

    let mut cluster = RedisCluster::start().await?;
    let addresses = vec![cluster.nodes[0].address().to_string()];
    let store = started(&plain(RedisTopology::Cluster { addresses }));
    is_connected(&store).await?;
    cluster.nodes[2].kill();
    let gone = cluster.nodes[2].address().to_string();
    eventually(PATIENCE, "the missing node is named", async || {
        let found = store.search(&family("per-key", Tag::Client).pattern("0123456789abcdef")).await?;
        let why = found.cut_off.map(|why| why.to_string()).unwrap_or_default();
        anyhow::ensure!(why.contains("not searched to its end") && why.contains(&gone), "{why}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_search_of_a_store_that_does_not_answer_ends_in_time() -> Result {
    let redis = Redis::start().await?;
    let store = started(&single(redis.address()));
    is_connected(&store).await?;
    redis.pause().await?;
    let begun = Instant::now();
    let found = store.search(&family("per-key", Tag::Client).pattern("0123456789abcdef")).await;
    assert!(begun.elapsed() < Duration::from_millis(1_900), "{:?}", begun.elapsed());
    assert!(found.as_ref().map_or(true, |found| found.cut_off.is_some()), "{found:?}");
    redis.resume()
}
