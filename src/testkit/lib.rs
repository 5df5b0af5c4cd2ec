//! For development only: a real control plane, and the building blocks of tests and the demo.
//!
//! Owns everything that more than one crate's tests need, so that no helper is written twice. No product crate may depend
//! on it. Where the real thing starts in seconds it is started: an imitation would only repeat what its author believes.

mod cache;
mod child;
mod debian;
mod identity;
mod kubeconfig;
mod lifeline;
mod progress;

pub mod audit;
pub mod binaries;
pub mod certificates;
pub mod cluster;
pub mod command;
pub mod eventually;
pub mod faketime;
pub mod h2spec;
pub mod helm;
pub mod http;
pub mod images;
pub mod load;
pub mod node;
pub mod otlp;
pub mod pods;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod release;
pub mod services;
pub mod upstream;
pub mod workloads;

pub use audit::{AuditEvent, AuditLevel};
pub use binaries::ControlPlane;
pub use cluster::{Cluster, ClusterOptions, Controllers};
pub use eventually::{consistently, eventually};
pub use faketime::WallClock;
pub use lifeline::scratch;
pub use pods::{PodBuilder, TestPod};
pub use ports::{Port, machine_address};
pub use process::{Process, ProcessBuilder};
pub use prometheus::promtool;
pub use redis::{Redis, RedisCluster, RedisSentinels};
pub use services::ServiceBuilder;
pub use upstream::{Behaviour, FlakyUpstream};
pub use workloads::Workload;
