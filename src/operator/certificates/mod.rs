//! The control stream's certificates: one authority for all replicas, a leaf of its own for each.
//!
//! The authority lives in a Secret that the leader creates once and nobody overwrites; sidecars get
//! its public half from a ConfigMap. Leaves live in memory only and are short, so nothing that a
//! replica holds is worth much for long. The authority's key must not leave this module.

mod authority;
mod store;
mod tls;

pub use authority::{Authority, CertificateError, PEER_NAME};
pub use store::{CONFIG_MAP, CertificateStore, SECRET};
pub(crate) use tls::is_peer;
pub use tls::{LEAF_VALIDITY, Names, Tls};
