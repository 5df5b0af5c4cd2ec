//! The connections in use, and which of them a bucket's decision goes to.
//!
//! It must not connect: a decision has milliseconds. A link never changes; the keeper puts a new one in its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fusebox_policy::rate_limit::Verdict;
use redis::Cmd;

use super::bucket::BucketName;
use super::connection::{Arrival, Connection, Refusal};
use super::error::StoreLost;
use super::script::Decision;
use super::settings::Endpoint;

/// A Redis Cluster has so many slots.
pub(super) const SLOTS: u16 = 16_384;

/// A decision follows at most so many words of a cluster that another node has its slot.
const MAX_HOPS: usize = 3;

/// How often a decision begins anew while a slot is on its way, and after which time. Most decisions have less time than that.
const MAX_TRIES: usize = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(2);

/// How a cluster says that it moves the buckets of one decision one by one.
const TORN: &str = "TRYAGAIN";

/// One server, or the nodes of a cluster.
#[derive(Debug)]
pub(super) enum Link {
    /// All buckets are on it.
    Server(Arc<Connection>),
    /// Each bucket is on the node that has its slot.
    Cluster(Nodes),
}

/// The nodes of a cluster that have slots.
#[derive(Debug)]
pub(super) struct Nodes {
    /// Those that could be connected to.
    pub(super) connections: BTreeMap<Endpoint, Arc<Connection>>,
    pub(super) slots: SlotMap,
    /// The first of those that couldn't be, and why.
    pub(super) missing: Option<StoreLost>,
}

/// Who has which slots: the last slot of each range, ascending, with its node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SlotMap {
    ranges: BTreeMap<u16, (u16, Endpoint)>,
}

impl Link {
    /// The store's answer to one decision. The caller bounds the time.
    pub(super) async fn decide(&self, decision: &Decision<'_>) -> Result<Vec<Verdict>, StoreLost> {
        let mut way = Way::begin(self, decision.bucket())?;
        loop {
            match way.place.connection.decide(decision, way.place.arrival).await {
                Ok(verdicts) => return Ok(verdicts),
                Err(refusal) => way.follow(refusal).await?,
            }
        }
    }

    /// Removes a bucket; returns 1 where there was one.
    pub(super) async fn forget(&self, bucket: &BucketName) -> Result<u32, StoreLost> {
        let mut command = Cmd::new();
        command.arg("DEL").arg(bucket.as_str());
        let mut way = Way::begin(self, bucket)?;
        loop {
            match way.place.connection.ask(&command, way.place.arrival).await {
                Ok(count) => return Ok(count),
                Err(refusal) => way.follow(refusal).await?,
            }
        }
    }

    /// What is not as it should be; empty if nothing.
    pub(super) fn warning(&self) -> String {
        match self {
            Self::Server(connection) => connection.warning().to_owned(),
            Self::Cluster(Nodes { missing: Some(error), .. }) => error.to_string(),
            Self::Cluster(nodes) => {
                let warnings = nodes.connections.values().map(|connection| connection.warning());
                warnings.max().unwrap_or_default().to_owned()
            }
        }
    }

    fn place(&self, bucket: &BucketName) -> Result<Place<'_>, StoreLost> {
        let connection = match self {
            Self::Server(connection) => connection,
            Self::Cluster(nodes) => {
                let slot = slot_of(bucket.as_str());
                let node = nodes.slots.node(slot).and_then(|node| nodes.connections.get(node));
                node.ok_or(StoreLost::NoNode { slot })?
            }
        };
        Place { connection, arrival: Arrival::Settled }.usable()
    }

    fn follow<'a>(&'a self, from: Place<'a>, refusal: Refusal) -> Result<Place<'a>, StoreLost> {
        let (address, arrival) = match refusal {
            Refusal::Moved(address) => (address, Arrival::Settled),
            Refusal::Ask(address) => (address, Arrival::Moving),
            Refusal::NoScript | Refusal::TryAgain => {
                return Err(StoreLost::Malformed { address: from.connection.address().to_owned() });
            }
            Refusal::Lost(error) => return Err(error),
        };
        // The list of slots is out of date, or will be.
        from.connection.call_keeper();
        let Self::Cluster(nodes) = self else {
            return Err(StoreLost::Answered {
                address: from.connection.address().to_owned(),
                code: "MOVED".to_owned(),
            });
        };
        let node = Endpoint::parse(&address).and_then(|node| nodes.connections.get(&node));
        let connection = node.ok_or(StoreLost::NotConnected)?;
        Place { connection, arrival }.usable()
    }
}

