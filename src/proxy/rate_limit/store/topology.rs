//! Who keeps the buckets: the one server, the primary that a Sentinel names, the nodes that have a cluster's slots.
//!
//! It must not keep waiting for anybody: each question and each connection has its second, and a server that is away is left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use redis::Value;
use tokio::sync::Notify;

use super::connection::{ATTEMPT, Connection, Duty};
use super::error::StoreLost;
use super::link::{Link, Nodes, SlotMap};
use super::settings::{Endpoint, Servers, StoreSettings};

/// How long one Sentinel may take, so that the next one is asked within the attempt.
const GUIDE: Duration = Duration::from_millis(300);

/// The most nodes of a cluster that are connected to.
const MAX_NODES: usize = 256;

/// Finds servers, and remembers the Sentinel that answered.
#[derive(Debug)]
pub(super) struct Finder {
    wake: Arc<Notify>,
    guide: Option<Connection>,
}

impl Finder {
    pub(super) fn new(wake: &Arc<Notify>) -> Self {
        Self { wake: Arc::clone(wake), guide: None }
    }

    /// Connects. Connections of `previous` that still stand are used again.
    pub(super) async fn find(&mut self, settings: &StoreSettings, previous: Option<&Link>) -> Result<Link, StoreLost> {
        match &settings.servers {
            Servers::Single(endpoint) => {
                self.open(settings, endpoint, Duty::Keeps).await.map(|connection| Link::Server(Arc::new(connection)))
            }
            Servers::Sentinel { .. } => {
                let primary = self.primary(settings).await?;
                let connection = self.open(settings, &primary, Duty::KeepsAsPrimary).await?;
                Ok(Link::Server(Arc::new(connection)))
            }
            Servers::Cluster(seeds) => self.cluster(settings, seeds, previous).await.map(Link::Cluster),
        }
    }

