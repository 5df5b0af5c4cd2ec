//! Several proxies in front of one application, as the replicas of one workload, with neither operator nor cluster.
//!
//! Owns their processes, their configuration file and a steady load over all of them. It must not judge what passes: what came
//! through is counted at the application.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fusebox_testkit::http::Client;
use fusebox_testkit::{FlakyUpstream, Port, Process, ProcessBuilder, eventually};
use futures::future::try_join_all;
use serde_json::Value;

use crate::fleet::PATIENCE;

/// The container port that policies name.
pub const APPLICATION_PORT: u16 = 8080;

/// The header by which clients are told apart.
pub const CLIENT_HEADER: &str = "x-client";

/// Connections from the load to each replica.
const CONNECTIONS: usize = 2;

/// Running proxies and their application.
pub struct Replicas {
    /// The application.
    pub application: FlakyUpstream,
    replicas: Vec<Replica>,
}

struct Replica {
    listener: Port,
    admin: Port,
    _process: Process,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Requests a second over all replicas.
    pub rate: u32,
    /// For how long.
    pub time: Duration,
    /// Clients that take turns.
    pub clients: u32,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Passed {
    /// Answers by client and status.
    pub answers: BTreeMap<(u32, u16), u64>,
    /// Requests without an answer.
    pub unanswered: u64,
    /// From before the first request to after the last answer.
    pub time: Duration,
    /// The longest time to an answer.
    pub slowest: Duration,
    /// Every answer, in no order.
    pub log: Vec<Answered>,
}

/// One answer.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// When its request was sent.
    pub sent: Instant,
    /// When it was there.
    pub at: Instant,
    /// Its status.
    pub status: u16,
}

impl Replicas {
    /// Starts so many proxies with this configuration, as YAML, and waits until they are ready.
    ///
    /// # Errors
    /// When one isn't ready in time.
    pub async fn start(count: usize, config: &str) -> Result<Self> {
        Self::start_with(count, config, |_| Vec::new()).await
    }

    /// The same, with variables in the environment of each, by its number.
    ///
    /// # Errors
    /// When one isn't ready in time.
    pub async fn start_with(
        count: usize,
        config: &str,
        environment: impl Fn(usize) -> Vec<(&'static str, OsString)>,
    ) -> Result<Self> {
        let application = FlakyUpstream::start().await?;
        let file = fusebox_testkit::scratch()?.join(format!("replicas-{}.yaml", application.address().port()));
        std::fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let starts = (0..count).map(|number| replica(&application, &file, environment(number)));
        let replicas = try_join_all(starts).await?;
        Ok(Self { application, replicas })
    }

    /// Sends traffic over all replicas by turns, at an even pace, and waits for the answers.
    ///
    /// # Errors
    /// When a request of the load panics.
    pub async fn send(&self, traffic: Traffic) -> Result<Passed> {
        let addresses: Vec<SocketAddr> = self.replicas.iter().map(|replica| replica.listener.address()).collect();
        send(&addresses, traffic).await
    }

    /// What `/state` of each replica says.
    ///
    /// # Errors
    /// When one doesn't answer with JSON.
    pub async fn states(&self) -> Result<Vec<Value>> {
        try_join_all(self.replicas.iter().map(|replica| async {
            Client::new(replica.admin.address()).get("/state").await?.json().context("/state is no JSON")
        }))
        .await
    }

    /// Waits until `condition` holds for what `/state` of every replica says.
    ///
    /// # Errors
    /// When it doesn't in time.
    pub async fn show(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<()> {
        eventually(PATIENCE, what, async || {
            let states = self.states().await?;
            let other = states.iter().find(|state| !condition(state));
            other.map_or(Ok(()), |state| Err(anyhow::anyhow!("one says {state}")))
        })
        .await
    }
}

impl Passed {
    /// Requests of all clients that were let through.
    #[must_use]
    pub fn allowed(&self) -> u64 {
        self.answers.iter().filter(|((_, status), _)| *status == 200).map(|(_, count)| count).sum()
    }

    /// Requests of one client that were let through.
    #[must_use]
    pub fn allowed_of(&self, client: u32) -> u64 {
        self.answers.get(&(client, 200)).copied().unwrap_or_default()
    }

    /// Answers to requests that were sent after `from`, and were there before `to`.
    pub fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Answered> {
        self.log.iter().filter(move |answer| answer.sent >= from && answer.at <= to)
    }

    /// Answers of other statuses than these.
    #[must_use]
    pub fn other_than(&self, statuses: &[u16]) -> u64 {
        let other = self.answers.iter().filter(|((_, status), _)| !statuses.contains(status));
        other.map(|(_, count)| count).sum::<u64>() + self.unanswered
    }

    fn add(&mut self, other: Self) {
        for (key, count) in other.answers {
            *self.answers.entry(key).or_default() += count;
        }
        self.unanswered += other.unanswered;
        self.log.extend(other.log);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Sends traffic to all of these proxies by turns, at an even pace, and waits for the answers.
///
/// # Errors
/// When a request of the load panics.
pub async fn send(proxies: &[SocketAddr], traffic: Traffic) -> Result<Passed> {
    let lanes = proxies.len() * CONNECTIONS;
    let addresses = proxies.iter().flat_map(|address| [*address; CONNECTIONS]);
    let begun = Instant::now();
    let mut sending = tokio::task::JoinSet::new();
    for (lane, address) in addresses.enumerate() {
        sending.spawn(lane_of(address, (lane, lanes), traffic));
    }
    let mut all = Passed::default();
    while let Some(passed) = sending.join_next().await {
        all.add(passed?);
    }
    all.time = begun.elapsed();
    Ok(all)
}

async fn replica(
    application: &FlakyUpstream,
    file: &Path,
    environment: Vec<(&'static str, OsString)>,
) -> Result<Replica> {
    let (listener, admin) = (Port::reserve()?, Port::reserve()?);
    let mut builder = ProcessBuilder::binary("fusebox-proxy")?
        .arg(format!("--inbound={}={}/{APPLICATION_PORT}", listener.address(), application.address()))
        .arg(format!("--admin={}", admin.address()))
        .arg("--config")
        .arg(file);
    for (name, value) in environment {
        builder = builder.env(name, value);
    }
    let mut process = builder.start()?;
    process.wait_for_http(admin.address(), "/health/ready", PATIENCE).await?;
    Ok(Replica { listener, admin, _process: process })
}

/// One connection's part of the traffic: its requests are due at even distances, and late ones follow at once.
async fn lane_of(address: SocketAddr, (lane, lanes): (usize, usize), traffic: Traffic) -> Passed {
    let client = Client::new(address);
    let distance = Duration::from_secs(1) * u32::try_from(lanes).unwrap_or(1) / traffic.rate.max(1);
    let begun = Instant::now();
    let mut passed = Passed::default();
    for number in 0_u32.. {
        let due = distance * number + distance * u32::try_from(lane).unwrap_or(0) / u32::try_from(lanes).unwrap_or(1);
        if due >= traffic.time {
            break;
        }
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        let (who, sent) = (number % traffic.clients.max(1), Instant::now());
        match client.get_with("/", &[(CLIENT_HEADER, &format!("client-{who}"))]).await {
            Ok(answer) => {
                let status = answer.status.as_u16();
                *passed.answers.entry((who, status)).or_default() += 1;
                passed.log.push(Answered { sent, at: Instant::now(), status });
                passed.slowest = passed.slowest.max(answer.elapsed);
            }
            Err(_) => passed.unanswered += 1,
        }
    }
    passed
}
