//! What each kind of Redis does once it is started.

use super::*;
use crate::eventually::eventually;

#[tokio::test]
async fn a_server_keeps_its_port_over_a_crash_and_forgets_what_it_held() -> Result<()> {
    let mut redis = Redis::start().await?;
    redis.command(&["set", "key", "value"]).await?;
    assert_eq!(redis.command(&["get", "key"]).await?, "value");
    redis.kill();
    assert!(redis.command(&["ping"]).await.is_err());
    redis.restart().await?;
    assert_eq!(redis.command(&["get", "key"]).await?, "");
    Ok(())
}

#[tokio::test]
async fn tls_is_all_that_a_server_with_a_certificate_speaks() -> Result<()> {
    let authority = Authority::new("redis-test")?;
    let redis = Redis::builder().tls(&authority)?.setting("user limited on >secret ~a:* +get").start().await?;
    assert_eq!(redis.command(&["ping"]).await?, "PONG");
    let refused = redis.command(&["--user", "limited", "--pass", "secret", "get", "b:key"]).await.unwrap_err();
    assert!(refused.to_string().contains("NOPERM"), "{refused:#}");
    let mut plain = program::cli()?;
    plain.args(["-p", &redis.address().port().to_string(), "ping"]);
    assert!(run(plain).await.is_err());
    Ok(())
}

#[tokio::test]
async fn sentinels_make_the_replica_primary() -> Result<()> {
    let mut set = RedisSentinels::start().await?;
    assert_eq!(set.primary().await?, set.first.address());
    set.first.kill();
    eventually(START_DEADLINE, "the second server is primary", async || {
        ensure!(set.primary().await? == set.second.address(), "not yet");
        set.second.command(&["set", "key", "value"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_key_of_another_node_is_answered_with_its_address() -> Result<()> {
    let cluster = RedisCluster::start().await?;
    // CLUSTER KEYSLOT of "a" is 15495, which lies on the third node.
    let moved = cluster.nodes[0].command(&["get", "a"]).await.unwrap_err().to_string();
    assert!(moved.contains(&format!("MOVED 15495 {}", cluster.nodes[2].address())), "{moved}");
    cluster.give(15_495, 0).await?;
    assert_eq!(cluster.nodes[0].command(&["get", "a"]).await?, "");
    Ok(())
}
