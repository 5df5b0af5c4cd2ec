//! What one stream was sent so far, and what it must be sent now: configuration, endpoints, values of references, live replicas.
//!
//! Each is sent when it differs from what was sent last, so that a sidecar is never told the same twice. It must not decide what
//! a sidecar may know: the directories answer for the sidecar's own configuration alone.

use std::sync::Arc;

use bytes::Bytes;
use fusebox_policy::config::ProxyConfig;
use fusebox_policy::stream::{Down, LiveReplicas, ServiceEndpoints, encode};

use super::{End, Session};
use crate::control::configurations::Configuration;
use crate::control::endpoints::Told;

/// What a stream was sent last.
#[derive(Default)]
pub(super) struct Sent {
    /// The revision, or that which the sidecar enforced already.
    revision: Option<String>,
    endpoints: Vec<ServiceEndpoints>,
    references: Bytes,
    replicas: Vec<LiveReplicas>,
}

impl Sent {
    /// Nothing yet, to a sidecar that enforces this revision already.
    pub(super) fn new(revision: Option<String>) -> Self {
        Self { revision, ..Self::default() }
    }
}

impl Session {
    /// Sends the configuration, and what belongs to it.
    pub(super) async fn send_all(&mut self, sent: &mut Sent) -> Result<(), End> {
        self.send_configuration(sent).await?;
        self.send_references(sent).await?;
        self.send_replicas(sent).await?;
        self.send_endpoints(sent).await
    }

    async fn send_configuration(&mut self, sent: &mut Sent) -> Result<(), End> {
        let line = match self.configuration() {
            Some(current) if sent.revision.as_deref() == Some(current.revision()) => return Ok(()),
            Some(current) => {
                sent.revision = Some(current.revision().to_owned());
                current.line()
            }
            // Not compiled yet: what the sidecar enforces already stays.
            None if sent.revision.is_none() => return Ok(()),
            None => match self.configuration_gone(sent) {
                Some(line) => line,
                None => return Ok(()),
            },
        };
        self.writer.send(line).await?;
        self.control.metrics.told.configurations.with_label_values(&["sent"]).inc();
        Ok(())
    }

    /// The line that asks for nothing, for a workload that was compiled once and is no longer.
    fn configuration_gone(&self, sent: &mut Sent) -> Option<Bytes> {
        let config = ProxyConfig::empty(self.entry.workload.clone());
        let empty = Configuration::new(Arc::new(config)).ok()?;
        if sent.revision.as_deref() == Some(empty.revision()) {
            return None;
        }
        sent.revision = Some(empty.revision().to_owned());
        Some(empty.line())
    }

    /// Tells who stands behind the Services that the configuration has with scope Endpoint, if that is not what was sent.
    pub(super) async fn send_endpoints(&mut self, sent: &mut Sent) -> Result<(), End> {
        let Some(current) = self.configuration() else { return Ok(()) };
        let Some(Told { services, left_out }) = self.control.endpoints.told(current.config()) else { return Ok(()) };
        if sent.endpoints == services {
            return Ok(());
        }
        self.send(&Down::Endpoints { services: services.clone() }).await?;
        sent.endpoints = services;
        self.control.metrics.told.endpoints.inc();
        self.control.metrics.told.endpoints_left_out.inc_by(u64::try_from(left_out).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Tells the values that the configuration names, if they are not what was sent.
    pub(super) async fn send_references(&mut self, sent: &mut Sent) -> Result<(), End> {
        let Some(current) = self.configuration() else { return Ok(()) };
        let told = self.control.references.told(&current).map_err(|_| End::Broken)?;
        if told.line == sent.references {
            return Ok(());
        }
        if told.line.is_empty() {
            self.send(&Down::References { values: Vec::new() }).await?;
        } else {
            self.writer.send(told.line.clone()).await?;
        }
        sent.references = told.line;
        self.control.metrics.told.references.inc();
        self.control.metrics.told.references_left_out.inc_by(u64::try_from(told.left_out).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Tells how many proxies share the limits of the configuration, if that is not what was sent.
    pub(super) async fn send_replicas(&mut self, sent: &mut Sent) -> Result<(), End> {
        let Some(current) = self.configuration() else { return Ok(()) };
        let policies = self.control.replicas.told(&current);
        if policies == sent.replicas {
            return Ok(());
        }
        self.send(&Down::Replicas { policies: policies.clone() }).await?;
        sent.replicas = policies;
        Ok(())
    }

    pub(super) async fn send(&mut self, message: &Down) -> Result<(), End> {
        let line = encode(message).map_err(|_| End::Broken)?;
        Ok(self.writer.send(Bytes::from(line)).await?)
    }
}
