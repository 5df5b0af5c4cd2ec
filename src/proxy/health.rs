//! How the proxy's parts fare: for `/health`, probes and people.
//!
//! The operator being away must never make a proxy unready or unhealthy: traffic flows on under the
//! last configuration, so that is only degraded.

use parking_lot::Mutex;
use serde::Serialize;

/// How one part fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It does its work.
    Healthy,
    /// It does its work, but something is missing.
    Degraded,
    /// It does not do its work.
    Unhealthy,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    /// How it fares.
    pub status: HealthStatus,
    /// What is missing or was, and what to do about it; empty when nothing is to be said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// All parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// The worst of them.
    pub status: HealthStatus,
    /// Whether the listeners are bound and take connections.
    pub listeners: Component,
    /// Whether the configuration in force is the one that was meant.
    pub config: Component,
    /// Whether the operator is connected.
    pub control: Component,
    /// Whether breakers' states were found and are kept for the next process; healthy where that was not asked for.
    pub state_file: Component,
}

/// Where the parts say how they fare.
#[derive(Debug)]
pub(crate) struct Health {
    parts: Mutex<Parts>,
}

#[derive(Clone, Debug)]
struct Parts {
    listeners: Component,
    config: Component,
    control: Component,
    state_file: Component,
}

impl Component {
    /// All is well.
    pub(crate) fn healthy() -> Self {
        Self { status: HealthStatus::Healthy, message: String::new() }
    }

    /// All is well again, with a word on what was.
    pub(crate) fn healthy_with(message: String) -> Self {
        Self { status: HealthStatus::Healthy, message }
    }

    /// Something is missing.
    pub(crate) fn degraded(message: impl Into<String>) -> Self {
        Self { status: HealthStatus::Degraded, message: message.into() }
    }

    /// Nothing works.
    pub(crate) fn unhealthy(message: impl Into<String>) -> Self {
        Self { status: HealthStatus::Unhealthy, message: message.into() }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            parts: Mutex::new(Parts {
                listeners: Component::unhealthy("listeners are not bound yet"),
                config: Component::healthy(),
                control: Component::healthy(),
                state_file: Component::healthy(),
            }),
        }
    }
}

impl Health {
    /// How all parts fare now.
    pub(crate) fn report(&self) -> HealthReport {
        let Parts { listeners, config, control, state_file } = self.parts.lock().clone();
        let parts = [&listeners, &config, &control, &state_file];
        let status = parts.map(|part| part.status).into_iter().max().unwrap_or(HealthStatus::Healthy);
        HealthReport { status, listeners, config, control, state_file }
    }

    /// Whether traffic can be sent here: the listeners alone decide.
    pub(crate) fn is_ready(&self) -> bool {
        self.parts.lock().listeners.status == HealthStatus::Healthy
    }

    /// The listeners' word.
    pub(crate) fn listeners(&self, component: Component) {
        self.parts.lock().listeners = component;
    }

    /// The configuration's word.
    pub(crate) fn config(&self, component: Component) {
        self.parts.lock().config = component;
    }

    /// The state file's word.
    pub(crate) fn state_file(&self, component: Component) {
        self.parts.lock().state_file = component;
    }

    /// The control stream's word.
    pub(crate) fn control(&self, component: Component) {
        self.parts.lock().control = component;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_being_away_is_degraded_and_never_unready() {
        let health = Health::default();
        assert!(!health.is_ready());
        health.listeners(Component::healthy());
        health.control(Component::degraded("operator is away"));
        assert!(health.is_ready());
        assert_eq!(health.report().status, HealthStatus::Degraded);
    }

    #[test]
    fn the_worst_part_is_the_whole() {
        let health = Health::default();
        health.config(Component::degraded("torn"));
        assert_eq!(health.report().status, HealthStatus::Unhealthy);
    }
}
