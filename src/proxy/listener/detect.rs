//! What a client speaks, by its first bytes.
//!
//! It must not wait or read: it judges what is there. What begins like HTTP is HTTP, even when it is
//! broken, so that nobody gets past the rules for HTTP by a mistake in the request line.

/// The client's connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many bytes decide at most.
pub(crate) const ENOUGH: usize = 64;

/// The longest method that is taken for one.
const MAX_METHOD: usize = 32;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1, well-formed or not.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// TLS, or anything else that is not HTTP.
    Other,
    /// Too few bytes to say.
    Unsure,
}

/// Judges the first bytes of a connection.
pub(crate) fn spoken(bytes: &[u8]) -> Spoken {
    if bytes.is_empty() {
        return Spoken::Unsure;
    }
    let compared = bytes.len().min(PREFACE.len());
    if bytes[..compared] == PREFACE[..compared] {
        return if compared == PREFACE.len() { Spoken::Http2 } else { Spoken::Unsure };
    }
    http1(bytes)
}

/// A request line begins with a method and a space. Methods of HTTP are written in capitals; other
/// protocols of text use small ones too, so these need a target that only HTTP has.
fn http1(bytes: &[u8]) -> Spoken {
    let line = match bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) {
        // Empty lines before the request line are allowed (RFC 9112 section 2.2).
        Some(start @ 0..4) => &bytes[start..],
        Some(_) => return Spoken::Other,
        None if bytes.len() < 4 => return Spoken::Unsure,
        None => return Spoken::Other,
    };
    let Some(end) = line.iter().position(|byte| !byte.is_ascii_alphabetic() && !matches!(byte, b'-' | b'_')) else {
        return if line.len() > MAX_METHOD { Spoken::Other } else { Spoken::Unsure };
    };
    let method = &line[..end];
    let blank = matches!(line[end], b' ' | b'\t');
    if method.is_empty() || end > MAX_METHOD || !blank {
        return Spoken::Other;
    }
    if method.iter().all(|byte| !byte.is_ascii_lowercase()) {
        return Spoken::Http1;
    }
    match line.get(end + 1) {
        None => Spoken::Unsure,
        Some(b'/' | b'*') => Spoken::Http1,
        Some(_) => absolute(&line[end + 1..]),
    }
}

fn absolute(target: &[u8]) -> Spoken {
    const SCHEME: &[u8] = b"http";
    let compared = target.len().min(SCHEME.len());
    match target[..compared].eq_ignore_ascii_case(&SCHEME[..compared]) {
        true if compared == SCHEME.len() => Spoken::Http1,
        true => Spoken::Unsure,
        false => Spoken::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_known_by_its_first_bytes() {
        for bytes in ["GET / HTTP/1.1\r\n", "CONNECT a:80 HTTP/1.1", "M-SEARCH * HTTP/1.1", "\r\nGET / HTTP/1.1"] {
            assert_eq!(spoken(bytes.as_bytes()), Spoken::Http1, "{bytes:?}");
        }
        assert_eq!(spoken(PREFACE), Spoken::Http2);
        assert_eq!(spoken(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"), Spoken::Http2);
    }

    #[test]
    fn broken_http_is_still_http() {
        for bytes in ["GET\t/ HTTP/1.1", "get / HTTP/1.1", "GET nonsense", "Get http://a/ HTTP/1.1", "PRI * HTTP/2.1"] {
            assert_eq!(spoken(bytes.as_bytes()), Spoken::Http1, "{bytes:?}");
        }
    }

    #[test]
    fn other_protocols_are_not_taken_for_http() {
        let others: [&[u8]; 8] = [
            b"\x16\x03\x01\x02\x00\x01",
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"get key\r\n",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\x10\x1a\0\x04MQTT",
            b"SSH-2.0-OpenSSH_9\r\n",
            b"\r\n\r\n\r\n",
        ];
        for bytes in others {
            assert_eq!(spoken(bytes), Spoken::Other, "{bytes:?}");
        }
    }

    #[test]
    fn too_few_bytes_decide_nothing() {
        for bytes in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "GET", "get ", "get ht", "\r\n"] {
            assert_eq!(spoken(bytes.as_bytes()), Spoken::Unsure, "{bytes:?}");
        }
    }

    #[test]
    fn every_answer_comes_within_the_bytes_that_are_enough() {
        for byte in 0..=u8::MAX {
            assert_ne!(spoken(&[byte; ENOUGH]), Spoken::Unsure, "{byte}");
        }
        assert_ne!(spoken(&[&b"\r\n\r"[..], &[b'a'; 32], b" http"].concat()), Spoken::Unsure);
    }
}
