//! One connection to one server: TCP, TLS, credentials, and the questions by which it is verified.
//!
//! It must not trust the server: what it may send is bounded by what it was asked, because the library reads whatever comes.
//! Many decisions share the connection, each with its own answer; none holds a lock while it waits.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fusebox_policy::rate_limit::Verdict;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError,
    ServerErrorKind,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::error::StoreLost;
use super::script::{Decision, Naming};
use super::settings::{Credentials, Endpoint, StoreSettings};

/// How long an attempt to connect may take, with TLS, credentials and verification, and any question that is not a decision.
pub(super) const ATTEMPT: Duration = Duration::from_secs(1);

/// After so many decisions in a row without an answer the server is left alone until it was verified anew.
const MAX_FAILURES_IN_A_ROW: u32 = 5;

/// What a server may send before it was asked anything, and for each byte that it was sent since. An answer of ours is never as
/// long as its question; a cluster's list of slots is.
const UNASKED_BYTES: u64 = 1 << 20;
const BYTES_FOR_EACH_SENT: u64 = 16;

/// The longest code of a server's error that is shown.
const MAX_CODE: usize = 24;

/// How servers say that their ACL refuses a command of the script, before and since Redis 7.2.
const REFUSED_IN_SCRIPT: [&str; 2] = ["executing the script can't", "ACL failure in script"];

/// Policies under which Redis never drops a key that has not expired.
const KEEPING_POLICY: &str = "noeviction";

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

/// Whom a connection is for: only a server that keeps buckets is verified for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Buckets.
    Keeps,
    /// Buckets; a server that may turn out to be a replica.
    KeepsAsPrimary,
    /// The name of the primary. It is asked without a password: a Sentinel has one of its own, or none.
    Guides,
    /// The same, of one that asks for a password.
    GuidesWithPassword,
}

