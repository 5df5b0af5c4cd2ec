//! May this request pass, and where to: the rule's breaker is asked, or those of its endpoints in turn.
//!
//! It must not send anything. In Shadow everything passes; what would have been refused is only counted.

use std::sync::Arc;
use std::time::Instant;

use fusebox_policy::circuit_breaker::{Decision, Permit, Refusal};
use fusebox_policy::config::Mode;

use crate::breakers::Tracked;
use crate::endpoints::{Member, Pick};
use crate::enforcer::Enforcer;
use crate::listener::caller::Caller;
use crate::snapshot::{Guard, Rule};
use crate::upstream::Pool;

/// What became of asking.
#[derive(Debug)]
pub(crate) enum Gate {
    /// It may pass.
    Pass(Pass),
    /// It may not.
    Refuse(Refusal),
    /// Nobody said where the Service is reached.
    NoAddress,
}

/// Leave for one request.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// Decides something where it is settled; without one nothing is decided by the request.
    pub(crate) permit: Option<Permit>,
    /// The endpoint it goes to; none for the Service's own address.
    pub(crate) endpoint: Option<Arc<Member>>,
}

impl Pass {
    /// The breaker that its end is told to.
    pub(crate) fn tracked<'a>(&'a self, rule: &'a Rule) -> Option<&'a Arc<Tracked>> {
        let own = || rule.guard.as_ref().map(|guard| &guard.own);
        self.endpoint.as_ref().map(|endpoint| &endpoint.tracked).or_else(own)
    }
}

/// Connections to the endpoint, or to the Service's own addresses, tried in order.
pub(crate) fn pools<'a>(caller: &'a Caller, rule: &'a Rule, endpoint: Option<&'a Member>) -> &'a [Arc<Pool>] {
    endpoint.map_or_else(|| caller.way.pools(rule, &caller.enforcer), |endpoint| &endpoint.pools[..])
}

/// Asks for one request of `caller` that goes by `rule`.
pub(crate) fn ask(caller: &Caller, rule: &Rule, now: Instant) -> Gate {
    let enforcer = &*caller.enforcer;
    let Some(guard) = &rule.guard else { return by_address(caller, rule, || Gate::Pass(Pass::default())) };
    let Some(group) = &guard.endpoints else { return by_address(caller, rule, || by_service(enforcer, guard, now)) };
    match group.pick(guard.mode, now, |tracked, transition| enforcer.transitioned(tracked, transition)) {
        Pick::Send(endpoint, permit) => Gate::Pass(Pass { permit, endpoint: Some(endpoint) }),
        Pick::SendThoughRefused(endpoint) => {
            rule.series.would_refuse();
            Gate::Pass(Pass { permit: None, endpoint: Some(endpoint) })
        }
        Pick::Refuse(refusal) => Gate::Refuse(refusal),
        Pick::Stray => by_address(caller, rule, || by_service(enforcer, guard, now)),
    }
}

/// A breaker is not asked where there is no address to send to: it would wait for an answer.
fn by_address(caller: &Caller, rule: &Rule, ask: impl FnOnce() -> Gate) -> Gate {
    if caller.way.pools(rule, &caller.enforcer).is_empty() { Gate::NoAddress } else { ask() }
}

fn by_service(enforcer: &Enforcer, guard: &Guard, now: Instant) -> Gate {
    let Tracked { breaker, series, .. } = &*guard.own;
    let admission = breaker.admit(now);
    if let Some(transition) = &admission.transition {
        enforcer.transitioned(&guard.own, transition);
    }
    match (admission.decision, guard.mode) {
        (Decision::Admitted(permit), _) => Gate::Pass(Pass { permit: Some(permit), endpoint: None }),
        (Decision::Refused(refusal), Mode::Enforce) => Gate::Refuse(refusal),
        (Decision::Refused(_), Mode::Shadow) => {
            series.would_refuse();
            Gate::Pass(Pass::default())
        }
    }
}
