//! A primary, its replica and three Sentinels that make the replica primary when the first one is gone.
//!
//! It must not promote anything itself: who is primary is the Sentinels' to say.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Configured, Redis, RedisBuilder, Role, START_DEADLINE};
use crate::eventually::eventually;
use crate::ports::Port;

/// The name that the Sentinels know the primary by.
pub const PRIMARY: &str = "limits";

/// How many must agree that the primary is down.
const QUORUM: usize = 2;
/// After so long without an answer a Sentinel takes a server for dead.
const DOWN_AFTER: Duration = Duration::from_secs(1);
const SENTINELS: usize = 3;

/// The whole set.
#[derive(Debug)]
pub struct RedisSentinels {
    /// The server that is primary at first.
    pub first: Redis,
    /// The server that is its replica at first.
    pub second: Redis,
    sentinels: Vec<Redis>,
}

impl RedisSentinels {
    /// Starts all five, and waits until the replica is in step and every Sentinel knows the others.
    ///
    /// # Errors
    /// When one doesn't start, or they don't find each other in time.
    pub async fn start() -> Result<Self> {
        let first = Redis::start().await?;
        let replica = format!("replicaof 127.0.0.1 {}", first.port.number());
        let second = RedisBuilder::default().setting(replica).start().await?;
        let mut sentinels = Vec::new();
        for _ in 0..SENTINELS {
            sentinels.push(sentinel(&first).await?);
        }
        let set = Self { first, second, sentinels };
        set.ready().await?;
        Ok(set)
    }

    /// Where the Sentinels listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(Redis::address).collect()
    }

    /// Who the first Sentinel says is primary.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub async fn primary(&self) -> Result<SocketAddr> {
        let sentinel = self.sentinels.first().context("there is no Sentinel")?;
        let answer = sentinel.command(&["sentinel", "get-master-addr-by-name", PRIMARY]).await?;
        let (host, port) = answer.split_once('\n').with_context(|| format!("the Sentinel answered {answer:?}"))?;
        Ok(format!("{}:{}", host.trim(), port.trim()).parse()?)
    }

    /// Has the Sentinels make the replica primary though the primary is well.
    ///
    /// # Errors
    /// When they don't begin.
    pub async fn failover(&self) -> Result<()> {
        let sentinel = self.sentinels.first().context("there is no Sentinel")?;
        sentinel.command(&["sentinel", "failover", PRIMARY]).await?;
        Ok(())
    }

    async fn ready(&self) -> Result<()> {
        eventually(START_DEADLINE, "the replica is in step", async || {
            let said = self.second.command(&["info", "replication"]).await?;
            ensure!(said.contains("master_link_status:up"), "{said}");
            Ok(())
        })
        .await?;
        for sentinel in &self.sentinels {
            eventually(START_DEADLINE, "the Sentinel knows the others and the replica", async || {
                let said = sentinel.command(&["info", "sentinel"]).await?;
                ensure!(said.contains(&format!("slaves=1,sentinels={SENTINELS}")), "{said}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

async fn sentinel(primary: &Redis) -> Result<Redis> {
    let port = Port::reserve()?;
    let settings = vec![
        format!("port {}", port.number()),
        "bind 127.0.0.1".to_owned(),
        format!("sentinel monitor {PRIMARY} 127.0.0.1 {} {QUORUM}", primary.port.number()),
        format!("sentinel down-after-milliseconds {PRIMARY} {}", DOWN_AFTER.as_millis()),
        format!("sentinel failover-timeout {PRIMARY} 10000"),
    ];
    Redis::in_new_folder(Role::Sentinel, port, Configured { settings, ..Configured::default() }).await
}
