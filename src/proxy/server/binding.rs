//! The listeners of a proxy: where each one's traffic goes, and their sockets.
//!
//! Both are made in one order, by which the configuration finds a listener's route; so they stand in one file. Nothing is
//! accepted here: a port that is bound and not yet served lets clients wait instead of failing them.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::StartError;
use crate::interception;
use crate::options::{Options, ServicePort};
use crate::pipeline::hop::Direction;
use crate::rate_limit::StoreAddresses;
use crate::snapshot::{Destination, Topology};
use crate::view::ListenerView;

/// The kinds of listeners that take what was going elsewhere.
const TRANSPARENT_INBOUND: &str = "transparent-inbound";
const TRANSPARENT_OUTBOUND: &str = "transparent-outbound";

/// A listener that is bound but not yet served.
pub(super) struct Bound {
    pub(super) listener: TcpListener,
    pub(super) view: ListenerView,
    /// Its place among [`Topology::listeners`]; two may share one.
    pub(super) place: usize,
}

/// What the command line says, for the configuration to be built for.
pub(super) fn topology(options: &Options) -> Topology {
    let inbound = options
        .inbound
        .iter()
        .map(|spec| Destination::Application { address: spec.application.clone(), port: spec.port });
    let outbound = options.outbound.iter().map(|spec| match &spec.destination {
        Some(place) => Destination::Service(place.clone()),
        None => Destination::ByHost,
    });
    let redirected_in = options.transparent_inbound.iter().map(|_| Destination::Original(Direction::Inbound));
    let redirected_out = options.transparent_outbound.iter().map(|_| Destination::Original(Direction::Outbound));
    Topology {
        listeners: inbound.chain(outbound).chain(redirected_in).chain(redirected_out).collect(),
        upstreams: options.upstream.clone(),
        endpoints_max_age: options.endpoints_max_age,
        limits: options.limits,
        // With an operator policies are other people's.
        stores: if options.control.is_empty() { StoreAddresses::Any } else { StoreAddresses::BeyondThePod },
    }
}

/// All listeners for traffic, in the order of [`topology`]; the two of one address have one place.
pub(super) fn bind_all(options: &Options) -> Result<Vec<Bound>, StartError> {
    let inbound = options.inbound.iter().map(|spec| {
        let destination = format!("{} (port {})", spec.application, spec.port);
        ("inbound", spec.listen, destination)
    });
    let outbound = options.outbound.iter().map(|spec| {
        let destination = spec.destination.as_ref();
        let named = |to: &ServicePort| format!("{}/{}:{}", to.service.namespace, to.service.name, to.port);
        ("outbound", spec.listen, destination.map(named).unwrap_or_default())
    });
    let transparent = |kind, addresses: &[SocketAddr]| {
        addresses.iter().map(|address| (kind, *address, String::new())).collect::<Vec<_>>()
    };
    let redirected = [
        transparent(TRANSPARENT_INBOUND, &options.transparent_inbound),
        transparent(TRANSPARENT_OUTBOUND, &options.transparent_outbound),
    ];
    let mut bound = Vec::new();
    for (place, (kind, address, destination)) in
        inbound.chain(outbound).chain(redirected.into_iter().flatten()).enumerate()
    {
        let refuse = |source| StartError::Bind { kind, address, source };
        for listener in sockets(kind, address).map_err(refuse)? {
            let listener = Bound::new(kind, listener, destination.clone()).map_err(refuse)?;
            bound.push(Bound { place, ..listener });
        }
    }
    Ok(bound)
}

/// The admin port. The address that was asked for is the last.
pub(super) fn bind_admin(address: SocketAddr) -> Result<Vec<Bound>, StartError> {
    let kind = "admin";
    let refuse = |source| StartError::Bind { kind, address, source };
    let listeners = sockets(kind, address).map_err(refuse)?;
    listeners.into_iter().rev().map(|listener| Bound::new(kind, listener, String::new()).map_err(refuse)).collect()
}

/// Listens on one address; where it is for all, for the other family too. So does a loopback address that the kernel
/// redirects to, since it redirects both families.
fn sockets(kind: &str, address: SocketAddr) -> io::Result<Vec<TcpListener>> {
    if address.ip().is_unspecified() || [TRANSPARENT_INBOUND, TRANSPARENT_OUTBOUND].contains(&kind) {
        interception::bind(address)
    } else {
        Ok(vec![interception::listen(address)?])
    }
}

impl Bound {
    fn new(kind: &'static str, listener: TcpListener, destination: String) -> io::Result<Self> {
        let address = listener.local_addr()?;
        tracing::info!(kind, %address, destination, "listening");
        Ok(Self { listener, view: ListenerView { kind, address, destination }, place: 0 })
    }
}
