//! Whose address a request comes from: the peer's, or what trusted proxies before this one wrote into `X-Forwarded-For`.
//!
//! It must not believe what a client can write: entries are read from the right, since each proxy appends the peer it saw,
//! and only as many as there are trusted proxies.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use fusebox_policy::config::ClientIp;
use http::HeaderMap;
use http::header::HeaderName;

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Bytes of the longest address with a prefix length.
const MAX_TEXT: usize = 48;

/// The connection that a request came over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// Who is at its other end.
    pub(crate) address: IpAddr,
    /// Whether this proxy has already added it to the request's `X-Forwarded-For`.
    pub(crate) is_appended: bool,
}

/// An address as a key: IPv4 as it is, IPv6 as its network, such as `2001:db8::/64`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressText {
    bytes: [u8; MAX_TEXT],
    length: usize,
}

/// The client's address: that of the peer, or the entry beyond the trusted ones. Where an entry is no address, or there are
/// too few, it is the last address that a trusted proxy vouched for.
pub(crate) fn client(headers: &HeaderMap, peer: Peer, trusted_hops: u8) -> IpAddr {
    let mut client = peer.address;
    let written = from_the_right(headers).skip(usize::from(peer.is_appended));
    for entry in written.take(usize::from(trusted_hops)) {
        match address(entry) {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// The key of the address, so that an IPv6 client, who has a whole network, has one bucket.
pub(crate) fn key(address: IpAddr, how: &ClientIp) -> AddressText {
    let mut text = AddressText { bytes: [0; MAX_TEXT], length: 0 };
    // The longest address with its prefix fits.
    let _ = match address.to_canonical() {
        IpAddr::V6(address) if how.ipv6_prefix < 128 => {
            write!(text, "{}/{}", network(address, how.ipv6_prefix), how.ipv6_prefix)
        }
        address => write!(text, "{address}"),
    };
    text
}

impl AddressText {
    /// The text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Write for AddressText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// All entries of all lines, the last first; an empty one is none (RFC 9110 section 5.6.1).
fn from_the_right(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    lines
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).map(|text| text.parse().map(IpAddr::V6));
    let parsed = bare.unwrap_or_else(|| text.parse()).ok();
    parsed
        .or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))
        .map(|address| address.to_canonical())
}

fn network(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn found(lines: &[&str], trusted_hops: u8) -> String {
        let peer = Peer { address: "10.0.0.9".parse().unwrap(), is_appended: false };
        found_at(peer, lines, trusted_hops)
    }

    fn found_at(peer: Peer, lines: &[&str], trusted_hops: u8) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        client(&headers, peer, trusted_hops).to_string()
    }

    fn keyed(address: &str, ipv6_prefix: u8) -> String {
        let key = key(address.parse().unwrap(), &ClientIp { trusted_hops: 0, ipv6_prefix });
        String::from_utf8(key.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn without_trusted_proxies_the_peer_counts_whatever_is_written() {
        assert_eq!(found(&["1.1.1.1", "2.2.2.2"], 0), "10.0.0.9");
        assert_eq!(found(&[], 3), "10.0.0.9");
    }

    #[test]
    fn entries_are_read_from_the_right_over_all_lines_and_forged_ones_on_the_left_never_count() {
        let lines = ["6.6.6.6, 7.7.7.7", "1.1.1.1 ,2.2.2.2"];
        assert_eq!(found(&lines, 1), "2.2.2.2");
        assert_eq!(found(&lines, 2), "1.1.1.1");
        assert_eq!(found(&["forged", "6.6.6.6,, ,1.1.1.1,2.2.2.2 , "], 2), "1.1.1.1");
    }

    #[test]
    fn an_entry_that_is_no_address_leaves_the_last_trusted_one() {
        for garbage in ["unknown", "1.1.1.1.1", "::1%eth0", "1.1.1.1:x", "[::1", "\u{1f}", "0x7f.1", "1.1.1.01"] {
            let Ok(line) = HeaderValue::from_bytes(format!("5.5.5.5, {garbage}, 2.2.2.2").as_bytes()) else { continue };
            let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, line)]);
            let peer = Peer { address: "10.0.0.9".parse().unwrap(), is_appended: false };
            assert_eq!(client(&headers, peer, 3).to_string(), "2.2.2.2", "{garbage}");
        }
        assert_eq!(found(&["garbage"], 1), "10.0.0.9");
    }

    #[test]
    fn what_this_proxy_appended_itself_is_the_peer_and_no_hop() {
        let peer = Peer { address: "10.0.0.9".parse().unwrap(), is_appended: true };
        assert_eq!(found_at(peer, &["1.1.1.1, 2.2.2.2, 10.0.0.9"], 1), "2.2.2.2");
        assert_eq!(found_at(peer, &["10.0.0.9"], 1), "10.0.0.9");
    }

    #[test]
    fn addresses_with_ports_and_brackets_are_read() {
        for (entry, expected) in [
            ("1.1.1.1:80", "1.1.1.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(found(&[entry], 1), expected);
        }
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_a_mapped_address_is_ipv4() {
        assert_eq!(keyed("2001:db8:1:2:3:4:5:6", 64), "2001:db8:1:2::/64");
        assert_eq!(keyed("2001:db8:1:2:3:4:5:6", 128), "2001:db8:1:2:3:4:5:6");
        assert_eq!(keyed("2001:db8:1:2:3:4:5:6", 0), "::/0");
        assert_eq!(keyed("::ffff:10.1.2.3", 64), "10.1.2.3");
        assert_eq!(
            keyed("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 127),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"
        );
        assert_eq!(keyed("10.1.2.3", 64), "10.1.2.3");
    }
}
