//! What followers tell the leader: everything their sidecars said, so that one replica can write statuses.
//!
//! A connection is mutual TLS from the replicas' own authority, whose key never leaves its Secret;
//! a sidecar's token opens nothing here. A follower sends its whole state first and then each
//! event; whoever falls behind starts over, so nothing queues without bound.

mod forward;
mod receive;

use fusebox_policy::stream::MAX_LINE_UP;
use serde::{Deserialize, Serialize};

use crate::control::ProxyEvent;

pub use forward::{Forwarder, forward};
pub(crate) use receive::PeerSession;

/// The path of the peers' stream on the control port; method POST.
pub const PATH: &str = "/v1/peer";

/// Peers at once, at most.
pub const MAX_PEERS: usize = 16;

/// The longest line from a peer, in bytes: a whole report with its pod around it.
const MAX_LINE: usize = 2 * MAX_LINE_UP;

/// From follower to leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum FromPeer {
    /// The first line: which replica it is. What was known from it before is void unless it comes again.
    Hello {
        /// Its identity.
        identity: String,
    },
    /// One thing that happened to one of its streams.
    Event {
        /// What.
        event: ProxyEvent,
    },
    /// Sent when nothing else is, so that a dead connection is noticed.
    Ping,
}
