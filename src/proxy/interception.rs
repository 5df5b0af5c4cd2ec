//! Connections that the kernel led here: where each was going, and what that means for it.
//!
//! It must not believe what a client says of its destination: the kernel remembers it. Only where a Service has no address
//! of its own (ExternalName) does the Host header choose, among this pod's own routes.

mod binding;
mod original;

use std::net::SocketAddr;
use std::slice;
use std::sync::{Arc, OnceLock};

use fusebox_policy::config::Protocol;
use http::HeaderMap;

pub(crate) use self::binding::{bind, listen};
pub(crate) use self::original::{REASONS, destination};
use crate::enforcer::Enforcer;
use crate::pipeline::hop::Direction;
use crate::snapshot::{Aim, Reach, Route, Rule, Snapshot};
use crate::upstream::Pool;

/// How it is known where a connection goes.
#[derive(Debug)]
pub(crate) enum Way {
    /// By the listener it came in by.
    Listener(usize),
    /// By the destination it had.
    Aimed(Box<Aimed>),
}

/// A connection that was going somewhere else.
#[derive(Debug)]
pub(crate) struct Aimed {
    direction: Direction,
    address: SocketAddr,
    pool: OnceLock<Arc<Pool>>,
    untouched: OnceLock<Arc<Rule>>,
}

impl Way {
    /// A connection on its way to `address`.
    pub(crate) fn aimed(direction: Direction, address: SocketAddr) -> Self {
        Self::Aimed(Box::new(Aimed { direction, address, pool: OnceLock::new(), untouched: OnceLock::new() }))
    }

    /// Which way its traffic goes.
    pub(crate) fn direction(&self, enforcer: &Enforcer) -> Direction {
        match self {
            Self::Listener(index) => enforcer.direction(*index),
            Self::Aimed(aimed) => aimed.direction,
        }
    }

    /// What is spoken on it.
    pub(crate) fn protocol(&self, snapshot: &Snapshot) -> Protocol {
        match self {
            Self::Listener(index) => snapshot.protocol(*index),
            Self::Aimed(aimed) => match snapshot.aims.at(aimed.direction, aimed.address) {
                Aim::Route(route) => route.protocol,
                Aim::Named(_) => Protocol::Detect,
                Aim::Nothing => Protocol::Tcp,
            },
        }
    }

    /// The route of a request with `headers`; none where nothing is enforced or known.
    pub(crate) fn route<'a>(&self, snapshot: &'a Snapshot, headers: &HeaderMap) -> Option<&'a Arc<Route>> {
        match self {
            Self::Listener(index) => snapshot.route(*index, headers),
            Self::Aimed(aimed) => match snapshot.aims.at(aimed.direction, aimed.address) {
                Aim::Route(route) => Some(route),
                Aim::Named(names) => names.of(headers),
                Aim::Nothing => None,
            },
        }
    }

    /// The rule for a connection that is not HTTP.
    pub(crate) fn fixed_rule(&self, enforcer: &Enforcer) -> Option<Arc<Rule>> {
        let snapshot = enforcer.snapshot();
        match self {
            Self::Listener(index) => snapshot.fixed_rule(*index),
            Self::Aimed(aimed) => match snapshot.aims.at(aimed.direction, aimed.address) {
                Aim::Route(route) => route.rules.last().cloned(),
                Aim::Named(_) | Aim::Nothing => Some(aimed.untouched(enforcer, &snapshot)),
            },
        }
    }

    /// The rule for a request to where nothing is enforced: it goes where it was going. None where it was going nowhere else.
    pub(crate) fn untouched(&self, enforcer: &Enforcer) -> Option<Arc<Rule>> {
        match self {
            Self::Listener(_) => None,
            Self::Aimed(aimed) => Some(aimed.untouched(enforcer, &enforcer.snapshot())),
        }
    }

    /// Connections for what goes by `rule`, where no endpoint was picked.
    pub(crate) fn pools<'a>(&'a self, rule: &'a Rule, enforcer: &Enforcer) -> &'a [Arc<Pool>] {
        match (self, rule.reach) {
            (Self::Aimed(aimed), Reach::Aim) => slice::from_ref(aimed.pool(enforcer)),
            (Self::Aimed(_) | Self::Listener(_), _) => &rule.pools,
        }
    }

    /// Whether a policy may be for where it was going.
    pub(crate) fn has_route(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Listener(_) => true,
            Self::Aimed(aimed) => !matches!(snapshot.aims.at(aimed.direction, aimed.address), Aim::Nothing),
        }
    }

    /// Where it was going; none where its listener says that.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Listener(_) => None,
            Self::Aimed(aimed) => Some(aimed.address),
        }
    }
}

impl Aimed {
    fn pool(&self, enforcer: &Enforcer) -> &Arc<Pool> {
        self.pool.get_or_init(|| enforcer.pool(&self.address.to_string()))
    }

    fn untouched(&self, enforcer: &Enforcer, snapshot: &Snapshot) -> Arc<Rule> {
        let make = || {
            let series = Arc::clone(snapshot.aims.untouched(self.direction));
            Arc::new(Rule::untouched(self.address, Arc::clone(self.pool(enforcer)), series))
        };
        Arc::clone(self.untouched.get_or_init(make))
    }
}
