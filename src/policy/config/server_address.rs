//! Addresses that a policy may not name for a server of its own, whoever writes them down or resolves a name to them.
//!
//! It must know nothing of names or ports: compiler and proxy look at the same address in different forms, and decide alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where Amazon's machines have their metadata by IPv6; by IPv4 it is link-local everywhere.
const METADATA_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether it leads back into the pod or to the node's metadata: loopback, unspecified, link-local and multicast addresses, in
/// either family and as IPv4 within IPv6 (RFC 4291 section 2.5.5).
#[must_use]
pub fn leads_back(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => leads_back_v4(ip),
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip == METADATA_IPV6
                || ip.to_ipv4().is_some_and(leads_back_v4)
        }
    }
}

fn leads_back_v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback() || ip.is_link_local() || ip.octets()[0] == 0 || ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pod_alone_can_reach_leads_back_and_a_service_does_not() {
        for own in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "::1", "::", "fe80::1", "fd00:ec2::254"] {
            assert!(leads_back(own.parse().unwrap()), "{own}");
        }
        for within in ["::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "ff02::1", "224.0.0.1"] {
            assert!(leads_back(within.parse().unwrap()), "{within}");
        }
        for other in ["10.0.0.7", "192.168.1.1", "fd00::7", "2001:db8::1", "::ffff:10.0.0.7"] {
            assert!(!leads_back(other.parse().unwrap()), "{other}");
        }
    }
}
