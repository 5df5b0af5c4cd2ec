//! What a request is told about the way it came: `Via`, `X-Forwarded-For`, `Forwarded`; and loops.
//!
//! It must not believe what these headers say, only append to it: what a client wrote stays left of what this
//! proxy knows, so that a reader who walks from the right never takes a forged address for a real one.
//! Answers get no `Via`: RFC 9110 section 7.6.3 leaves that to a gateway, and nobody would read it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Version};

use crate::rate_limit::Peer;

/// How often a request may pass through the same side of this process before it is called a loop. One pass proves
/// nothing: an application that copies headers sends our own `Via` back to us on calls that go elsewhere.
pub(crate) const MAX_PASSES: usize = 3;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What both sides of this process call themselves.
static PSEUDONYMS: LazyLock<[Pseudonym; 2]> = LazyLock::new(|| {
    let id = RandomState::new().build_hasher().finish() & 0xffff_ffff;
    [Pseudonym::new(&format!("fusebox-in-{id:08x}")), Pseudonym::new(&format!("fusebox-out-{id:08x}"))]
});

/// Which way a listener's traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the pod's own application.
    Inbound,
    /// From it to others.
    Outbound,
}

/// The connection that a request came over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop {
    direction: Direction,
    peer: Option<SocketAddr>,
}

struct Pseudonym {
    name: &'static str,
    /// Ready values for HTTP/1.0, HTTP/1.1 and HTTP/2.
    via: [HeaderValue; 3],
}

impl Hop {
    /// A connection from `peer`; none where the system no longer knows it.
    pub(crate) fn new(direction: Direction, peer: Option<SocketAddr>) -> Self {
        Self { direction, peer: peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port())) }
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// `inbound` or `outbound`.
    pub(crate) fn direction(&self) -> &'static str {
        match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }

    /// Whether the request has been here too often.
    pub(crate) fn is_loop(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(header::VIA) && passes(headers, self.pseudonym().name) >= MAX_PASSES
    }

    /// Adds this hop to what the request says of its way.
    pub(crate) fn sign<B>(&self, request: &mut Request<B>) {
        let version = match request.version() {
            Version::HTTP_10 => 0,
            Version::HTTP_2 => 2,
            _ => 1,
        };
        let headers = request.headers_mut();
        headers.append(header::VIA, self.pseudonym().via[version].clone());
        if let Some(client) = self.appended() {
            append(headers, &X_FORWARDED_FOR, client.to_string().as_bytes());
            if headers.contains_key(header::FORWARDED) {
                append(headers, &header::FORWARDED, element(client).as_bytes());
            }
        }
    }

    /// The address that is added to the request's way. Outbound the application speaks for itself, and a peer on this host is
    /// one of its own helpers.
    fn appended(&self) -> Option<IpAddr> {
        let client = self.peer.map(|peer| peer.ip()).filter(|peer| !peer.is_loopback());
        client.filter(|_| self.direction == Direction::Inbound)
    }

    /// The peer, for who has to know whether a signed request's way ends with it.
    pub(crate) fn signed_peer(&self) -> Option<Peer> {
        Some(Peer { address: self.peer?.ip(), is_appended: self.appended().is_some() })
    }

    fn pseudonym(&self) -> &'static Pseudonym {
        let pseudonyms: &'static [Pseudonym; 2] = &PSEUDONYMS;
        match self.direction {
            Direction::Inbound => &pseudonyms[0],
            Direction::Outbound => &pseudonyms[1],
        }
    }
}

impl Pseudonym {
    /// Made once a process and kept to its end, so that a request copies pointers alone.
    fn new(name: &str) -> Self {
        let name: &'static str = String::leak(name.to_owned());
        let value = |version: &str| HeaderValue::from_static(String::leak(format!("{version} {name}")));
        Self { name, via: ["1.0", "1.1", "2"].map(value) }
    }
}

/// How many elements of `Via` were written under `name`.
fn passes(headers: &HeaderMap, name: &str) -> usize {
    headers
        .get_all(header::VIA)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter(|element| {
            let mut words = element.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.nth(1) == Some(name.as_bytes())
        })
        .count()
}

/// RFC 7239 section 4: an IPv6 address stands in brackets and quotes.
fn element(client: IpAddr) -> String {
    match client {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    }
}

/// Makes one line of all lines of `name` and what is to follow: many readers look at the first line alone.
fn append(headers: &mut HeaderMap, name: &HeaderName, last: &[u8]) {
    let mut all = Vec::with_capacity(64);
    for value in headers.get_all(name) {
        if !value.is_empty() {
            all.extend_from_slice(value.as_bytes());
            all.extend_from_slice(b", ");
        }
    }
    all.extend_from_slice(last);
    // Joined values are as valid as the values were.
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(name.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(hop: Hop, lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut request = Request::new(());
        for (name, value) in lines {
            request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
        }
        hop.sign(&mut request);
        request.headers().clone()
    }

    fn hop(direction: Direction, peer: &str) -> Hop {
        Hop::new(direction, Some(peer.parse().unwrap()))
    }

    #[test]
    fn a_foreign_peer_is_the_last_of_one_line() {
        let headers = signed(
            hop(Direction::Inbound, "10.1.2.3:4000"),
            &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", ""), ("x-forwarded-for", "2.2.2.2, evil")],
        );
        let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(lines, ["1.1.1.1, 2.2.2.2, evil, 10.1.2.3"]);
        assert!(!headers.contains_key("forwarded"), "none is made where there was none");
    }

    #[test]
    fn forwarded_is_continued_where_somebody_began_it() {
        let headers =
            signed(hop(Direction::Inbound, "[2001:db8::1]:4000"), &[("forwarded", "for=_hidden;proto=https")]);
        assert_eq!(headers["forwarded"], "for=_hidden;proto=https, for=\"[2001:db8::1]\"");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
    }

    #[test]
    fn a_mapped_address_is_written_as_what_it_is() {
        let headers = signed(hop(Direction::Inbound, "[::ffff:10.1.2.3]:4000"), &[]);
        assert_eq!(headers["x-forwarded-for"], "10.1.2.3");
    }

    #[test]
    fn outbound_calls_and_local_peers_add_no_address() {
        for hop in [hop(Direction::Outbound, "10.1.2.3:1"), hop(Direction::Inbound, "127.0.0.1:1")] {
            let headers = signed(hop, &[("x-forwarded-for", "1.1.1.1")]);
            assert_eq!(headers["x-forwarded-for"], "1.1.1.1");
        }
    }

    #[test]
    fn only_our_own_side_seen_often_is_a_loop() {
        let outbound = hop(Direction::Outbound, "10.1.2.3:1");
        let own = outbound.pseudonym().name;
        let with = |value: &str| HeaderMap::from_iter([(header::VIA, HeaderValue::from_str(value).unwrap())]);
        assert!(outbound.is_loop(&with(&format!("1.1 a, 1.1 {own},2 {own} (x), 1.0  {own}"))));
        assert!(!outbound.is_loop(&with(&format!("1.1 {own}, 1.1 {own}, 1.1 {own}x, {own}"))));
        let inbound = hop(Direction::Inbound, "10.1.2.3:1");
        assert!(!inbound.is_loop(&with(&format!("1.1 {own}, 1.1 {own}, 1.1 {own}"))));
    }
}
