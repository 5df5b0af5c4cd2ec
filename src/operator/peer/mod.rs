//! What followers tell the leader: everything their sidecars said, so that one replica can write statuses.
//!
//! A connection is mutual TLS from the replicas' own authority, whose key never leaves its Secret;
//! a sidecar's token opens nothing here. A follower sends its whole state first and then each
//! event; whoever falls behind starts over, so nothing queues without bound. Down the same stream come commands for
//! its sidecars, each of which is answered or given up.

mod forward;
mod receive;

use fusebox_policy::stream::{Answer, Command, MAX_LINE_UP};
use serde::{Deserialize, Serialize};

use crate::control::ProxyEvent;

pub use forward::{Forwarder, forward};
pub(crate) use receive::PeerSession;

/// The path of the peers' stream on the control port; method POST.
pub const PATH: &str = "/v1/peer";

/// Peers at once, at most.
pub const MAX_PEERS: usize = 16;

/// The longest line to a peer, in bytes: a command.
const MAX_LINE_DOWN: usize = 64 * 1024;

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
    /// What came of a command; None where the sidecar did not answer.
    Answer {
        /// The command's.
        id: u64,
        /// The sidecar's answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Answer>,
    },
    /// Sent when nothing else is, so that a dead connection is noticed.
    Ping,
}

/// From leader to follower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum ToPeer {
    /// A command for one of its sidecars.
    Command {
        /// Names it in the answer.
        id: u64,
        /// The pod's uid.
        pod: String,
        /// What to do.
        command: Command,
    },
    /// A message of a newer leader, passed over. Never sent.
    #[serde(other)]
    Unknown,
}
