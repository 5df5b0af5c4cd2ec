//! The operator's health: what each component last said of itself, and the overall word.
//!
//! Components report here, and the admin server reads. Nothing is probed on request, because a
//! health check that calls the API server takes every replica down with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Serialize;

/// A part of the operator that can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Component {
    /// Calls of the API server.
    Api,
    /// The watches and what they filled.
    Stores,
    /// The installed CRDs.
    Resources,
    /// Leader election.
    Lease,
    /// The control stream's server.
    Control,
    /// The webhooks' server.
    Webhooks,
    /// The operations API's server.
    Operations,
    /// The certificates in use.
    Certificates,
    /// That everybody who should knows their authorities.
    Bundles,
    /// The exporter of traces.
    Otlp,
}

/// How a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All is well.
    Healthy,
    /// It works in part; no reason to restart or to send traffic elsewhere.
    Degraded,
    /// It does not work.
    Unhealthy,
}

/// A component's last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// How it is.
    pub status: State,
    /// Why, with the next step; empty when healthy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// All components and the overall word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst of all components.
    pub status: State,
    /// Each component.
    pub components: BTreeMap<Component, Status>,
}

/// The collected health; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct Health {
    components: Arc<RwLock<BTreeMap<Component, Status>>>,
}

impl Status {
    /// All is well.
    #[must_use]
    pub fn healthy() -> Self {
        Self { status: State::Healthy, message: String::new() }
    }

    /// It works in part.
    #[must_use]
    pub fn degraded(message: impl Into<String>) -> Self {
        Self { status: State::Degraded, message: message.into() }
    }

    /// It does not work.
    #[must_use]
    pub fn unhealthy(message: impl Into<String>) -> Self {
        Self { status: State::Unhealthy, message: message.into() }
    }
}

impl Health {
    /// A health of components that have all yet to start, which is unhealthy.
    #[must_use]
    pub fn starting(components: impl IntoIterator<Item = Component>) -> Self {
        let starting = components.into_iter().map(|component| (component, Status::unhealthy("not started yet")));
        Self { components: Arc::new(RwLock::new(starting.collect())) }
    }

    /// Takes a component's word.
    pub fn set(&self, component: Component, status: Status) {
        if self.components.read().get(&component) == Some(&status) {
            return;
        }
        tracing::info!(?component, status = ?status.status, message = status.message, "health changed");
        self.components.write().insert(component, status);
    }

    /// A component's last word.
    #[must_use]
    pub fn get(&self, component: Component) -> Option<Status> {
        self.components.read().get(&component).cloned()
    }

    /// All components and the overall word.
    #[must_use]
    pub fn report(&self) -> Report {
        let components = self.components.read().clone();
        let status = components.values().map(|status| status.status).max().unwrap_or(State::Healthy);
        Report { status, components }
    }

    /// Whether sidecars and the API server can be served: the stores were filled, and all three TLS ports are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let components = self.components.read();
        [Component::Stores, Component::Control, Component::Webhooks, Component::Operations]
            .iter()
            .all(|component| components.get(component).is_some_and(|status| status.status != State::Unhealthy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_component_decides() {
        let health = Health::starting([Component::Api, Component::Otlp]);
        assert_eq!(health.report().status, State::Unhealthy);
        health.set(Component::Api, Status::healthy());
        health.set(Component::Otlp, Status::degraded("collector away"));
        assert_eq!(health.report().status, State::Degraded);
    }

    #[test]
    fn ready_needs_stores_and_ports_and_nothing_else() {
        let needed = [Component::Stores, Component::Control, Component::Webhooks, Component::Operations];
        let health = Health::starting(needed.into_iter().chain([Component::Api]));
        for component in needed {
            assert!(!health.is_ready(), "{component:?} has not started");
            health.set(component, Status::healthy());
        }
        assert!(health.is_ready(), "an API server that is away takes no replica out of service");
    }
}
