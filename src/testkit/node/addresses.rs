//! The node's names and addresses.
//!
//! Nothing else belongs here. They are private ranges that the API server, the pods and the firewall rules must agree on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The node's name.
pub(super) const NODE_NAME: &str = "fusebox";
/// The node's own address. It is on the loopback interface, so that nobody outside this machine reaches the API server.
pub(super) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 1);
/// Where the API server listens; pods reach it through the Service `kubernetes`.
pub(super) const API_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(NODE_ADDRESS), 6443);
/// Pods have addresses of this range.
pub(super) const PODS: &str = "10.244.0.0/16";
/// Services have addresses of this range.
pub(super) const SERVICES: &str = "10.96.0.0/16";
/// The Service of the cluster's DNS.
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// What every name in the cluster ends with.
pub(super) const CLUSTER_DOMAIN: &str = "cluster.local";
