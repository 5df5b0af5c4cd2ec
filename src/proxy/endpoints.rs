//! The endpoints of one rule with scope Endpoint: each with a breaker of its own, and whose turn it is.
//!
//! It must not know where endpoints come from (`directory` does), and not decide how many may be left out at once
//! (the engine does). Requests load one pointer and ask the breakers in turn; nothing here waits.

mod directory;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use fusebox_policy::circuit_breaker::{Decision, Force, MaxOpenPercent, Permit, Refusal, Transition, Use, uses};
use fusebox_policy::config::{BreakerKey, Mode};
use parking_lot::Mutex;

pub(crate) use self::directory::{Directory, Known, fixed};
use crate::breakers::{Maker, Tracked};
use crate::options::ServicePort;
use crate::series::Series;
use crate::snapshot::Installed;
use crate::upstream::{Pool, Pools};

/// Breakers of endpoints that one proxy keeps. Rules beyond it go by the Service's own address.
pub(crate) const MAX_ENDPOINT_BREAKERS: usize = 10_000;

/// The endpoints of one rule, kept over configuration changes.
#[derive(Debug)]
pub(crate) struct Group {
    /// The rule's key; those of its endpoints differ by the endpoint alone.
    pub(crate) key: BreakerKey,
    /// Whose endpoints they are.
    pub(crate) place: ServicePort,
    series: Arc<Series>,
    members: ArcSwap<Members>,
    orders: Mutex<Orders>,
    turn: AtomicUsize,
    strayed: AtomicU64,
}

/// The endpoints there are now.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// What is known of them.
    pub(crate) known: Known,
    /// All of them, sorted by address.
    pub(crate) all: Vec<Arc<Member>>,
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its breaker.
    pub(crate) tracked: Arc<Tracked>,
    /// Connections to it.
    pub(crate) pools: [Arc<Pool>; 1],
    /// Set while it is called although its breaker refuses, because too many others are left out already.
    in_spite: AtomicBool,
    used: AtomicBool,
    kept_away: AtomicU64,
}

/// What the configuration says of all endpoints.
#[derive(Clone, Copy, Debug)]
struct Orders {
    most: MaxOpenPercent,
    force: Option<Force>,
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Pick {
    /// To this endpoint; without a permit it decides nothing there.
    Send(Arc<Member>, Option<Permit>),
    /// To this endpoint in Shadow, though no endpoint's breaker would have let it pass.
    SendThoughRefused(Arc<Member>),
    /// Nowhere: every endpoint's breaker refuses.
    Refuse(Refusal),
    /// No endpoints are known: to the Service's own address, by the rule's own breaker.
    Stray,
}

/// What is needed for an endpoint that is new.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making<'a> {
    /// Connections, kept over everything.
    pub(crate) pools: &'a Pools,
    /// Makes breakers.
    pub(crate) maker: Maker<'a>,
    /// What they are made from.
    pub(crate) installed: &'a Installed,
}

/// What one endpoint's breaker said.
enum Asked {
    /// It may pass; without a permit it decides nothing.
    Pass(Option<Permit>),
    /// It may not.
    Refused(Refusal),
}

impl Group {
    /// No endpoints yet.
    pub(crate) fn new(key: BreakerKey, around: (ServicePort, Arc<Series>), max_open: MaxOpenPercent) -> Arc<Self> {
        let (place, series) = around;
        Arc::new(Self {
            key,
            place,
            series,
            members: ArcSwap::default(),
            orders: Mutex::new(Orders { most: max_open, force: None }),
            turn: AtomicUsize::new(0),
            strayed: AtomicU64::new(0),
        })
    }

    /// The endpoints there are now.
    pub(crate) fn members(&self) -> Guard<Arc<Members>> {
        self.members.load()
    }

    /// Says how many endpoints may be left out at once, and a person's word for all of them, also those to come.
    pub(crate) fn direct(&self, most: MaxOpenPercent, force: Option<Force>, now: Instant) {
        *self.orders.lock() = Orders { most, force };
        for member in &self.members.load().all {
            member.tracked.breaker.force(force, now);
        }
        self.judge(now);
    }