impl SlotMap {
    /// Adds the slots `first..=last` of a node; out of range is nobody's.
    pub(super) fn insert(&mut self, (first, last): (u16, u16), node: Endpoint) {
        if first <= last && last < SLOTS {
            self.ranges.insert(last, (first, node));
        }
    }

    /// Who has the slot.
    pub(super) fn node(&self, slot: u16) -> Option<&Endpoint> {
        let (_, (first, node)) = self.ranges.range(slot..).next()?;
        (*first <= slot).then_some(node)
    }

    /// Every node with slots, once.
    pub(super) fn nodes(&self) -> Vec<&Endpoint> {
        let mut nodes: Vec<&Endpoint> = self.ranges.values().map(|(_, node)| node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// The way to a bucket whose slot may be moving.
struct Way<'a> {
    link: &'a Link,
    bucket: &'a BucketName,
    place: Place<'a>,
    hops: usize,
    tries: usize,
}

/// Where a decision goes next.
#[derive(Clone, Copy)]
struct Place<'a> {
    connection: &'a Connection,
    arrival: Arrival,
}

impl<'a> Way<'a> {
    fn begin(link: &'a Link, bucket: &'a BucketName) -> Result<Self, StoreLost> {
        Ok(Self { link, bucket, place: link.place(bucket)?, hops: 0, tries: 0 })
    }

    /// Goes where the server says. Where nodes don't agree yet, or keys are torn apart, the way begins anew a moment later.
    async fn follow(&mut self, refusal: Refusal) -> Result<(), StoreLost> {
        let is_torn = matches!(refusal, Refusal::TryAgain);
        if !is_torn {
            self.place = self.link.follow(self.place, refusal)?;
            if self.hops < MAX_HOPS {
                self.hops += 1;
                return Ok(());
            }
        }
        if self.tries == MAX_TRIES {
            let address = self.place.connection.address().to_owned();
            let no_node = StoreLost::NoNode { slot: slot_of(self.bucket.as_str()) };
            return Err(if is_torn { StoreLost::Answered { address, code: TORN.to_owned() } } else { no_node });
        }
        (self.hops, self.tries) = (0, self.tries + 1);
        tokio::time::sleep(BETWEEN_TRIES).await;
        self.place = self.link.place(self.bucket)?;
        Ok(())
    }
}

impl Place<'_> {
    fn usable(self) -> Result<Self, StoreLost> {
        if self.connection.is_usable() {
            Ok(self)
        } else {
            Err(StoreLost::Ended { address: self.connection.address().to_owned() })
        }
    }
}

/// The slot of a key (Redis Cluster specification): that of what stands between the first braces, where something does.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM, polynomial 0x1021.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of("a"), 15_495);
        assert_eq!(slot_of("fusebox:{a}:limit:1"), 15_495);
        assert_eq!(slot_of("{}a"), crc16(b"{}a") % SLOTS);
    }

    #[test]
    fn a_slot_that_no_range_holds_is_nobodys() {
        let [one, two] = [7001, 7002].map(|port| Endpoint { host: "::1".to_owned(), port });
        let mut map = SlotMap::default();
        map.insert((0, 99), one.clone());
        map.insert((200, 16_383), two.clone());
        map.insert((500, 16_384), one.clone());
        assert_eq!(map.node(99), Some(&one));
        assert_eq!(map.node(100), None);
        assert_eq!(map.node(16_383), Some(&two));
        assert_eq!(map.nodes(), [&one, &two]);
    }
}
