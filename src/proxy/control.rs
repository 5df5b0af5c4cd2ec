//! The client of the operator's control stream.
//!
//! It must never stand in the way of traffic: whatever the operator or the network does, the proxy goes
//! on under the configuration it has, and comes back with patience.

mod backoff;
mod connect;
mod reporter;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::backoff::Backoff;
use self::connect::Connector;
use self::session::{Session, SessionEnd};
use crate::enforcer::Enforcer;
use crate::health::{Component, Health};
use crate::options::{ControlUrl, Options};
use crate::server::StartError;

/// A session that lasted this long was a good one: the next attempt is made quickly.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// Keeps a stream to one of the operator's replicas.
#[derive(Debug)]
pub(crate) struct Client {
    addresses: Vec<ControlUrl>,
    connector: Connector,
    token_file: PathBuf,
    enforcer: Arc<Enforcer>,
    health: Arc<Health>,
}

impl Client {
    /// A client, or none where no operator was named.
    pub(crate) fn new(
        options: &Options,
        enforcer: &Arc<Enforcer>,
        health: &Arc<Health>,
    ) -> Result<Option<Self>, StartError> {
        if options.control.is_empty() {
            return Ok(None);
        }
        let authority = options.control_ca.clone().ok_or(StartError::Control { missing: "--control-ca FILE" })?;
        let token_file = options.token_file.clone().ok_or(StartError::Control { missing: "--token-file FILE" })?;
        health.control(Component::degraded("operator is not connected yet"));
        Ok(Some(Self {
            addresses: options.control.clone(),
            connector: Connector::new(authority),
            token_file,
            enforcer: Arc::clone(enforcer),
            health: Arc::clone(health),
        }))
    }

    /// Connects, talks and reconnects until it is dropped.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        let mut attempt = backoff.first_attempt();
        loop {
            let url = &self.addresses[attempt % self.addresses.len()];
            let started = Instant::now();
            let end = self.session(url, attempt).await;
            self.enforcer.endpoints_lost(Instant::now());
            let wait = match &end {
                SessionEnd::TokenChanged => Duration::ZERO,
                SessionEnd::Failed(_) if started.elapsed() >= GOOD_SESSION => {
                    backoff = Backoff::default();
                    backoff.next()
                }
                SessionEnd::Failed(_) => backoff.next(),
            };
            tracing::warn!(host = url.host, port = url.port, reason = %end, wait_ms = wait.as_millis(), "control stream ended");
            self.health
                .control(Component::degraded(format!("operator {}:{} is not connected: {end}", url.host, url.port)));
            attempt = attempt.wrapping_add(1);
            tokio::time::sleep(wait).await;
        }
    }

    async fn session(&self, url: &ControlUrl, attempt: usize) -> SessionEnd {
        let opened =
            Session::open(&self.connector, (url, attempt / self.addresses.len()), &self.token_file, &self.enforcer)
                .await;
        match opened {
            Ok(mut session) => {
                tracing::info!(host = url.host, port = url.port, "control stream open");
                self.health.control(Component::healthy());
                session.run(&self.enforcer, &self.health).await
            }
            Err(error) => SessionEnd::Failed(error),
        }
    }
}
