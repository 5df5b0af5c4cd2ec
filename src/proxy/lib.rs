//! The sidecar: it carries an application's traffic and enforces the policies on it.
//!
//! It must not know Kubernetes resources: it enforces a `ProxyConfig` and reports what it saw, so that the
//! same proxy runs in a pod, in a test and under `fusebox run`.

mod access_log;
mod admin;
mod bootstrap;
mod breakers;
mod clock;
mod config_error;
mod control;
mod counters;
mod endpoints;
mod enforcer;
mod health;
mod interception;
mod listener;
mod logging;
mod metrics;
mod options;
mod parse;
mod pipeline;
mod probes;
mod process;
mod rate_limit;
mod redirect;
mod series;
mod server;
mod snapshot;
mod socket;
mod state_file;
mod tunnel;
mod upstream;
mod view;
mod wait;

#[cfg(fuzzing)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

pub use access_log::AccessLogMode;
pub use config_error::ConfigError;
pub use enforcer::Applied;
pub use health::{Component, HealthReport, HealthStatus};
pub use listener::limits::Limits;
pub use logging::init_logging;
pub use options::{
    ControlUrl, DEFAULT_DRAIN_TIMEOUT, DEFAULT_ENDPOINTS_MAX_AGE, DEFAULT_MAX_CONNECTIONS, InboundSpec, LogFormat,
    Options, OutboundSpec, ServicePort, UpstreamSpec,
};
pub use parse::ArgumentError;
pub use probes::{ProbeError, Probes};
pub use process::raise_file_limit;
pub use rate_limit::reading::LimitView;
pub use redirect::{Redirect, RedirectError, Table};
pub use server::{Drained, Proxy, StartError, run, termination};
pub use view::{BreakerView, ListenerView, StateView};
pub use wait::{NotReady, Wait};
