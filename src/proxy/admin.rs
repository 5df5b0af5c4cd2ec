//! The admin port: metrics, health, the application's probes, and state, all read-only.
//!
//! It must answer while everything else is in trouble, so it takes no lock that requests hold and
//! never asks the operator. In a pod it is bound for all: the kubelet and Prometheus come from outside. They get health,
//! metrics and probes; who breakers are for and how they stand is shown to callers on the same host or in the same pod alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;

use crate::enforcer::Enforcer;
use crate::health::{Health, HealthStatus};
use crate::metrics::{CONTENT_TYPE, Page};
use crate::probes::Prober;
use crate::view::{self, ListenerView};

/// What the pages are made from.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// What is in force.
    pub(crate) enforcer: Arc<Enforcer>,
    /// How the parts fare.
    pub(crate) health: Arc<Health>,
    /// Bound listeners.
    pub(crate) listeners: Arc<[ListenerView]>,
    /// The application's probes.
    pub(crate) probes: Arc<Prober>,
}

/// All pages of the admin port.
pub(crate) fn router(admin: Admin) -> Router {
    let own = Router::new().route("/state", get(state)).route_layer(middleware::from_fn(only_from_here));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/probes/{container}/{kind}", get(probe))
        .merge(own)
        .with_state(admin)
}

/// Lets callers pass that can't be anywhere else than where this process is.
async fn only_from_here(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    if peer.ip().to_canonical().is_loopback() {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "only for callers within the pod: use kubectl port-forward or kubectl exec\n")
        .into_response()
}

async fn probe(
    State(admin): State<Admin>,
    Path((container, kind)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let verdict = admin.probes.ask(&format!("/probes/{container}/{kind}"), &headers).await;
    (verdict.status, verdict.body).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let page = Page { enforcer: admin.enforcer, health: admin.health };
    match page.text() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written\n").into_response(),
    }
}

async fn health(State(admin): State<Admin>) -> Response {
    let report = admin.health.report();
    let status = match report.status {
        HealthStatus::Healthy | HealthStatus::Degraded => StatusCode::OK,
        HealthStatus::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(report)).into_response()
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.health.is_ready() {
        return "ready\n".into_response();
    }
    let message = admin.health.report().listeners.message;
    (StatusCode::SERVICE_UNAVAILABLE, format!("{message}\n")).into_response()
}

async fn state(State(admin): State<Admin>) -> Response {
    Json(view::state(&admin.enforcer, &admin.listeners, Instant::now())).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::health::Component;
    use crate::probes::Probes;
    use crate::snapshot::Topology;

    #[tokio::test]
    async fn unhealthy_answers_503_and_degraded_is_ready() {
        let health = Arc::new(Health::default());
        let enforcer = Arc::new(Enforcer::new(Topology::default()).unwrap());
        let probes = Arc::new(Prober::new(Probes::default(), Ipv4Addr::LOCALHOST.into()));
        let admin = Admin { enforcer, health: Arc::clone(&health), listeners: Arc::default(), probes };
        let answers = async || {
            let full = super::health(State(admin.clone())).await.status();
            (ready(State(admin.clone())).await.status(), full)
        };
        assert_eq!(answers().await, (StatusCode::SERVICE_UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE));
        health.listeners(Component::healthy());
        health.control(Component::degraded("operator is away"));
        assert_eq!(answers().await, (StatusCode::OK, StatusCode::OK));
    }
}