impl Connection {
    /// Connects to a server and verifies that it can be used. The caller bounds the time.
    pub(super) async fn open(
        settings: &StoreSettings,
        endpoint: &Endpoint,
        (duty, wake): (Duty, &Arc<Notify>),
    ) -> Result<Self, StoreLost> {
        let address = endpoint.to_string();
        let stream = dial(endpoint)
            .await
            .map_err(|error| StoreLost::Unreachable { address: address.clone(), problem: error.to_string() })?;
        let info = handshake_of(settings, duty);
        let (redis, driver) = match &settings.tls {
            None => handshake(&info, stream, &address).await?,
            Some(config) => {
                let tls = |problem: String| StoreLost::Tls { address: address.clone(), problem };
                let name = endpoint.server_name().map_err(|error| tls(error.to_string()))?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, stream).await.map_err(|error| tls(error.to_string()))?;
                handshake(&info, stream, &address).await?
            }
        };
        let ended = Arc::clone(wake);
        let driver = tokio::spawn(async move {
            driver.await;
            ended.notify_one();
        });
        let mut connection = Self {
            redis,
            address,
            failures: AtomicU32::new(0),
            wake: Arc::clone(wake),
            warning: String::new(),
            limit: settings.timeout,
            driver: AbortOnDropHandle::new(driver),
        };
        connection.verify(settings, duty).await?;
        Ok(connection)
    }

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
            Ok(_) | Err(Refusal::NoScript | Refusal::Moved(_) | Refusal::Ask(_)) => Outcome::Success,
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

    async fn verify(&mut self, settings: &StoreSettings, duty: Duty) -> Result<(), StoreLost> {
        if matches!(duty, Duty::Guides | Duty::GuidesWithPassword) {
            return Ok(());
        }
        // A server that asks for a password says so only where the question is short.
        self.ping(ATTEMPT).await?;
        self.rehearse(settings).await?;
        if duty == Duty::KeepsAsPrimary && !self.is_primary().await? {
            return Err(StoreLost::NotPrimary { address: self.address.clone() });
        }
        if let Some(policy) = self.eviction_policy().await? {
            self.warning = format!(
                "{} may drop buckets when its memory is full, which gives clients fresh quota: maxmemory-policy is {policy}, \
                 and should be {KEEPING_POLICY}",
                self.address
            );
        }
        Ok(())
    }

    /// Makes a decision over a bucket that nobody uses, twice: the second one must be as fast as decisions have to be. A node of
    /// a cluster may say that the bucket is another's, which only a node that lets us in does.
    async fn rehearse(&self, settings: &StoreSettings) -> Result<(), StoreLost> {
        let demands = [settings.rehearsal()];
        let decision = Decision::new(&demands)?;
        for limit in [ATTEMPT, settings.timeout] {
            match tokio::time::timeout(limit, self.decide(&decision, Arrival::Settled)).await {
                Ok(Ok(_) | Err(Refusal::Moved(_) | Refusal::Ask(_))) => {}
                Ok(Err(Refusal::Lost(error))) => return Err(error),
                Ok(Err(Refusal::NoScript)) => return Err(StoreLost::Malformed { address: self.address.clone() }),
                Err(_) => return Err(StoreLost::Timeout { limit }),
            }
        }
        Ok(())
    }

    /// The policy by which the server drops keys; none where it doesn't, or doesn't say: an ACL for our keys alone needs
    /// neither CONFIG nor INFO.
    async fn eviction_policy(&self) -> Result<Option<String>, StoreLost> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("maxmemory-policy");
        let policy = match self.question::<Vec<String>>(&command).await {
            Ok(pair) => pair.into_iter().nth(1),
            Err(StoreLost::Answered { .. }) => match self.question::<String>(redis::cmd("INFO").arg("memory")).await {
                Ok(text) => text.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::to_owned),
                Err(StoreLost::Answered { .. }) => None,
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let known = |policy: &String| policy.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        Ok(policy.map(|policy| policy.trim().to_owned()).filter(known).filter(|policy| policy != KEEPING_POLICY))
    }

    fn refusal(&self, error: &RedisError) -> Refusal {
        let target = || error.redirect_node().map(|(address, _)| address.to_owned());
        match (error.kind(), target()) {
            (ErrorKind::Server(ServerErrorKind::NoScript), _) => Refusal::NoScript,
            (ErrorKind::Server(ServerErrorKind::Moved), Some(address)) => Refusal::Moved(address),
            (ErrorKind::Server(ServerErrorKind::Ask), Some(address)) => Refusal::Ask(address),
            (kind, _) => {
                // A primary that became a replica is found out by whoever looks after the connections.
                if kind == ErrorKind::Server(ServerErrorKind::ReadOnly) {
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

fn handshake_of(settings: &StoreSettings, duty: Duty) -> RedisConnectionInfo {
    let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    let Credentials { username, password } = &settings.credentials;
    let with_password = |info: RedisConnectionInfo| match (username, password) {
        (Some(username), Some(password)) => info.set_username(username).set_password(password),
        (None, Some(password)) => info.set_password(password),
        (_, None) => info,
    };
    match duty {
        Duty::Keeps | Duty::KeepsAsPrimary => with_password(info).set_db(i64::from(settings.database)),
        Duty::Guides => info,
        Duty::GuidesWithPassword => with_password(info),
    }
}

async fn dial(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn handshake<S>(
    info: &RedisConnectionInfo,
    stream: S,
    address: &str,
) -> Result<(MultiplexedConnection, Pin<Box<dyn Future<Output = ()> + Send>>), StoreLost>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let bounded = Bounded { inner: stream, may_read: UNASKED_BYTES };
    // Every wait here and later has its own bound.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let (redis, driver) = MultiplexedConnection::new_with_config(info, bounded, config)
        .await
        .map_err(|error| error_of(address, &error))?;
    Ok((redis, Box::pin(driver)))
}

/// Words of our own for an error of the library, which may hold words of the server.
fn error_of(address: &str, error: &RedisError) -> StoreLost {
    let address = address.to_owned();
    match error.kind() {
        ErrorKind::AuthenticationFailed => StoreLost::Credentials { address },
        ErrorKind::Io => StoreLost::Ended { address },
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => StoreLost::Malformed { address },
        _ => match error.code() {
            Some("WRONGPASS") => StoreLost::Credentials { address },
            // Of a command within the script an ACL's refusal is an error like any other.
            Some("ERR") if error.detail().is_some_and(is_refused_in_script) => {
                StoreLost::Answered { address, code: "NOPERM".to_owned() }
            }
            Some(code) => StoreLost::Answered { address, code: word(code) },
            None => StoreLost::Malformed { address },
        },
    }
}

/// An error's code is an upper-case word; anything else may be anything.
fn word(code: &str) -> String {
    let is_word = !code.is_empty() && code.len() <= MAX_CODE && code.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_word { code.to_owned() } else { "ERR".to_owned() }
}

fn is_refused_in_script(detail: &str) -> bool {
    REFUSED_IN_SCRIPT.iter().any(|words| detail.contains(words))
}

/// Errors that tell of a key rather than of the server.
fn is_of_one_key(code: &str) -> bool {
    matches!(code, "FOREIGN" | "WRONGTYPE" | "TRYAGAIN" | "CROSSSLOT")
}

fn text_of(value: &redis::Value) -> Option<String> {
    redis::from_redis_value_ref(value).ok()
}

/// A stream on which the other side may not say more than befits what it was asked.
struct Bounded<S> {
    inner: S,
    may_read: u64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, ctx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(ctx, buffer);
        let read = u64::try_from(buffer.filled().len() - before).unwrap_or(u64::MAX);
        match self.may_read.checked_sub(read) {
            Some(left) => {
                self.may_read = left;
                polled
            }
            None => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the store says more than it was asked")))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, ctx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(ctx, bytes);
        if let Poll::Ready(Ok(sent)) = &polled {
            let more = u64::try_from(*sent).unwrap_or(u64::MAX).saturating_mul(BYTES_FOR_EACH_SENT);
            self.may_read = self.may_read.saturating_add(more);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(ctx)
    }
}
