//! Where a connection was going before the kernel led it here.
//!
//! It must refuse what would lead back: a connection to one of the proxy's own listeners would come in again and again.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
use tokio::net::TcpStream;

use crate::pipeline::hop::Direction;

/// Words for why a connection goes nowhere.
pub(crate) const REASONS: [&str; 3] = ["not-redirected", "loop", "unknown-destination"];

/// Why a connection goes nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Nobody redirected it: a client called the listener itself.
    #[error("{peer} called a transparent listener itself; it only takes what nftables redirects")]
    NotRedirected {
        /// Who.
        peer: SocketAddr,
    },
    /// It was going to one of the proxy's own listeners.
    #[error("{destination} is one of this proxy's own listeners")]
    Loop {
        /// Where it was going.
        destination: SocketAddr,
    },
    /// The kernel did not say.
    #[error("the kernel does not say where the connection was going: {0}")]
    Unknown(#[from] io::Error),
}

impl Refused {
    /// A stable word for metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotRedirected { .. } => REASONS[0],
            Self::Loop { .. } => REASONS[1],
            Self::Unknown(_) => REASONS[2],
        }
    }
}

/// The destination of `stream`, which came to a transparent listener beside the proxy's listeners `own`.
pub(crate) fn destination(stream: &TcpStream, direction: Direction, own: &[SocketAddr]) -> Result<SocketAddr, Refused> {
    let local = canonical(stream.local_addr()?);
    let original = if local.is_ipv4() {
        ip_original_dst(stream).map(SocketAddr::V4)
    } else {
        ipv6_original_dst(stream).map(SocketAddr::V6)
    };
    let destination = match original.map(canonical) {
        Ok(destination) if destination != local => destination,
        // Without a redirection the kernel keeps nothing, or what is known anyway.
        Ok(_) | Err(rustix::io::Errno::NOENT) => {
            return Err(Refused::NotRedirected { peer: stream.peer_addr()? });
        }
        Err(error) => return Err(Refused::Unknown(error.into())),
    };
    if leads_back(destination, direction, own) { Err(Refused::Loop { destination }) } else { Ok(destination) }
}

/// Inbound every destination is this pod; outbound only loopback addresses surely are.
fn leads_back(destination: SocketAddr, direction: Direction, own: &[SocketAddr]) -> bool {
    let is_here = direction == Direction::Inbound || destination.ip().is_loopback();
    is_here
        && own.iter().any(|listener| listener.port() == destination.port() && meets(listener.ip(), destination.ip()))
}

/// Whether a listener on `listening` could take a connection to `called`.
fn meets(listening: IpAddr, called: IpAddr) -> bool {
    listening.is_unspecified() || listening == called
}

/// Without what has no part in telling destinations apart.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(six) if six.scope_id() != 0 => SocketAddr::V6(six),
        other => SocketAddr::new(other.ip().to_canonical(), other.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_would_come_in_again_leads_back_and_the_rest_does_not() {
        let own = ["0.0.0.0:15006", "127.0.0.1:15001", "[::1]:15001"].map(address);
        let leads = |text: &str, direction| leads_back(address(text), direction, &own);
        assert!(leads("10.1.2.3:15006", Direction::Inbound));
        assert!(!leads("10.1.2.3:15001", Direction::Inbound), "that one listens on loopback alone");
        assert!(leads("127.0.0.1:15001", Direction::Outbound));
        assert!(leads("[::1]:15001", Direction::Outbound));
        assert!(!leads("10.1.2.3:15001", Direction::Outbound), "another pod's");
        assert!(!leads("10.1.2.3:8080", Direction::Inbound));
    }

    #[test]
    fn mapped_addresses_are_what_they_stand_for() {
        assert_eq!(canonical(address("[::ffff:10.1.2.3]:80")), address("10.1.2.3:80"));
        assert_eq!(canonical(address("[2001:db8::1]:80")), address("[2001:db8::1]:80"));
    }
}
