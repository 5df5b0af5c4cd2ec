//! One connection to one server: what is asked over it, and when it is given up.
//!
//! It must not trust the server: an answer that makes no sense counts as none. Many decisions share the connection, each with
//! its own answer; none holds a lock while it waits.

mod opening;
mod replies;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fusebox_policy::rate_limit::Verdict;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::opening::Duty;
use self::replies::{Said, error_of, is_of_one_key};
use super::error::StoreLost;
use super::script::{Decision, Naming};

/// How long an attempt to connect may take, with TLS, credentials and verification, and any question that is not a decision.
pub(super) const ATTEMPT: Duration = Duration::from_secs(1);

/// After so many decisions in a row without an answer the server is left alone until it was verified anew.
const MAX_FAILURES_IN_A_ROW: u32 = 5;

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    redis: MultiplexedConnection,
    address: String,
    failures: AtomicU32,
    wake: Arc<Notify>,
    warning: String,
    limit: Duration,
    driver: AbortOnDropHandle<()>,
}

/// What a server answered instead of a value.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It doesn't know the script.
    NoScript,
    /// The slot lies on another node now.
    Moved(String),
    /// The slot is on its way to another node, which has this key already.
    Ask(String),
    /// The slot is on its way, and of several keys it has some and the other node the rest.
    TryAgain,
    /// Anything else.
    Lost(StoreLost),
}

/// Whether the key's slot is the server's own, or on its way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Its own.
    Settled,
    /// On its way.
    Moving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure,
}

impl Connection {
    /// `host:port`, as the server was named.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What is not as it should be; empty if nothing.
    pub(super) fn warning(&self) -> &str {
        &self.warning
    }

    /// Whether it stands, and answered of late.
    pub(super) fn is_usable(&self) -> bool {
        !self.driver.is_finished() && self.failures.load(Ordering::Relaxed) < MAX_FAILURES_IN_A_ROW
    }

    /// The verdicts of one decision.
    pub(super) async fn decide(&self, decision: &Decision<'_>, arrival: Arrival) -> Result<Vec<Verdict>, Refusal> {
        let known = self.ask(&decision.command(Naming::Digest), arrival).await;
        let answer: Vec<i64> = match known {
            Err(Refusal::NoScript) => self.ask(&decision.command(Naming::Text), arrival).await?,
            other => other?,
        };
        decision.read(&answer).ok_or_else(|| {
            self.failed();
            Refusal::Lost(StoreLost::Malformed { address: self.address.clone() })
        })
    }

    /// Sends one command for a key of ours.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd, arrival: Arrival) -> Result<T, Refusal> {
        let watched = Watched { connection: self, since: Instant::now() };
        let mut redis = self.redis.clone();
        let answer = match arrival {
            Arrival::Settled => command.query_async(&mut redis).await,
            Arrival::Moving => {
                let mut pipeline = Pipeline::new();
                pipeline.cmd("ASKING").ignore().add_command(command.clone());
                pipeline.query_async(&mut redis).await.map(|(value,)| value)
            }
        };
        let answer = answer.map_err(|error| self.refusal(&error));
        watched.answered(match &answer {
            // One key that is not ours is no fault of the connection.
            Err(Refusal::Lost(StoreLost::Answered { code, .. })) if is_of_one_key(code) => Outcome::Success,
            Err(Refusal::Lost(_)) => Outcome::Failure,
            Ok(_) | Err(Refusal::NoScript | Refusal::Moved(_) | Refusal::Ask(_) | Refusal::TryAgain) => {
                Outcome::Success
            }
        });
        answer
    }

    /// Asks something that is no decision.
    pub(super) async fn question<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreLost> {
        let asked = tokio::time::timeout(ATTEMPT, command.query_async(&mut self.redis.clone())).await;
        let answer = asked.map_err(|_| StoreLost::Timeout { limit: ATTEMPT })?;
        answer.map_err(|error| error_of(&self.address, &error))
    }

    /// Whether the server is still there, within the time that a decision has.
    pub(super) async fn ping(&self, limit: Duration) -> Result<(), StoreLost> {
        let begun = Instant::now();
        self.question::<String>(&redis::cmd("PING")).await?;
        if begun.elapsed() > limit { Err(StoreLost::Timeout { limit }) } else { Ok(()) }
    }

    /// Whether a server that says so is the primary. One whose ACL keeps it from saying is believed.
    pub(super) async fn is_primary(&self) -> Result<bool, StoreLost> {
        let role: Result<redis::Value, StoreLost> = self.question(&redis::cmd("ROLE")).await;
        match role {
            Ok(redis::Value::Array(fields)) => Ok(fields.first().and_then(text_of).is_none_or(|role| role == "master")),
            Ok(_) => Err(StoreLost::Malformed { address: self.address.clone() }),
            Err(StoreLost::Answered { code, .. }) if code == "NOPERM" => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn refusal(&self, error: &RedisError) -> Refusal {
        let said = Said::of(error);
        match said.as_ref().map(|said| (said.code.as_str(), said.node())) {
            Some(("NOSCRIPT", _)) => Refusal::NoScript,
            Some(("MOVED", Some(address))) => Refusal::Moved(address),
            Some(("ASK", Some(address))) => Refusal::Ask(address),
            Some(("TRYAGAIN", _)) => Refusal::TryAgain,
            said => {
                // A primary that became a replica is found out by whoever looks after the connections.
                if said.is_some_and(|(code, _)| code == "READONLY") {
                    self.give_up();
                }
                Refusal::Lost(error_of(&self.address, error))
            }
        }
    }

    /// Has the keeper look at what changed.
    pub(super) fn call_keeper(&self) {
        self.wake.notify_one();
    }

    fn give_up(&self) {
        self.failures.store(MAX_FAILURES_IN_A_ROW, Ordering::Relaxed);
        self.call_keeper();
    }

    fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 && self.is_usable() {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    fn failed(&self) {
        // One more than needed at most: the count stops where the connection is given up.
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 == MAX_FAILURES_IN_A_ROW {
            self.wake.notify_one();
        }
    }
}

/// Counts failures in a row: answers that are none, and those that nobody waits for any more because they are overdue.
struct Watched<'a> {
    connection: &'a Connection,
    since: Instant,
}

impl Watched<'_> {
    fn answered(self, outcome: Outcome) {
        match outcome {
            Outcome::Failure => self.connection.failed(),
            Outcome::Success => self.connection.succeeded(),
        }
        std::mem::forget(self);
    }
}

impl Drop for Watched<'_> {
    /// A request that was cancelled at once says nothing about the store, or clients could make it seem lost.
    fn drop(&mut self) {
        if self.since.elapsed() >= self.connection.limit / 2 {
            self.connection.failed();
        }
    }
}

fn text_of(value: &redis::Value) -> Option<String> {
    redis::from_redis_value_ref(value).ok()
}
