//! Tests on real pods: one file for each subject, on the cluster that KUBECONFIG names, with Fusebox installed by its chart.
//!
//! `make e2e` brings cluster, images and chart and runs these; `cargo test` alone leaves them out. Programs in the pods are
//! curl, nginx and gRPC's own, as they are published: what is to be shown is that an application needs no change.

#[path = "pods/breaker.rs"]
mod breaker;
#[path = "pods/endpoints.rs"]
mod endpoints;
#[path = "pods/grpc.rs"]
mod grpc;
#[path = "pods/lifecycle.rs"]
mod lifecycle;
#[path = "pods/operator.rs"]
mod operator;
#[path = "pods/overrides.rs"]
mod overrides;
#[path = "pods/plain.rs"]
mod plain;
#[path = "pods/rate_limit.rs"]
mod rate_limit;
#[path = "pods/rollout.rs"]
mod rollout;
#[path = "pods/transparent.rs"]
mod transparent;
