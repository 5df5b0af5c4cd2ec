//! A Redis Cluster of three nodes without replicas.
//!
//! It must not stand up a node that was killed: a cluster with a hole in it is what tests ask for.

use std::collections::BTreeMap;
use std::iter;
use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::{Redis, RedisBuilder, START_DEADLINE};
use crate::eventually::eventually;
use crate::ports::Port;

const SLOTS: u32 = 16_384;
const NODES: u32 = 3;

/// The nodes, each with a third of the slots.
#[derive(Debug)]
pub struct RedisCluster {
    /// Each node.
    pub nodes: Vec<Redis>,
    // Where the nodes talk to each other, held for as long as they do.
    buses: Vec<Port>,
}

impl RedisCluster {
    /// Starts the nodes, and waits until every one of them knows where all slots are.
    ///
    /// # Errors
    /// When a node doesn't start, or they don't agree in time.
    pub async fn start() -> Result<Self> {
        let (mut nodes, mut buses) = (Vec::new(), Vec::new());
        for number in 0..NODES {
            let (port, bus) = (Port::reserve()?, Port::reserve()?);
            let node = RedisBuilder::at(port)
                .setting("cluster-enabled yes")
                .setting(format!("cluster-port {}", bus.number()))
                .setting("cluster-node-timeout 2000")
                // What lies on the other nodes stays of use when one is gone.
                .setting("cluster-require-full-coverage no")
                .start()
                .await?;
            let (first, last) = (number * SLOTS / NODES, (number + 1) * SLOTS / NODES - 1);
            node.command(&["cluster", "addslotsrange", &first.to_string(), &last.to_string()]).await?;
            node.command(&["cluster", "set-config-epoch", &(number + 1).to_string()]).await?;
            nodes.push(node);
            buses.push(bus);
        }
        let cluster = Self { nodes, buses };
        cluster.meet().await?;
        Ok(cluster)
    }

    /// Where the nodes listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Redis::address).collect()
    }

    /// Gives one slot to the node `to`, without its keys, as after an emptied slot was moved.
    ///
    /// # Errors
    /// When a node doesn't take it.
    pub async fn give(&self, slot: u16, to: usize) -> Result<()> {
        let id = self.nodes[to].command(&["cluster", "myid"]).await?;
        // The new owner is told last, and then claims the slot anew: a word that the old one sent before must not win.
        let others = self.nodes.iter().enumerate().filter(|(number, _)| *number != to).map(|(_, node)| node);
        for node in others.chain([&self.nodes[to]]) {
            node.command(&["cluster", "setslot", &slot.to_string(), "node", &id]).await?;
        }
        self.nodes[to].command(&["cluster", "bumpepoch"]).await?;
        Ok(())
    }

    /// The slots that hold keys, each with the number of its node.
    ///
    /// # Errors
    /// When a node doesn't answer.
    pub async fn slots_with_keys(&self) -> Result<Vec<(u16, usize)>> {
        let mut slots = BTreeMap::new();
        for (number, node) in self.nodes.iter().enumerate() {
            for key in node.command(&["keys", "*"]).await?.lines() {
                slots.insert(node.command(&["cluster", "keyslot", key]).await?.parse()?, number);
            }
        }
        Ok(slots.into_iter().collect())
    }

    /// Begins to move a slot: keys that the old node does not have are the new one's from now on (ASK).
    ///
    /// # Errors
    /// When a node doesn't take it.
    pub async fn begin_moving(&self, slot: u16, (from, to): (usize, usize)) -> Result<()> {
        let (old, new) = (&self.nodes[from], &self.nodes[to]);
        let [old_id, new_id] = [old.command(&["cluster", "myid"]).await?, new.command(&["cluster", "myid"]).await?];
        let slot = slot.to_string();
        new.command(&["cluster", "setslot", &slot, "importing", &old_id]).await?;
        old.command(&["cluster", "setslot", &slot, "migrating", &new_id]).await?;
        Ok(())
    }

    /// Moves the keys that the slot has on the old node, one by one.
    ///
    /// # Errors
    /// When a node doesn't take one.
    pub async fn move_keys(&self, slot: u16, (from, to): (usize, usize)) -> Result<()> {
        let port = self.nodes[to].address().port().to_string();
        loop {
            let keys = self.nodes[from].command(&["cluster", "getkeysinslot", &slot.to_string(), "100"]).await?;
            if keys.is_empty() {
                return Ok(());
            }
            for key in keys.lines() {
                self.nodes[from].command(&["migrate", "127.0.0.1", &port, key, "0", "5000"]).await?;
            }
        }
    }

    /// Ends the move: the new node is told first, so that there is always one that takes the slot's keys.
    ///
    /// # Errors
    /// When a node doesn't take it.
    pub async fn end_moving(&self, slot: u16, to: usize) -> Result<()> {
        let id = self.nodes[to].command(&["cluster", "myid"]).await?;
        let others = self.nodes.iter().enumerate().filter(|(number, _)| *number != to).map(|(_, node)| node);
        for node in iter::once(&self.nodes[to]).chain(others) {
            node.command(&["cluster", "setslot", &slot.to_string(), "node", &id]).await?;
        }
        Ok(())
    }

    /// How often a command was called, over all nodes.
    ///
    /// # Errors
    /// When a node doesn't answer.
    pub async fn calls(&self, command: &str) -> Result<u64> {
        let mut calls = 0;
        for node in &self.nodes {
            let said = node.command(&["info", "commandstats"]).await?;
            let line = said.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            let count = line.and_then(|line| line.split(',').next()).map(str::parse::<u64>).transpose()?;
            calls += count.unwrap_or_default();
        }
        Ok(calls)
    }

    async fn meet(&self) -> Result<()> {
        for (node, bus) in self.nodes.iter().zip(&self.buses).skip(1) {
            let (port, bus) = (node.address().port().to_string(), bus.number().to_string());
            self.nodes[0].command(&["cluster", "meet", "127.0.0.1", &port, &bus]).await?;
        }
        for node in &self.nodes {
            eventually(START_DEADLINE, "the node knows where all slots are", async || {
                let said = node.command(&["cluster", "info"]).await?;
                let known = said.contains("cluster_state:ok") && said.contains("cluster_slots_ok:16384");
                ensure!(known && said.contains(&format!("cluster_size:{NODES}")), "{said}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}
