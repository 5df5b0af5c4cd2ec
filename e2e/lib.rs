//! The whole of Fusebox on real parts: an API server, operator processes, proxy processes, upstreams.
//!
//! Owns what the end-to-end tests, the demo and the measurements share. It must not look inside the parts: they are
//! started as programs and spoken to as their users speak to them, because that is what is to be shown.

pub mod attack;
pub mod fleet;
pub mod operations;
pub mod operator;
pub mod replicas;
pub mod scene;
pub mod sidecar;
pub mod stage;
pub mod standalone;

pub use fleet::Fleet;
pub use operator::{OperatorOptions, OperatorProcess};
pub use scene::Shop;
pub use sidecar::{Sidecar, SidecarOptions};
