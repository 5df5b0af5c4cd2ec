//! The whole proxy on real sockets, one file for each subject.
//!
//! These tests must only use what an embedder has (options, configurations, sockets), so that what
//! they show holds for every way the proxy is run.

mod admin;
mod agreeing;
mod breaking;
mod controlling;
mod draining;
mod endpoints;
mod falling_back;
mod forwarding;
mod grpc;
mod http2;
mod hygiene;
mod hygiene_answers;
mod hygiene_http2;
mod intercepting;
mod interim;
mod judging;
mod limits;
mod probing;
mod rate_limit;
mod rate_limit_bounds;
mod rate_limit_flood;
mod rate_limit_keys;
mod rate_limit_live;
mod rate_limit_shared;
mod rate_limit_waiting;
mod reloading;
mod restarting;
mod scaling;
mod shadowing;
mod streaming;
mod swapping;
mod tunnelling;

mod counts;
mod intercepting_support;
mod namespaces;
mod operator;
mod rate_limit_support;
mod recorder;
pub(crate) mod support;
mod support_http2;
