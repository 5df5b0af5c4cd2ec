//! Bytes that are passed on as they are: TLS, other protocols over TCP, and what HTTP was upgraded to.
//!
//! It must not read what it carries. The breaker sees only whether a connection could be made, because
//! nothing else of an unknown protocol says whether the upstream works.

mod counts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox_policy::circuit_breaker::{Ended, Outcome};
use fusebox_policy::config::FailureCondition;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

pub(crate) use self::counts::{TunnelCounts, TunnelEnding};
use crate::enforcer::Enforcer;
use crate::listener::activity::Activity;
use crate::listener::caller::Caller;
use crate::listener::stream::ClientStream;
use crate::pipeline::gate::{self, Gate, Pass};
use crate::snapshot::Rule;
use crate::upstream;

/// Bytes held for each direction of a tunnel.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;

/// An interval can't be none.
const SHORTEST_CHECK: Duration = Duration::from_millis(1);

/// How often it is looked at whether anything was said, or more often where the limit is short.
const IDLE_CHECK: Duration = Duration::from_secs(30);

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
    let rule = caller.enforcer.snapshot().fixed_rule(caller.listener)?;
    let started = Instant::now();
    let pass = match gate::ask(&caller.enforcer, &rule, started) {
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
    match upstream::connect(gate::pools(&rule, pass.endpoint.as_deref())).await {
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
pub(crate) async fn carry(client: ClientStream, upstream: Upstream, caller: &Caller) {
    let Upstream { prefix, mut stream, rule } = upstream;
    let activity = &caller.activity;
    let (read, written) = (activity.read(), activity.written());
    let mut client = client.into_tunnel();
    let copying = async {
        client.write_all(&prefix).await?;
        tokio::io::copy_bidirectional_with_sizes(&mut client, &mut stream, BUFFER_BYTES, BUFFER_BYTES).await
    };
    let ending = tokio::select! {
        copied = copying => match copied {
            Ok(_) => TunnelEnding::Complete,
            Err(error) => {
                tracing::debug!(%error, "tunnel broke off");
                TunnelEnding::Broken
            }
        },
        () = idle(activity, caller.enforcer.limits().tunnel_idle) => TunnelEnding::Idle,
    };
    let counts = rule.series.tunnels();
    counts.ended(ending);
    counts.carried(activity.read().saturating_sub(read), activity.written().saturating_sub(written));
}

/// Ends when nothing was carried for `limit`.
async fn idle(activity: &Activity, limit: Duration) {
    let check = IDLE_CHECK.min(limit / 4).max(SHORTEST_CHECK);
    let mut interval = tokio::time::interval(check);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = (0, 0);
    let mut silent = Duration::ZERO;
    while silent < limit {
        interval.tick().await;
        let now = (activity.read(), activity.written());
        silent = if now == before { silent + check } else { Duration::ZERO };
        before = now;
    }
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
