//! Small parsers for arguments and addresses.
//!
//! They must not touch the network: a name is resolved when it is connected to, because it may
//! not exist yet when the proxy starts.

use std::net::SocketAddr;
use std::time::Duration;

use fusebox_policy::config::ServiceId;

/// The longest drain that can be asked for: a day.
const MAX_DURATION: Duration = Duration::from_secs(86_400);

/// Why an argument was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// It has not the shape that is needed.
    #[error("expected {0}")]
    Shape(&'static str),
    /// The port is not one.
    #[error("port {0:?} is not a number from 1 to 65535, such as 8080")]
    Port(String),
    /// The listen address is not one.
    #[error("listen address {0:?} is not IP:PORT, such as 127.0.0.1:15001")]
    Listen(String),
    /// A namespace or a Service's name has characters that Kubernetes does not allow there.
    #[error("name {0:?} is not a Kubernetes name, such as payments")]
    Name(String),
    /// A duration is not one.
    #[error("duration {0:?} is not from 0s to 24h, such as 30s, 1m30s or 500ms")]
    Duration(String),
}

/// An address to listen on; port 0 takes any free one.
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, ArgumentError> {
    text.parse().map_err(|_| ArgumentError::Listen(text.to_owned()))
}

/// A port to connect to.
pub(crate) fn port(text: &str) -> Result<u16, ArgumentError> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| ArgumentError::Port(text.to_owned()))
}

/// `host:port`, where the host may be a name or an IP address. An IPv6 address stands in brackets; an IPv4 address may, so that
/// `[$(POD_IP)]:8080` fits both. Brackets are dropped.
pub(crate) fn host_port(text: &str) -> Result<(String, u16), ArgumentError> {
    const SHAPE: ArgumentError = ArgumentError::Shape("HOST:PORT, such as 127.0.0.1:8080 or example.com:443");
    let (host, number) = text.rsplit_once(':').ok_or(SHAPE)?;
    let number = port(number)?;
    let bare = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) if inner.parse::<std::net::IpAddr>().is_ok() => inner,
        Some(_) => return Err(SHAPE),
        None => host,
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let plain = bare.len() != host.len() || host.bytes().all(allowed);
    if bare.is_empty() || !plain {
        return Err(SHAPE);
    }
    Ok((bare.to_owned(), number))
}

/// `host:port` as it can be connected to, and the port: brackets stay around an IPv6 address alone, because nobody else takes an
/// IPv4 address in them.
pub(crate) fn dialable(text: &str) -> Result<(String, u16), ArgumentError> {
    let (host, number) = host_port(text)?;
    let joined = if host.contains(':') { format!("[{host}]:{number}") } else { format!("{host}:{number}") };
    Ok((joined, number))
}

/// `NAMESPACE/SERVICE[:PORT]`.
pub(crate) fn service(text: &str) -> Result<(ServiceId, Option<u16>), ArgumentError> {
    const SHAPE: ArgumentError = ArgumentError::Shape("NAMESPACE/SERVICE:PORT, such as shop/payments:80");
    let (namespace, rest) = text.split_once('/').ok_or(SHAPE)?;
    let (name, number) = match rest.split_once(':') {
        Some((name, number)) => (name, Some(port(number)?)),
        None => (rest, None),
    };
    for part in [namespace, name] {
        if !is_name(part) {
            return Err(ArgumentError::Name(part.to_owned()));
        }
    }
    Ok((ServiceId { namespace: namespace.to_owned(), name: name.to_owned() }, number))
}

/// Whether `text` can be the name of a Kubernetes object (a DNS subdomain).
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed)
}

/// A duration made of hours, minutes, seconds and milliseconds, such as `1m30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, ArgumentError> {
    let refuse = || ArgumentError::Duration(text.to_owned());
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms: u64 = match &rest[..letters] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return Err(refuse()),
        };
        rest = &rest[letters..];
        let part = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(refuse)?;
        total = total.checked_add(part).filter(|sum| *sum <= MAX_DURATION).ok_or_else(refuse)?;
    }
    if text.is_empty() { Err(refuse()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn durations_without_unit_out_of_range_or_overflowing_are_refused() {
        for text in ["", "5", "-1s", "1y", "25h", "99999999999999999999h", "18446744073709551615h", "s", "1s 2s"] {
            assert_eq!(duration(text), Err(ArgumentError::Duration(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn an_address_keeps_brackets_where_they_are_needed_to_connect() {
        for (text, joined) in [
            ("[10.244.0.36]:8080", "10.244.0.36:8080"),
            ("[::1]:8080", "[::1]:8080"),
            ("localhost:8080", "localhost:8080"),
        ] {
            assert_eq!(dialable(text), Ok((joined.to_owned(), 8080)));
        }
        assert!(dialable("[x]:80").is_err(), "what is no address");
    }

    #[test]
    fn host_and_port_are_told_apart() {
        assert_eq!(host_port("[::1]:80"), Ok(("::1".to_owned(), 80)));
        assert_eq!(host_port("[10.0.0.7]:80"), Ok(("10.0.0.7".to_owned(), 80)));
        assert_eq!(host_port("payments.shop.svc:80"), Ok(("payments.shop.svc".to_owned(), 80)));
        for text in ["", ":80", "host", "host:0", "host:65536", "::1:80", "[x]:80", "a b:80", "user@host:80"] {
            assert!(host_port(text).is_err(), "{text}");
        }
    }
}