    /// Puts `addresses` in the place of the endpoints there were. Who stays keeps its breaker; who goes is forgotten
    /// at once, because its address may be another pod's soon. Returns whether anything changed.
    pub(crate) fn replace(self: &Arc<Self>, addresses: &[Arc<str>], known: Known, making: Making<'_>) -> bool {
        let before = self.members.load_full();
        let same = |(member, address): (&Arc<Member>, &Arc<str>)| member.address() == &**address;
        let unchanged = before.all.len() == addresses.len() && before.all.iter().zip(addresses).all(same);
        if unchanged && before.known == known {
            return false;
        }
        let stayers: HashMap<&str, &Arc<Member>> = before.all.iter().map(|member| (member.address(), member)).collect();
        let Making { pools, maker, installed } = making;
        let (force, now) = (self.orders.lock().force, maker.now);
        let make = |address: &Arc<str>| {
            let key = BreakerKey { endpoint: address.to_string(), ..self.key.clone() };
            let made = maker.make(&key, &installed.parameters, &installed.settings);
            made.force(force, now);
            let tracked = Tracked::of_endpoint(key, made, Arc::clone(&self.series), Arc::downgrade(self));
            Arc::new(Member::new(tracked, pools.get(address)))
        };
        let kept_or_new =
            |address: &Arc<str>| stayers.get(&**address).map_or_else(|| make(address), |&member| Arc::clone(member));
        let all = addresses.iter().map(kept_or_new).collect();
        self.members.store(Arc::new(Members { known, all }));
        self.judge(now);
        true
    }

    /// The endpoint whose turn it is and whose breaker lets the request pass. `told` hears of each breaker that
    /// changed its state by being asked.
    pub(crate) fn pick(&self, mode: Mode, now: Instant, told: impl Fn(&Arc<Tracked>, &Transition)) -> Pick {
        let members = self.members.load();
        let count = members.all.len();
        if count == 0 || !members.known.is_usable() {
            self.strayed.fetch_add(1, Ordering::Relaxed);
            return Pick::Stray;
        }
        let member_at = |turn: usize| &members.all[turn % count];
        let first = member_at(self.turn.fetch_add(1, Ordering::Relaxed));
        let mut soonest = match first.ask(now, &told) {
            Asked::Pass(permit) => return Pick::Send(Arc::clone(first), permit),
            Asked::Refused(refusal) => refusal,
        };
        // Taking one more turn spreads what the first does not get over all others; from there once around.
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        for member in (start..start + count).map(member_at).filter(|member| !Arc::ptr_eq(member, first)) {
            match (member.ask(now, &told), mode) {
                (Asked::Pass(permit), Mode::Enforce) => return Pick::Send(Arc::clone(member), permit),
                (Asked::Pass(_), Mode::Shadow) => return Pick::Send(Arc::clone(first), None),
                (Asked::Refused(refusal), _) if refusal.retry_after < soonest.retry_after => soonest = refusal,
                (Asked::Refused(_), _) => {}
            }
        }
        match mode {
            Mode::Enforce => Pick::Refuse(soonest),
            Mode::Shadow => Pick::SendThoughRefused(Arc::clone(first)),
        }
    }

    /// Decides anew which endpoints are called although their breakers refuse.
    pub(crate) fn judge(&self, now: Instant) {
        let members = self.members.load();
        let standings: Vec<_> = members.all.iter().map(|member| member.tracked.breaker.standing(now)).collect();
        let most = self.orders.lock().most;
        for (member, usage) in members.all.iter().zip(uses(&standings, most)) {
            member.in_spite.store(usage == Use::InSpite, Ordering::Relaxed);
        }
    }

    /// Requests that went to the Service's own address, because no endpoints were known.
    pub(crate) fn strayed(&self) -> u64 {
        self.strayed.load(Ordering::Relaxed)
    }
}

impl Member {
    fn new(tracked: Tracked, pool: Arc<Pool>) -> Self {
        Self {
            tracked: Arc::new(tracked),
            pools: [pool],
            in_spite: AtomicBool::new(false),
            used: AtomicBool::new(false),
            kept_away: AtomicU64::new(0),
        }
    }

    /// `address:port`.
    pub(crate) fn address(&self) -> &str {
        &self.tracked.key.endpoint
    }

    /// Whether any request was sent to it, or would have been.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Requests that its breaker kept away from it, or in Shadow would have.
    pub(crate) fn kept_away(&self) -> u64 {
        self.kept_away.load(Ordering::Relaxed)
    }

    /// Whether it is called although its breaker refuses.
    pub(crate) fn is_called_in_spite(&self) -> bool {
        self.in_spite.load(Ordering::Relaxed)
    }

    fn ask(&self, now: Instant, told: impl Fn(&Arc<Tracked>, &Transition)) -> Asked {
        let admission = self.tracked.breaker.admit(now);
        if let Some(transition) = &admission.transition {
            told(&self.tracked, transition);
        }
        // Only written when it changes, or requests on all cores would take the cache line from each other.
        if !self.is_used() {
            self.used.store(true, Ordering::Relaxed);
        }
        match admission.decision {
            Decision::Admitted(permit) => Asked::Pass(Some(permit)),
            Decision::Refused(refusal) if refusal.forced.is_none() && self.is_called_in_spite() => Asked::Pass(None),
            Decision::Refused(refusal) => {
                self.kept_away.fetch_add(1, Ordering::Relaxed);
                Asked::Refused(refusal)
            }
        }
    }
}