    /// Who is primary now, as the first Sentinel that answers says.
    pub(super) async fn primary(&mut self, settings: &StoreSettings) -> Result<Endpoint, StoreLost> {
        let Servers::Sentinel { sentinels, primary } = &settings.servers else { return Err(StoreLost::NotConnected) };
        if let Some(guide) = self.guide.take()
            && let Ok(Ok(Some(found))) = tokio::time::timeout(GUIDE, primary_of(&guide, primary)).await
        {
            self.guide = Some(guide);
            return Ok(found);
        }
        let mut why = StoreLost::NoPrimary { primary: primary.clone() };
        for sentinel in sentinels {
            match tokio::time::timeout(GUIDE, self.ask_sentinel(settings, sentinel, primary)).await {
                Ok(Ok((guide, found))) => {
                    self.guide = Some(guide);
                    return Ok(found);
                }
                Ok(Err(error)) if error.is_to_be_mended() => why = error,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(why)
    }

    async fn ask_sentinel(
        &self,
        settings: &StoreSettings,
        sentinel: &Endpoint,
        primary: &str,
    ) -> Result<(Connection, Endpoint), StoreLost> {
        let no_primary = || StoreLost::NoPrimary { primary: primary.to_owned() };
        let guide = self.open(settings, sentinel, Duty::Guides).await?;
        match primary_of(&guide, primary).await {
            Ok(found) => Ok((guide, found.ok_or_else(no_primary)?)),
            Err(StoreLost::Answered { code, .. }) if code == "NOAUTH" => {
                let guide = self.open(settings, sentinel, Duty::GuidesWithPassword).await?;
                let found = primary_of(&guide, primary).await?;
                Ok((guide, found.ok_or_else(no_primary)?))
            }
            Err(error) => Err(error),
        }
    }

    async fn cluster(
        &self,
        settings: &StoreSettings,
        seeds: &[Endpoint],
        previous: Option<&Link>,
    ) -> Result<Nodes, StoreLost> {
        let mut standing = standing(previous);
        let slots = self.slots(settings, seeds, &mut standing).await?;
        let nodes: Vec<Endpoint> = slots.nodes().into_iter().take(MAX_NODES).cloned().collect();
        let opened = nodes.iter().map(|node| async {
            match standing.get(node) {
                Some(connection) => Ok(Arc::clone(connection)),
                None => self.open(settings, node, Duty::Keeps).await.map(Arc::new),
            }
        });
        let (mut connections, mut missing) = (BTreeMap::new(), None);
        for (node, opened) in nodes.iter().zip(join_all(opened).await) {
            match opened {
                Ok(connection) => {
                    connections.insert(node.clone(), connection);
                }
                Err(error) => missing = Some(error),
            }
        }
        if connections.is_empty() {
            return Err(missing.unwrap_or(StoreLost::NoNode { slot: 0 }));
        }
        Ok(Nodes { connections, slots, missing })
    }

    /// The slots as the first node says that answers: one that is connected, else one of the seeds, which then is.
    async fn slots(
        &self,
        settings: &StoreSettings,
        seeds: &[Endpoint],
        standing: &mut BTreeMap<Endpoint, Arc<Connection>>,
    ) -> Result<SlotMap, StoreLost> {
        for (node, connection) in &*standing {
            if let Ok(map) = slots_of(connection, node).await {
                return Ok(map);
            }
        }
        let mut last = StoreLost::NotConnected;
        for seed in seeds {
            let asked = async {
                let connection = self.open(settings, seed, Duty::Keeps).await?;
                let map = slots_of(&connection, seed).await?;
                Ok((connection, map))
            };
            match asked.await {
                Ok((connection, map)) => {
                    standing.insert(seed.clone(), Arc::new(connection));
                    return Ok(map);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn open(&self, settings: &StoreSettings, endpoint: &Endpoint, duty: Duty) -> Result<Connection, StoreLost> {
        let opened = tokio::time::timeout(ATTEMPT, Connection::open(settings, endpoint, (duty, &self.wake))).await;
        opened.map_err(|_| StoreLost::Unreachable {
            address: endpoint.to_string(),
            problem: format!("no answer within {ATTEMPT:?}"),
        })?
    }
}

/// Connections that can be used again.
fn standing(previous: Option<&Link>) -> BTreeMap<Endpoint, Arc<Connection>> {
    let Some(Link::Cluster(nodes)) = previous else { return BTreeMap::new() };
    let usable = nodes.connections.iter().filter(|(_, connection)| connection.is_usable());
    usable.map(|(node, connection)| (node.clone(), Arc::clone(connection))).collect()
}

async fn primary_of(guide: &Connection, primary: &str) -> Result<Option<Endpoint>, StoreLost> {
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(primary);
    let answer: Option<(String, String)> = guide.question(&command).await?;
    let Some((host, port)) = answer else { return Ok(None) };
    let malformed = || StoreLost::Malformed { address: guide.address().to_owned() };
    Endpoint::parse(&format!("{host}:{port}")).map(Some).ok_or_else(malformed)
}

async fn slots_of(connection: &Connection, asked: &Endpoint) -> Result<SlotMap, StoreLost> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let ranges: Vec<Vec<Value>> = connection.question(&command).await?;
    let mut map = SlotMap::default();
    for range in &ranges {
        let (slots, node) =
            range_of(range, asked).ok_or_else(|| StoreLost::Malformed { address: connection.address().to_owned() })?;
        map.insert(slots, node);
    }
    Ok(map)
}

/// A range of slots with its primary: `[first, last, [host, port, ...], replicas...]`. A node that doesn't know its own host
/// leaves it out.
fn range_of(range: &[Value], asked: &Endpoint) -> Option<((u16, u16), Endpoint)> {
    let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = range else { return None };
    let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
    let host: Option<String> = redis::from_redis_value_ref(host).ok()?;
    let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| asked.host.clone());
    let node = Endpoint::parse(&format!("{host}:{port}"))?;
    Some(((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?), node))
}
