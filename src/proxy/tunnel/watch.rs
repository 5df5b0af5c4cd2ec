//! When a tunnel ends although both sides would go on, or gives way to a policy that came after it.
//!
//! It must cost next to nothing while nothing changes: a look now and then at counters, and none at bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::config::Protocol;
use tokio::sync::watch;

use super::TunnelEnding;
use crate::listener::caller::Caller;
use crate::snapshot::{Reach, Rule};

/// How often it is looked at whether anything was said, or more often where the limit is short.
const IDLE_CHECK: Duration = Duration::from_secs(30);

/// A pause can't be none.
const SHORTEST_CHECK: Duration = Duration::from_millis(1);

/// While the proxy drains, a tunnel of which one side is done ends when the other is silent for this long: it is most often
/// one whose application has ended.
const DRAIN_SILENCE: Duration = Duration::from_millis(300);

/// How often that is looked at.
const DRAIN_CHECK: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It goes on.
    Fine,
    /// A policy is for its requests now.
    TakeOver,
    /// It is over.
    End(TunnelEnding),
}

/// What is known of one tunnel.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    caller: &'a Caller,
    /// New configurations; none where the tunnel has a policy, or no policy can come.
    configurations: Option<watch::Receiver<u64>>,
    /// Silence beyond this ends a tunnel. What is passed on untouched is ended so only when one side is done: how long it
    /// is wanted, nobody but its ends know.
    limit: Duration,
    bounded: bool,
    draining: bool,
    changed: bool,
    bytes: (u64, u64),
    silent_since: Instant,
}

impl<'a> Watch<'a> {
    /// Over a tunnel that begins now.
    pub(super) fn new(caller: &'a Caller, rule: &Arc<Rule>) -> Self {
        let untouched = rule.reach == Reach::Untouched;
        Self {
            caller,
            configurations: untouched.then(|| caller.enforcer.configurations()),
            limit: caller.enforcer.limits().tunnel_idle,
            bounded: !untouched,
            draining: false,
            changed: untouched,
            bytes: bytes(caller),
            silent_since: Instant::now(),
        }
    }

    /// Waits until it is time to look.
    pub(super) async fn until_due(&mut self) {
        let Self { caller, configurations, draining, changed, limit, .. } = self;
        let pace = if *draining { DRAIN_CHECK } else { IDLE_CHECK.min(*limit / 4).max(SHORTEST_CHECK) };
        tokio::select! {
            // What was applied between the choice of the rule and this watch is not told any more.
            () = std::future::ready(()), if *changed => {}
            () = tokio::time::sleep(pace) => {}
            () = caller.draining.cancelled(), if !*draining => *draining = true,
            () = next(configurations) => *changed = true,
        }
    }

    /// Looks.
    pub(super) fn look(&mut self, is_half_closed: bool) -> Sight {
        let bytes = bytes(self.caller);
        if std::mem::replace(&mut self.bytes, bytes) != bytes {
            self.silent_since = Instant::now();
        }
        if std::mem::take(&mut self.changed) && self.has_policy() {
            self.configurations = None;
            return Sight::TakeOver;
        }
        let silent = self.silent_since.elapsed();
        if (self.bounded || is_half_closed) && silent >= self.limit {
            return Sight::End(TunnelEnding::Idle);
        }
        if self.draining && is_half_closed && silent >= DRAIN_SILENCE {
            return Sight::End(TunnelEnding::Complete);
        }
        Sight::Fine
    }

    /// Whether HTTP on it would be looked at, if it began now.
    fn has_policy(&self) -> bool {
        let snapshot = self.caller.enforcer.snapshot();
        self.caller.way.has_route(&snapshot) && self.caller.way.protocol(&snapshot) != Protocol::Tcp
    }
}

fn bytes(caller: &Caller) -> (u64, u64) {
    (caller.activity.read(), caller.activity.written())
}

async fn next(configurations: &mut Option<watch::Receiver<u64>>) {
    if let Some(told) = configurations
        && told.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
