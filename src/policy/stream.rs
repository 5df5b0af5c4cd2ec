//! The control stream's messages: newline-delimited JSON both ways over one HTTP/2 request.
//!
//! Both ends use these types and this framing, so they cannot drift. Every line is bounded
//! before it is parsed, because either end may be wrong or hostile.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::config::{PolicyVersion, ProxyConfig, ServiceId};
use crate::report::ProxyReport;

/// The path of the stream on the operator's control port; method POST.
pub const PATH: &str = "/v1/stream";

/// The audience that a proxy's service-account token must be made for.
pub const AUDIENCE: &str = "fusebox-control";

/// The longest line an operator accepts from a proxy, in bytes.
pub const MAX_LINE_UP: usize = 1 << 20;

/// The longest line a proxy accepts from an operator, in bytes.
pub const MAX_LINE_DOWN: usize = 8 << 20;

/// From operator to proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Down {
    /// The configuration to enforce from now on, answered by [`Up::Ack`] or [`Up::Nack`].
    Config {
        /// The content's version, [`ProxyConfig::revision`].
        revision: String,
        /// The whole configuration.
        config: ProxyConfig,
    },
    /// Who stands behind the Services of the configuration now; replaces what was said before. Never in a ConfigMap,
    /// because it changes with every pod.
    Endpoints {
        /// Every Service port for which endpoints are known, sorted.
        services: Vec<ServiceEndpoints>,
    },
    /// Sent when nothing else was, so that both ends notice a dead connection.
    Ping,
    /// A message of a newer operator, passed over. Never sent.
    #[serde(other)]
    Unknown,
}

/// The endpoints of one Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEndpoints {
    /// The Service.
    pub service: ServiceId,
    /// The Service's port.
    pub port: u16,
    /// Ready endpoints as `address:port`, sorted, at most [`MAX_ENDPOINTS`].
    pub addresses: Vec<String>,
}

/// The most endpoints of one Service port that are sent.
pub const MAX_ENDPOINTS: usize = 1000;

/// From proxy to operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Up {
    /// The first line: who speaks, and what it enforces already (from its ConfigMap or an earlier stream).
    Hello {
        /// The proxy's version.
        version: String,
        /// The revision it enforces, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<String>,
        /// The policies in that revision.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        policies: Vec<PolicyVersion>,
    },
    /// The revision is enforced.
    Ack {
        /// Which revision.
        revision: String,
        /// The policies it carries.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        policies: Vec<PolicyVersion>,
    },
    /// The revision can't be enforced; the one before it stays in force.
    Nack {
        /// Which revision.
        revision: String,
        /// Why, naming the field.
        error: String,
    },
    /// What the proxy saw.
    Report(ProxyReport),
    /// The answer to [`Down::Ping`].
    Pong,
    /// A message of a newer proxy, passed over. Never sent.
    #[serde(other)]
    Unknown,
}

/// Why a line was refused.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The line is longer than the bound; the stream must end.
    #[error("line is longer than {limit} bytes")]
    TooLong {
        /// The bound.
        limit: usize,
    },
    /// The line is not one of the messages.
    #[error("line is not a message of the control stream")]
    Malformed(#[source] serde_json::Error),
}

/// One message as a line, with its newline.
///
/// # Errors
/// When the message can't be written as JSON, which plain data always can.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Collects bytes and gives whole messages; holds at most one bounded line.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    limit: usize,
}

impl Decoder {
    /// A decoder that refuses lines over `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), limit }
    }

    /// Takes the bytes that arrived and returns the messages they complete.
    ///
    /// # Errors
    /// [`LineError`] when a line is too long or not a message; the stream should end then.
    pub fn push<M: DeserializeOwned>(&mut self, bytes: &[u8]) -> Result<Vec<M>, LineError> {
        let mut messages = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.append(&rest[..end])?;
            if !self.buffer.is_empty() {
                messages.push(serde_json::from_slice(&self.buffer).map_err(LineError::Malformed)?);
                self.buffer.clear();
            }
            rest = &rest[end + 1..];
        }
        self.append(rest)?;
        Ok(messages)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        if self.buffer.len() + bytes.len() > self.limit {
            return Err(LineError::TooLong { limit: self.limit });
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_fragmentation() {
        let sent = vec![Up::Pong, Up::Nack { revision: "r".into(), error: "e\n".into() }, Up::Pong];
        let bytes: Vec<u8> = sent.iter().flat_map(|message| encode(message).unwrap()).collect();
        for size in 1..bytes.len() {
            let mut decoder = Decoder::new(64);
            let got: Vec<Up> = bytes.chunks(size).flat_map(|chunk| decoder.push(chunk).unwrap()).collect();
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn a_line_over_the_bound_is_refused_before_it_is_complete() {
        let mut decoder = Decoder::new(8);
        assert!(matches!(decoder.push::<Up>(b"123456789"), Err(LineError::TooLong { limit: 8 })));
    }

    #[test]
    fn a_line_that_is_no_message_is_refused() {
        let mut decoder = Decoder::new(64);
        assert!(matches!(decoder.push::<Up>(b"{\"type\":\"hello\"}\n"), Err(LineError::Malformed(_))));
    }
}
