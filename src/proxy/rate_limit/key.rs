//! Whose bucket a request spends from: the parts of a limit's key, read off the request.
//!
//! It must not let values that clients choose get anywhere but into a digest, and, where the policy allows it, cut short and
//! cleaned into reports. A part that is too long counts as missing, so that nobody makes the proxy hash megabytes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use fusebox_policy::config::ClientIp;
use fusebox_policy::rate_limit::{KeyDigest, digest, redacted};
use http::HeaderMap;
use http::header::HeaderName;
use smallvec::SmallVec;

use super::api_key::{self, Places};
use super::client_ip::{self, AddressText, Peer};
use super::jwt::Verifier;

/// The longest value of one part, in bytes.
pub(crate) const MAX_PART_BYTES: usize = 8 << 10;

/// Parts that keys have, as a rule.
const USUAL_PARTS: usize = 2;

/// What of a request keys are made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// The method.
    pub(crate) method: &'a str,
    /// The path, without the query.
    pub(crate) path: &'a str,
    /// The query, without its question mark.
    pub(crate) query: Option<&'a str>,
    /// The headers, as they came but for what this proxy added.
    pub(crate) headers: &'a HeaderMap,
    /// Where it came from; none where the system no longer knows it.
    pub(crate) peer: Option<Peer>,
}

/// The parts of one limit's key, in checked form; none is one bucket for all.
#[derive(Debug, Default)]
pub(crate) struct Parts(Vec<Part>);

/// One part.
#[derive(Debug)]
pub(crate) enum Part {
    /// A header.
    Header(HeaderName),
    /// A key in one of several places.
    ApiKey(Places),
    /// The client's address.
    ClientIp(ClientIp),
    /// A claim of a token in a header.
    JwtClaim(HeaderName, Box<Verifier>),
    /// The path.
    Path,
    /// The method.
    Method,
}

/// What kind of part a request lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// A token whose signature holds.
    Token,
    /// Anything else.
    Value,
}

/// A part's value.
enum Value<'a> {
    Read(Cow<'a, [u8]>),
    Address(AddressText),
    Claim(Arc<str>),
}

impl Parts {
    /// A key of these parts.
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        Self(parts)
    }

    /// Whether all requests share one bucket.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The digest of the request's key.
    pub(crate) fn digest(&self, subject: &Subject<'_>) -> Result<KeyDigest, Missing> {
        self.with_values(subject, digest)
    }

    /// The key for people: the ends of each part alone.
    pub(crate) fn redacted(&self, subject: &Subject<'_>) -> String {
        self.with_values(subject, redacted).unwrap_or_default()
    }

    fn with_values<T>(&self, subject: &Subject<'_>, make: impl FnOnce(&[&[u8]]) -> T) -> Result<T, Missing> {
        let values = self.0.iter().map(|part| part.value(subject).ok_or(part.missing()));
        let values: SmallVec<[Value<'_>; USUAL_PARTS]> = values.collect::<Result<_, _>>()?;
        let bytes: SmallVec<[&[u8]; USUAL_PARTS]> = values.iter().map(Value::as_bytes).collect();
        Ok(make(&bytes))
    }
}

impl Part {
    fn missing(&self) -> Missing {
        match self {
            Self::JwtClaim(..) => Missing::Token,
            Self::Header(_) | Self::ApiKey(_) | Self::ClientIp(_) | Self::Path | Self::Method => Missing::Value,
        }
    }

    fn value<'a>(&self, subject: &Subject<'a>) -> Option<Value<'a>> {
        let Subject { method, path, query, headers, peer } = *subject;
        let value = match self {
            Self::Header(name) => Value::Read(Cow::Borrowed(api_key::header(headers, name)?)),
            Self::ApiKey(places) => Value::Read(places.find(headers, query)?),
            Self::ClientIp(how) => {
                Value::Address(client_ip::key(client_ip::client(headers, peer?, how.trusted_hops), how))
            }
            Self::JwtClaim(name, verifier) => {
                Value::Claim(verifier.claim(api_key::header(headers, name)?, SystemTime::now())?)
            }
            Self::Path => Value::Read(Cow::Borrowed(path.as_bytes())),
            Self::Method => Value::Read(Cow::Borrowed(method.as_bytes())),
        };
        (value.as_bytes().len() <= MAX_PART_BYTES).then_some(value)
    }
}

impl Value<'_> {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Address(text) => text.as_bytes(),
            Self::Claim(text) => text.as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn subject<'a>(headers: &'a HeaderMap, path: &'a str) -> Subject<'a> {
        Subject { method: "GET", path, query: None, headers, peer: None }
    }

    fn parts(names: &[&'static str]) -> Parts {
        Parts::new(names.iter().map(|name| Part::Header(HeaderName::from_static(name))).collect())
    }

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
            .collect()
    }

    #[test]
    fn the_digest_of_one_part_is_what_sha256sum_says() {
        let headers = headers(&[("x-api-key", b"abc")]);
        let digest = parts(&["x-api-key"]).digest(&subject(&headers, "/")).unwrap();
        assert_eq!(digest.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn no_separator_in_a_value_makes_two_keys_one() {
        let digest =
            |a: &[u8], b: &[u8]| parts(&["a", "b"]).digest(&subject(&headers(&[("a", a), ("b", b)]), "/")).unwrap();
        assert_ne!(digest(b"x ", b"y"), digest(b"x", b" y"));
        assert_ne!(digest(b"xy", b"z"), digest(b"x", b"yz"));
        assert_eq!(digest(b"x", b"y"), digest(b"x", b"y"));
    }

    #[test]
    fn a_lacking_empty_doubled_or_too_long_part_is_missing() {
        let long = vec![b'x'; MAX_PART_BYTES + 1];
        for lacking in [headers(&[]), headers(&[("a", b"")]), headers(&[("a", &long)])] {
            assert_eq!(parts(&["a"]).digest(&subject(&lacking, "/")), Err(Missing::Value));
        }
        let mut doubled = headers(&[("a", b"1")]);
        doubled.append("a", HeaderValue::from_static("2"));
        assert_eq!(parts(&["a"]).digest(&subject(&doubled, "/")), Err(Missing::Value));
        assert!(parts(&["a"]).digest(&subject(&headers(&[("a", &long[1..])]), "/")).is_ok());
        assert_eq!(parts(&["a", "b"]).digest(&subject(&headers(&[("a", b"1")]), "/")), Err(Missing::Value));
    }

    #[test]
    fn path_and_method_are_parts_too() {
        let headers = HeaderMap::new();
        let parts = Parts::new(vec![Part::Method, Part::Path]);
        let one = parts.digest(&subject(&headers, "/a")).unwrap();
        assert_ne!(one, parts.digest(&subject(&headers, "/b")).unwrap());
        assert_ne!(one, parts.digest(&Subject { method: "PUT", ..subject(&headers, "/a") }).unwrap());
    }

    #[test]
    fn a_redacted_key_has_nothing_that_a_log_could_stumble_over() {
        let shown = |value: &[u8]| parts(&["a"]).redacted(&subject(&headers(&[("a", value)]), "/"));
        assert_eq!(shown(b"abcdefghijkl"), "ab***kl");
        assert_eq!(shown(b"short"), "***");
        assert!(!shown(b"\t\"\xff<script>\t\t\t").chars().any(char::is_control));
        assert_eq!(parts(&["a", "b"]).redacted(&subject(&headers(&[]), "/")), "");
    }
}
