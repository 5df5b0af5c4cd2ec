//! Bytes that are passed on as they are: TLS, other protocols over TCP, and what HTTP was upgraded to.
//!
//! It must not read what it carries. The breaker sees only whether a connection could be made, because
//! nothing else of an unknown protocol says whether the upstream works.

mod counts;
mod frames;
mod splice;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox_policy::circuit_breaker::{Ended, Outcome};
use fusebox_policy::config::FailureCondition;
use tokio::net::TcpStream;

pub(crate) use self::counts::{TunnelCounts, TunnelEnding};
use self::splice::{Ended as Spliced, Splice};
use self::watch::{Sight, Watch};
use crate::enforcer::Enforcer;
use crate::listener::caller::Caller;
use crate::listener::stream::ClientStream;
use crate::pipeline::gate::{self, Gate, Pass};
use crate::snapshot::{Reach, Rule};
use crate::upstream;

/// How long the destination of a connection that is passed on untouched may take to accept it: a client that connects by
/// itself would wait as long.
pub(crate) const UNTOUCHED_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// After so much silence the kernel asks a far end for a sign of life, and then this often.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// The far end of a tunnel, connected.
#[derive(Debug)]
pub(crate) struct Upstream {
    prefix: Bytes,
    stream: TcpStream,
    rule: Arc<Rule>,
}

impl Upstream {
    /// A connection on which HTTP ended; `prefix` was read from it beyond that.
    pub(crate) fn new(prefix: Bytes, stream: TcpStream, rule: Arc<Rule>) -> Self {
        Self { prefix, stream, rule }
    }

    /// Waits until the server speaks or ends the connection.
    pub(crate) async fn spoke(&self) -> bool {
        self.stream.peek(&mut [0]).await.is_ok()
    }
}

/// Connects to the destination of the caller's listener, unless its breaker refuses or it can't be reached.
pub(crate) async fn open(caller: &Caller) -> Option<Upstream> {
    let rule = caller.way.fixed_rule(&caller.enforcer)?;
    let started = Instant::now();
    let pass = match gate::ask(caller, &rule, started) {
        Gate::Pass(pass) => pass,
        Gate::Refuse(_) => {
            rule.series.tunnels().ended(TunnelEnding::Refused);
            return None;
        }
        Gate::NoAddress => {
            rule.series.tunnels().ended(TunnelEnding::ConnectFailure);
            return None;
        }
    };
    let limit = if rule.reach == Reach::Untouched { UNTOUCHED_CONNECT_TIMEOUT } else { upstream::CONNECT_TIMEOUT };
    match upstream::connect(gate::pools(caller, &rule, pass.endpoint.as_deref()), limit).await {
        Ok(stream) => {
            settle(&caller.enforcer, &rule, (pass, Ended::after(started.elapsed(), Outcome::Success)));
            Some(Upstream { prefix: Bytes::new(), stream, rule })
        }
        Err(error) => {
            tracing::debug!(target_service = %rule.target, error = &error as &dyn std::error::Error, "no tunnel");
            let failures = rule.guard.as_ref().map(|guard| &guard.failures);
            let outcome = failures
                .map_or(Outcome::Neutral, |failures| failures.condition_outcome(FailureCondition::ConnectFailure));
            settle(&caller.enforcer, &rule, (pass, Ended::after(started.elapsed(), outcome)));
            rule.series.tunnels().ended(TunnelEnding::ConnectFailure);
            None
        }
    }
}

/// Passes bytes both ways until both sides are done, one of them breaks off, or neither says anything for long.
///
/// Returns the client where it goes on with a request that a policy is for, which was not there when the connection began.
pub(crate) async fn carry(client: ClientStream, upstream: Upstream, caller: &Caller) -> Option<ClientStream> {
    let Upstream { prefix, stream, rule } = upstream;
    let activity = Arc::clone(&caller.activity);
    let (read, written) = (activity.read(), activity.written());
    let mut watch = Watch::new(caller, &rule);
    let client = client.into_tunnel();
    if rule.reach == Reach::Untouched {
        keep_alive(&stream);
        keep_alive(client.socket());
    }
    let mut splice = Splice::new(client, stream, prefix);
    let ended = loop {
        tokio::select! {
            biased;
            ended = std::future::poll_fn(|cx| splice.poll(cx)) => break ended.into(),
            () = watch.until_due() => match watch.look(splice.is_half_closed()) {
                Sight::Fine => {}
                Sight::TakeOver => splice.take_over(),
                Sight::End(ending) => break Carried::Ended(ending),
            },
        }
    };
    let counts = rule.series.tunnels();
    counts.carried(activity.read().saturating_sub(read), activity.written().saturating_sub(written));
    match ended {
        Carried::Ended(ending) => {
            if ending == TunnelEnding::Broken && caller.way.address().is_some() {
                splice.reset();
            }
            counts.ended(ending);
            None
        }
        Carried::Request(bytes) => {
            counts.ended(TunnelEnding::Complete);
            let mut client = splice.client.into_http1();
            client.put_back(bytes);
            Some(client)
        }
    }
}

/// What became of a tunnel.
enum Carried {
    Ended(TunnelEnding),
    Request(Bytes),
}

impl From<Spliced> for Carried {
    fn from(ended: Spliced) -> Self {
        match ended {
            Spliced::Complete => Self::Ended(TunnelEnding::Complete),
            Spliced::Broken(error) => {
                tracing::debug!(%error, "tunnel broke off");
                Self::Ended(TunnelEnding::Broken)
            }
            Spliced::NewRequest(bytes) => Self::Request(bytes),
        }
    }
}

/// A connection that nobody else ends for being idle must end when its far end is gone.
fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl};
    // A socket that refuses is about to fail anyway.
    let _ = set_socket_keepalive(stream, true);
    let _ = set_tcp_keepidle(stream, KEEP_ALIVE_IDLE);
    let _ = set_tcp_keepintvl(stream, KEEP_ALIVE_INTERVAL);
}

fn settle(enforcer: &Enforcer, rule: &Rule, settled: (Pass, Ended)) {
    let (mut pass, ended) = settled;
    let permit = pass.permit.take();
    if let (Some(permit), Some(tracked)) = (permit, pass.tracked(rule))
        && let Some(transition) = tracked.breaker.settle(permit, ended, Instant::now())
    {
        enforcer.transitioned(tracked, &transition);
    }
}
