//! Sockets for listeners whose one address stands for both families.
//!
//! It must not fail where there is only one: the kernel's redirection leads what there is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Listens on `address`; where that is a loopback address or stands for all, on its like of the other family too, if there is one.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Vec<TcpListener>> {
    let first = listen(address)?;
    // Port 0 took any free one.
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    if let Some(twin) = twin(bound) {
        match listen(twin) {
            Ok(second) => listeners.push(second),
            Err(error) if is_without_family(&error) => tracing::info!(%twin, "this network has one IP family alone"),
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

/// Listens on `address` alone.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // The IPv4 listener beside it would be in its way.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn twin(address: SocketAddr) -> Option<SocketAddr> {
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv6Addr::UNSPECIFIED.into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Some(SocketAddr::new(ip, address.port()))
}

fn is_without_family(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let without = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL, Errno::PROTONOSUPPORT].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| without.contains(&code))
}
