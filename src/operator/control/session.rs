//! One sidecar's control stream, from its Hello to its end.
//!
//! It sends the workload's configuration whenever it changes, and takes acknowledgements and
//! reports into the book. It believes nothing of a sidecar beyond what its own configuration binds.

mod claims;
mod sent;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fusebox_policy::stream::{Answer, Down, LineError, Up};
use tokio_util::sync::CancellationToken;

use self::sent::Sent;
use super::book::Taken;
use super::commands::{Line, MAX_UNDER_WAY, Order, UnderWay, policy_of};
use super::configurations::Configuration;
use super::directory::{Lookup, PodEntry};
use super::event::{Acknowledgement, Connection, Happened, ProxyEvent, Rejection};
use super::line::{ReadError, Reader, WriteError, Writer};
use super::server::Control;
use fusebox_compiler::Kind;

/// How long a sidecar may take to say Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a Ping is sent.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(10);

/// A stream from which nothing came for this long is dead.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

/// Changes of endpoints within this time are told at once, since a rollout changes many pods.
const ENDPOINTS_TOGETHER: Duration = Duration::from_millis(100);

/// The longest version or revision that is kept, in bytes.
const MAX_WORD: usize = 128;

/// The longest error text that is kept, in bytes.
const MAX_ERROR: usize = 1024;

/// One stream.
pub(super) struct Session {
    pub(super) control: Arc<Control>,
    pub(super) entry: Arc<PodEntry>,
    pub(super) expires_unix: i64,
    pub(super) reader: Reader<Up>,
    pub(super) writer: Writer,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("no Hello came within {HELLO_TIMEOUT:?}")]
    HelloTimeout,
    #[error("the first line was not Hello")]
    HelloMissing,
    #[error("Hello came twice")]
    HelloTwice,
    #[error("a line was not a message")]
    Malformed(#[source] LineError),
    #[error("a line was too long")]
    TooLong(#[source] LineError),
    #[error("the sidecar closed the stream")]
    Closed,
    #[error("the connection broke")]
    Broken,
    #[error("the sidecar does not read")]
    Slow,
    #[error("nothing came for {SILENCE:?}")]
    Silent,
    #[error("the token expired")]
    TokenExpired,
    #[error("the pod is gone")]
    PodGone,
    #[error("the pod's workload or mark changed")]
    PodChanged,
    #[error("a newer stream took its place")]
    Replaced,
    #[error("the operator shuts down")]
    Shutdown,
    #[error("the leader changed")]
    NotLeader,
}

impl End {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::HelloTimeout => "HelloTimeout",
            Self::HelloMissing => "HelloMissing",
            Self::HelloTwice => "HelloTwice",
            Self::Malformed(_) => "LineMalformed",
            Self::TooLong(_) => "LineTooLong",
            Self::Closed => "Closed",
            Self::Broken => "Broken",
            Self::Slow => "SlowReader",
            Self::Silent => "Silent",
            Self::TokenExpired => "TokenExpired",
            Self::PodGone => "PodGone",
            Self::PodChanged => "PodChanged",
            Self::Replaced => "Replaced",
            Self::Shutdown => "Shutdown",
            Self::NotLeader => "NotLeader",
        }
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Broken(_) => Self::Broken,
            ReadError::Line(error @ LineError::TooLong { .. }) => Self::TooLong(error),
            ReadError::Line(error @ LineError::Malformed(_)) => Self::Malformed(error),
        }
    }
}

impl From<WriteError> for End {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Slow => Self::Slow,
            WriteError::Gone => Self::Broken,
        }
    }
}

