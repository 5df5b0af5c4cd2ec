//! TCP ports on loopback that nobody else is given while they are held, and the machine's own address.
//!
//! Owns the reservation, which is a locked file for each port. It must not listen on the port: its holder does.
//! Binding port 0 and closing it again would let a parallel test take the port before a server that starts slowly does.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// Below the range the kernel gives to outgoing connections, which would otherwise take a port between two starts.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;
const ATTEMPTS: u16 = 500;

/// A port reserved for this process until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port that is free at this moment.
    ///
    /// # Errors
    /// When 500 ports in a row are taken, or the folder of the locks cannot be written.
    pub fn reserve() -> Result<Self> {
        let folder = lock_folder()?;
        let start = random() % u64::from(PORTS);
        for offset in 0..ATTEMPTS {
            let position = (start + u64::from(offset)) % u64::from(PORTS);
            let number = FIRST_PORT + u16::try_from(position).context("a port beyond 16 bits")?;
            let path = folder.join(number.to_string());
            let lock = File::create(&path).with_context(|| format!("cannot create the lock {}", path.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("{ATTEMPTS} ports from {FIRST_PORT} on are all taken")
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

/// An address of this machine that other machines could reach, for what policies may not name on loopback.
///
/// # Errors
/// When the machine has none.
pub fn machine_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Nothing is sent: connecting only asks for the route.
    socket.connect("203.0.113.1:9").context("this machine has no address but loopback")?;
    Ok(socket.local_addr()?.ip())
}

/// A number no other test uses, for names.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

fn lock_folder() -> Result<PathBuf> {
    let folder = crate::cache::root()?.join("ports");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_not_given_again() -> Result<()> {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve()).collect::<Result<_>>()?;
        let numbers: std::collections::HashSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
        Ok(())
    }

    #[test]
    fn a_port_somebody_listens_on_is_not_reserved() -> Result<()> {
        let port = Port::reserve()?;
        let _listener = TcpListener::bind(port.address())?;
        let number = port.number();
        drop(port);
        for _ in 0..100 {
            assert_ne!(Port::reserve()?.number(), number);
        }
        Ok(())
    }
}
