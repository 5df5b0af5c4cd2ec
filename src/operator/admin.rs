//! The admin port: `/health/live`, `/health/ready`, `/health` and `/metrics`, read-only.
//!
//! It must never change anything, since it has no authentication.

use axum::{
    Json, Router,
    extract::State as Shared,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::health::{Health, State};
use crate::metrics::Metrics;

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Admin {
    health: Health,
    metrics: Metrics,
}

/// The routes of the admin port.
pub fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/health/live", get(|| async { "ok\n" }))
        .route("/health/ready", get(ready))
        .route("/health", get(full))
        .route("/metrics", get(metrics_text))
        .with_state(Admin { health, metrics })
}

async fn ready(Shared(admin): Shared<Admin>) -> (StatusCode, &'static str) {
    if admin.health.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: see /health\n")
    }
}

async fn full(Shared(admin): Shared<Admin>) -> Response {
    let report = admin.health.report();
    let code = match report.status {
        State::Healthy | State::Degraded => StatusCode::OK,
        State::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(report)).into_response()
}

async fn metrics_text(Shared(admin): Shared<Admin>) -> Response {
    match admin.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics can't be written: {error}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Component, Status};

    #[tokio::test]
    async fn unhealthy_answers_503_and_degraded_is_ready() {
        let ports = [Component::Control, Component::Webhooks, Component::Operations];
        let health = Health::starting(ports.into_iter().chain([Component::Stores]));
        let admin = Admin { health: health.clone(), metrics: Metrics::new().unwrap() };
        let answers = async || (ready(Shared(admin.clone())).await.0, full(Shared(admin.clone())).await.status());
        assert_eq!(answers().await, (StatusCode::SERVICE_UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE));
        health.set(Component::Stores, Status::degraded("one watch is away"));
        ports.into_iter().for_each(|port| health.set(port, Status::healthy()));
        assert_eq!(answers().await, (StatusCode::OK, StatusCode::OK));
    }
}
