//! The control stream's messages: newline-delimited JSON both ways over one HTTP/2 request.
//!
//! Both ends use these types and this framing, so they cannot drift. Every line is bounded
//! before it is parsed, because either end may be wrong or hostile.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::config::{LimitKey, PolicyId, PolicyVersion, ProxyConfig, Reference, ServiceId};
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
    /// The values of the configuration's references, all of them; replaces what was said before. Never in a ConfigMap. A
    /// reference that is absent has no value (any more): what the proxy had of it before stays in use.
    References {
        /// Each reference that has a value, sorted.
        values: Vec<ReferenceValue>,
    },
    /// How many proxies share each policy's limits now; replaces what was said before.
    Replicas {
        /// Each policy with limits of scope Shared, sorted.
        policies: Vec<LiveReplicas>,
    },
    /// Something to do at once, answered by [`Up::Answer`].
    Command {
        /// Names it in the answer.
        id: u64,
        /// What to do.
        command: Command,
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

/// The value of one reference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceValue {
    /// Which.
    pub reference: Reference,
    /// The value, at most [`MAX_REFERENCE_BYTES`]; it may be a secret.
    pub value: String,
}

/// The longest value of a reference, in bytes; that of the largest ConfigMap.
pub const MAX_REFERENCE_BYTES: usize = 1 << 20;

/// How many proxies share a policy's limits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveReplicas {
    /// The policy.
    pub policy: PolicyId,
    /// Ready pods that enforce it, at least 1.
    pub replicas: u32,
}

/// What an operator asks of one proxy on behalf of a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "camelCase")]
pub enum Command {
    /// Which keys of a policy's limits were refused most.
    TopKeys {
        /// The policy.
        policy: PolicyId,
        /// At most so many of each limit.
        most: u32,
    },
    /// Lets a client go at once, with a full bucket.
    Unblock {
        /// The policy.
        policy: PolicyId,
        /// The first 16 or more hexadecimal digits of the SHA-256 of the client's key.
        key_digest: String,
        /// Where clients are looked for of whom the proxy knows nothing but these digits.
        #[serde(default, skip_serializing_if = "Search::is_default")]
        search: Search,
    },
    /// A command of a newer operator, answered by [`Answer::Failed`]. Never sent.
    #[serde(other)]
    Unknown,
}

/// Where the clients are looked for that fewer than 32 digits name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Search {
    /// Among those that the proxy watches.
    #[default]
    Watched,
    /// In the store of limits of scope Shared too, which costs it a look at every key: one proxy is enough.
    Store,
}

impl Search {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a search in the store ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Searched {
    /// Why not all of the store was looked at; empty where it was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cut_off: String,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "done", rename_all = "camelCase")]
pub enum Answer {
    /// The keys that were refused most, the most first.
    TopKeys {
        /// Each with its limit.
        keys: Vec<TopKey>,
    },
    /// So many buckets were filled.
    Unblocked {
        /// 0 where no bucket of this proxy has the key.
        buckets: u32,
        /// How the search in the store ended; absent where none was asked for or needed, and from an older proxy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        searched: Option<Searched>,
    },
    /// It could not be done.
    Failed {
        /// Why.
        problem: String,
    },
    /// An answer of a newer proxy. Never sent.
    #[serde(other)]
    Unknown,
}

/// One key of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopKey {
    /// Which limit and rule.
    pub limit: LimitKey,
    /// The key, hashed or redacted as the policy says.
    pub key: String,
    /// The first 16 hexadecimal digits of the key's SHA-256, which [`Command::Unblock`] takes.
    pub digest: String,
    /// Requests it was refused since it is watched.
    pub refused: u64,
    /// What its bucket holds now, in whole requests.
    pub remaining: u32,
    /// Until when it is refused for a time, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_until_unix_ms: Option<i64>,
}

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
    /// The answer to [`Down::Command`].
    Answer {
        /// The command's.
        id: u64,
        /// What came of it.
        answer: Answer,
    },
    /// The answer to [`Down::Ping`].
    Pong,
    /// A message of a newer proxy, passed over. Never sent.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Debug for ReferenceValue {
    /// Without the value, which may be a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ReferenceValue").field("reference", &self.reference).finish_non_exhaustive()
    }
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
