//! The control stream's server: who may open one, what goes down it, and what came up.
//!
//! It serves on every replica, leader or not, so a sidecar never waits for an election. It must
//! not decide what configurations hold or what reports mean: it carries them, and proves whose they are.

mod book;
mod commands;
mod configurations;
mod directory;
mod endpoints;
mod event;
mod line;
mod metrics;
mod references;
mod refusal;
mod replicas;
mod seats;
mod server;
mod session;

pub use book::{Changes, MAX_BREAKERS, MAX_LIMITS, MAX_PODS, ProxyState, RECONNECT_GRACE, ReportBook, Source, Taken};
pub use commands::{ANSWER_WITHIN, Commands, MAX_KEYS, Unanswered};
pub use configurations::{ConfigSource, Configuration, Configurations};
pub use directory::{Lookup, PodDirectory, PodEntry, PodRef, Sidecar};
pub use endpoints::{
    ENDPOINT_SLICE_CONTROLLER, ENDPOINT_SLICE_SELECTOR, EndpointDirectory, MANAGED_BY_LABEL, MAX_ADDRESSES, Slice, Told,
};
pub use event::{Acknowledgement, Connection, Happened, ProxyEvent, Rejection};
pub use metrics::ControlMetrics;
pub use references::{Entries, Holder, ReferenceValues, Secret, ToldReferences};
pub use replicas::ReplicaCounts;
pub use server::{Control, serve};

pub(crate) use commands::{Line, MAX_UNDER_WAY_TO_PEER, Order, UnderWay};
pub(crate) use line::{BACKLOG, ReadError, Reader, WriteError, Writer};
pub(crate) use seats::Seats;
pub(crate) use session::{End, PING_EVERY, SILENCE};
