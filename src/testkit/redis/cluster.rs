//! A Redis Cluster of three nodes without replicas.
//!
//! It must not stand up a node that was killed: a cluster with a hole in it is what tests ask for.

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