impl Session {
    /// Serves the stream until it ends, and says why.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let end = self.talk(&shutdown).await;
        self.control.metrics.streams.ended.with_label_values(&[end.reason()]).inc();
        let pod = &self.entry.pod;
        let detail = std::error::Error::source(&end).map(ToString::to_string);
        tracing::info!(namespace = pod.namespace, pod = pod.name, reason = end.reason(), detail, "stream ended");
    }

    async fn talk(&mut self, shutdown: &CancellationToken) -> End {
        let hello = match self.hello(shutdown).await {
            Ok(hello) => hello,
            Err(end) => return end,
        };
        let enforced = hello.enforced.as_ref().map(|enforced| enforced.revision.clone());
        let control = Arc::clone(&self.control);
        let seat = control.seats.enter(&self.entry.pod.uid, || self.record(Happened::Connected(hello)));
        control.metrics.streams.proxies_connected.inc();
        let end = tokio::select! {
            end = self.exchange(enforced) => end,
            () = seat.replaced.cancelled() => End::Replaced,
            () = shutdown.cancelled() => End::Shutdown,
        };
        control.metrics.streams.proxies_connected.dec();
        control.seats.leave(&seat, || {
            self.record(match end {
                End::PodGone => Happened::Deleted,
                _ => Happened::Disconnected,
            });
        });
        end
    }

    async fn hello(&mut self, shutdown: &CancellationToken) -> Result<Connection, End> {
        let first = tokio::select! {
            first = tokio::time::timeout(HELLO_TIMEOUT, self.reader.next()) => first,
            () = shutdown.cancelled() => return Err(End::Shutdown),
        };
        let Up::Hello { version, revision, policies } =
            first.map_err(|_| End::HelloTimeout)??.ok_or(End::HelloMissing)?
        else {
            return Err(End::HelloMissing);
        };
        let policies = self.bound(policies);
        Ok(Connection {
            workload: self.entry.workload.clone(),
            version: cut(version, MAX_WORD),
            since_unix_ms: unix_ms(SystemTime::now()),
            enforced: revision.map(|revision| Acknowledgement { revision: cut(revision, MAX_WORD), policies }),
        })
    }

    async fn exchange(&mut self, revision: Option<String>) -> End {
        match self.converse(Sent::new(revision)).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn converse(&mut self, mut sent: Sent) -> Result<std::convert::Infallible, End> {
        let control = Arc::clone(&self.control);
        let mut configurations = control.source.subscribe();
        let mut pods = control.directory.subscribe();
        let mut endpoints = control.endpoints.subscribe();
        let (mut references, mut replicas) = (control.references.subscribe(), control.replicas.subscribe());
        let mut commands = control.commands.take(Line::Pod(self.entry.pod.uid.clone()));
        let mut under_way = UnderWay::new(MAX_UNDER_WAY);
        let mut tell_at = None;
        let mut ping = tokio::time::interval(PING_EVERY);
        let expiry = tokio::time::sleep(until_unix(self.expires_unix, SystemTime::now()));
        tokio::pin!(expiry);
        let mut heard_at = Instant::now();
        // All may have changed between the answer and the subscription.
        self.check_pod()?;
        self.send_all(&mut sent).await?;
        loop {
            tokio::select! {
                message = self.reader.next() => {
                    heard_at = Instant::now();
                    self.take(message?.ok_or(End::Closed)?, &mut under_way)?;
                }
                _ = configurations.changed() => self.send_all(&mut sent).await?,
                _ = references.changed() => self.send_references(&mut sent).await?,
                _ = replicas.changed() => self.send_replicas(&mut sent).await?,
                Some(order) = commands.orders.recv(), if under_way.has_room() => {
                    self.command(order, &mut under_way).await?;
                }
                _ = endpoints.changed(), if tell_at.is_none() => {
                    tell_at = Some(tokio::time::Instant::now() + ENDPOINTS_TOGETHER);
                }
                () = at(tell_at) => {
                    tell_at = None;
                    endpoints.mark_unchanged();
                    self.send_endpoints(&mut sent).await?;
                }
                _ = pods.changed() => self.check_pod()?,
                _ = ping.tick() => {
                    if heard_at.elapsed() > SILENCE {
                        return Err(End::Silent);
                    }
                    self.send(&Down::Ping).await?;
                }
                () = &mut expiry => return Err(End::TokenExpired),
            }
        }
    }

    fn check_pod(&self) -> Result<(), End> {
        match self.control.directory.lookup(&self.entry.pod.uid) {
            Lookup::Found(entry) if *entry == *self.entry => Ok(()),
            Lookup::Found(_) => Err(End::PodChanged),
            Lookup::Unknown | Lookup::NotReady => Err(End::PodGone),
        }
    }

    /// Passes a command on, if the sidecar enforces what it is about.
    async fn command(&mut self, order: Order, under_way: &mut UnderWay) -> Result<(), End> {
        let Order { pod: _, command, answer } = order;
        let bound = policy_of(&command).zip(self.configuration());
        if !bound.is_some_and(|(policy, current)| current.binds(&Kind::RateLimit.key(policy))) {
            // Whoever asked may have given up.
            let _ = answer.send(Answer::Failed { problem: "the sidecar does not enforce this policy".to_owned() });
            return Ok(());
        }
        let id = under_way.begin(command.clone(), answer);
        self.send(&Down::Command { id, command }).await
    }

    fn take(&self, message: Up, under_way: &mut UnderWay) -> Result<(), End> {
        match message {
            Up::Hello { .. } => return Err(End::HelloTwice),
            Up::Pong | Up::Unknown => {}
            Up::Answer { id, answer } => under_way.answered(id, answer),
            Up::Ack { revision, policies } => {
                self.control.metrics.told.configurations.with_label_values(&["acknowledged"]).inc();
                let policies = self.bound(policies);
                self.record(Happened::Acknowledged(Acknowledgement { revision: cut(revision, MAX_WORD), policies }));
            }
            Up::Nack { revision, error } => {
                self.control.metrics.told.configurations.with_label_values(&["refused"]).inc();
                let refused = self.configuration().filter(|current| current.revision() == revision);
                let policies = refused.map(|current| current.config().policies.clone()).unwrap_or_default();
                let (revision, error) = (cut(revision, MAX_WORD), cut(error, MAX_ERROR));
                self.record(Happened::Refused(Rejection { revision, error, policies }));
            }
            Up::Report(report) => self.record(Happened::Reported(self.bound_report(report))),
        }
        Ok(())
    }

    fn configuration(&self) -> Option<Arc<Configuration>> {
        self.control.source.current()?.get(&self.entry.workload).cloned()
    }

    fn record(&self, happened: Happened) {
        let event = ProxyEvent { pod: self.entry.pod.clone(), happened };
        if let Taken::Cut(count) = self.control.book.record(event, Instant::now()) {
            self.count_dropped("TooMany", count);
        }
    }

    fn count_dropped(&self, reason: &str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.control.metrics.reports_dropped.with_label_values(&[reason]).inc_by(count);
    }
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// At most `limit` bytes of it, at a character's boundary.
fn cut(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn until_unix(unix: i64, now: SystemTime) -> Duration {
    let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or_default());
    end.duration_since(now).unwrap_or_default()
}
