//! Routes by the destination a connection had: container ports inbound, Services' addresses outbound.
//!
//! It must be ready before a connection comes: looking up takes a hash and no memory. What matches nothing is nobody's
//! business here, and costs no look at what is said on it, unless a Service without an address could be meant.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fusebox_policy::config::{OutboundRoute, Protocol, ServiceId};
use http::header::{self, HeaderMap};

use super::Route;
use crate::parse;
use crate::pipeline::hop::Direction;
use crate::series::Series;

/// The longest name that DNS knows.
const MAX_NAME: usize = 253;

/// Routes by destination.
#[derive(Debug)]
pub(crate) struct Aims {
    by_port: HashMap<u16, Arc<Route>>,
    by_address: HashMap<SocketAddr, Arc<Route>>,
    /// Addresses of Services that have any: nobody else's traffic goes there.
    taken: HashSet<IpAddr>,
    /// Services of type ExternalName, by the port that is called.
    by_name: HashMap<u16, Names>,
    inbound: Arc<Series>,
    outbound: Arc<Series>,
}

/// Services that are known by name alone.
#[derive(Debug)]
pub(crate) struct Names {
    port: u16,
    routes: HashMap<String, Arc<Route>>,
}

/// What a destination means.
#[derive(Debug)]
pub(crate) enum Aim<'a> {
    /// It has a route.
    Route(&'a Arc<Route>),
    /// A request's Host header may name one.
    Named(&'a Names),
    /// Nothing is enforced there.
    Nothing,
}

impl Aims {
    /// Nothing is enforced yet; what is passed on untouched counts in these.
    pub(super) fn new(by_port: HashMap<u16, Arc<Route>>, untouched: [Arc<Series>; 2]) -> Self {
        let [inbound, outbound] = untouched;
        Self { by_port, by_address: HashMap::new(), taken: HashSet::new(), by_name: HashMap::new(), inbound, outbound }
    }

    /// Adds a route; `home` is the namespace of this proxy's own pod. Between equals the first stays.
    pub(super) fn add(&mut self, plan: &OutboundRoute, route: &Arc<Route>, home: &str) {
        for address in &plan.addresses {
            if let Ok(address) = address.parse::<SocketAddr>() {
                self.taken.insert(address.ip());
                self.by_address.entry(address).or_insert_with(|| Arc::clone(route));
            } else if plan.protocol != Protocol::Tcp
                && let Ok((host, port)) = parse::host_port(address)
            {
                let names = self.by_name.entry(port).or_insert_with(|| Names { port, routes: HashMap::new() });
                for name in spellings(&host, &plan.service, home) {
                    names.routes.entry(name).or_insert_with(|| Arc::clone(route));
                }
            }
        }
    }

    /// What a connection that was going to `address` meets.
    pub(crate) fn at(&self, direction: Direction, address: SocketAddr) -> Aim<'_> {
        let route = match direction {
            Direction::Inbound => self.by_port.get(&address.port()),
            Direction::Outbound => self.by_address.get(&address),
        };
        if let Some(route) = route {
            return Aim::Route(route);
        }
        if direction == Direction::Inbound || self.taken.contains(&address.ip()) {
            return Aim::Nothing;
        }
        self.by_name.get(&address.port()).map_or(Aim::Nothing, Aim::Named)
    }

    /// Where connections and requests count that met nothing.
    pub(crate) fn untouched(&self, direction: Direction) -> &Arc<Series> {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

impl Names {
    /// The route of the Service that the Host header names.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Option<&Arc<Route>> {
        let host = headers.get(header::HOST)?.as_bytes();
        let mut room = [0; MAX_NAME + ":65535.".len()];
        let lowered = room.get_mut(..host.len())?;
        lowered.copy_from_slice(host);
        lowered.make_ascii_lowercase();
        let host = std::str::from_utf8(lowered).ok()?;
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()?),
            None => (host, self.port),
        };
        if port != self.port {
            return None;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        // Whatever the cluster's domain is called, a Service's name ends before it.
        let service = name.find(".svc.").map(|at| &name[..at + ".svc".len()]);
        self.routes.get(name).or_else(|| self.routes.get(service?))
    }
}

/// All that a client may call the Service: its external name, and its name in the cluster.
fn spellings(host: &str, service: &ServiceId, home: &str) -> Vec<String> {
    let ServiceId { namespace, name } = service;
    let mut all = vec![
        host.trim_end_matches('.').to_ascii_lowercase(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
    ];
    if namespace == home {
        all.push(name.clone());
    }
    all
}
