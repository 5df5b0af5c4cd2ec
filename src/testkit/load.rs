//! A constant-rate load, whatever the server does.
//!
//! Owns the schedule, the connections and the figures. It must not slow down when answers do: a generator that waits for
//! answers sends less to a slow server and so hides how slow it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::http::Client;

/// Tokio's timer is no finer, so that requests of one millisecond go out together.
const TICK: Duration = Duration::from_millis(1);
/// How many requests may be unanswered; beyond that they count as not sent.
const MAX_OUTSTANDING: usize = 20_000;

/// What is sent.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// The path of the GET requests.
    pub path: String,
    /// Headers of every request, as in `("host", "payments.shop")`.
    pub headers: Vec<(String, String)>,
    /// Requests a second.
    pub rate: u32,
    /// For how long.
    pub duration: Duration,
    /// How many connections are kept open. Requests beyond wait, and the wait counts as latency.
    pub connections: usize,
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// How many requests were sent.
    pub sent: u64,
    /// Requests that were due while too many were unanswered.
    pub not_sent: u64,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a whole answer.
    pub errors: u64,
    /// The first error.
    pub first_error: Option<String>,
    /// Latencies of the answers, ascending, from when each request was due to go out until its body's end.
    pub latencies: Vec<Duration>,
}

impl Load {
    /// Plain GET requests of `/` on 32 connections.
    #[must_use]
    pub fn new(address: SocketAddr, rate: u32, duration: Duration) -> Self {
        Self { address, path: "/".to_owned(), headers: Vec::new(), rate, duration, connections: 32 }
    }

    /// Sends the load and waits for the last answer.
    ///
    /// # Errors
    /// When rate or connections are 0. Failing requests are counted in the report.
    pub async fn run(self) -> Result<LoadReport> {
        ensure!(self.rate > 0 && self.connections > 0, "a load needs a rate and connections above 0");
        let load = Arc::new(self);
        let pool = Arc::new(Pool::new(&load));
        let mut requests = JoinSet::new();
        let mut report = LoadReport::default();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let started = Instant::now();
        let total = (u128::from(load.rate) * load.duration.as_millis() / 1_000) as u64;
        while report.sent + report.not_sent < total {
            let tick = ticks.tick().await;
            let due = (u128::from(load.rate) * (tick - started).as_micros() / 1_000_000) as u64;
            while report.sent + report.not_sent < due.min(total) {
                if requests.len() >= MAX_OUTSTANDING {
                    report.not_sent += 1;
                } else {
                    report.sent += 1;
                    requests.spawn(one_request(Arc::clone(&load), Arc::clone(&pool), Instant::now()));
                }
            }
            while let Some(outcome) = requests.try_join_next() {
                report.count(outcome.context("a request panicked")?);
            }
        }
        while let Some(outcome) = requests.join_next().await {
            report.count(outcome.context("a request panicked")?);
        }
        report.latencies.sort_unstable();
        Ok(report)
    }
}

impl LoadReport {
    /// The latency that `percent` of the answers did not exceed, as in `percentile(99.0)`; zero without answers.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        let rank = (percent / 100.0 * self.latencies.len() as f64).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// How many answers had this status code.
    #[must_use]
    pub fn count_of(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    fn count(&mut self, outcome: Result<(u16, Duration)>) {
        match outcome {
            Ok((status, latency)) => {
                *self.statuses.entry(status).or_default() += 1;
                self.latencies.push(latency);
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, worst] = [50.0, 99.0, 100.0].map(|percent| self.percentile(percent));
        let Self { sent, not_sent, statuses, errors, first_error, .. } = self;
        write!(formatter, "{sent} sent, {statuses:?}, {errors} errors, {not_sent} not sent; ")?;
        write!(formatter, "p50 {p50:?}, p99 {p99:?}, max {worst:?}")?;
        first_error.iter().try_for_each(|error| write!(formatter, "; first error: {error}"))
    }
}

/// The connections that are not in use; the last one used is the first one taken.
struct Pool {
    free: Semaphore,
    clients: Mutex<Vec<Client>>,
}

impl Pool {
    fn new(load: &Load) -> Self {
        let clients = (0..load.connections).map(|_| Client::new(load.address)).collect();
        Self { free: Semaphore::new(load.connections), clients: Mutex::new(clients) }
    }

    fn clients(&self) -> MutexGuard<'_, Vec<Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn one_request(load: Arc<Load>, pool: Arc<Pool>, due: Instant) -> Result<(u16, Duration)> {
    let _permit = pool.free.acquire().await.context("the pool is closed")?;
    let client = pool.clients().pop().context("a permit stands for a client")?;
    let headers: Vec<(&str, &str)> = load.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let response = client.get_with(&load.path, &headers).await;
    pool.clients().push(client);
    Ok((response?.status.as_u16(), due.elapsed()))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use http::StatusCode;

    use super::*;
    use crate::upstream::{Behaviour, FlakyUpstream};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_answer_is_counted_by_status() -> Result<()> {
        let upstream = FlakyUpstream::start().await?;
        let nth = NonZeroU64::new(4).context("not zero")?;
        upstream.set(Behaviour::FailEvery { nth, status: StatusCode::SERVICE_UNAVAILABLE });
        let report = Load::new(upstream.address(), 400, Duration::from_millis(500)).run().await?;
        println!("{report}");
        assert_eq!((report.sent, report.count_of(200), report.count_of(503), report.errors), (200, 150, 50, 0));
        assert!(upstream.connections() <= 32);
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_slow_server_does_not_slow_the_load_and_waiting_counts_as_latency() -> Result<()> {
        let upstream = FlakyUpstream::start().await?;
        upstream.set_latency(Duration::from_millis(100));
        let mut load = Load::new(upstream.address(), 100, Duration::from_millis(200));
        load.connections = 1;
        let report = load.run().await?;
        assert_eq!(report.count_of(200), 20);
        // One connection serves 10 a second; the last of 20 has waited for all before it.
        assert!(report.percentile(100.0) > Duration::from_millis(1_500), "{report}");
        Ok(())
    }

    #[test]
    fn percentiles_are_ranks_of_the_sorted_latencies() {
        let report = LoadReport { latencies: (1..=100).map(Duration::from_millis).collect(), ..LoadReport::default() };
        let at = |percent| report.percentile(percent).as_millis();
        assert_eq!((at(50.0), at(99.0), at(100.0)), (50, 99, 100));
        assert_eq!(LoadReport::default().percentile(99.0), Duration::ZERO);
    }
}
