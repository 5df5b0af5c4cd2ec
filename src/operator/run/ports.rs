//! The ports: what is served on each, and the certificates that those with TLS wait for.
//!
//! It must not wait for stores or for the lease: a port that opens late looks like a replica that is gone.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::Shared;
use crate::admin;
use crate::admission::{self, Admission};
use crate::api_calls::Clients;
use crate::certificates::{Certificates, Names, Purpose, Tls, TlsSource};
use crate::control::{Control, Seats, serve};
use crate::health::{Component, Status};
use crate::ops;
use crate::peer::{Forwarder, forward};
use crate::settings::Settings;
use crate::token::TokenVerifier;

/// The ports that speak TLS, and so wait for a certificate.
pub(super) struct Listeners {
    pub(super) control: TcpListener,
    pub(super) webhook: TcpListener,
    pub(super) operations: TcpListener,
}

impl Listeners {
    /// Opens the ports that the settings name.
    pub(super) async fn open(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {
            control: listen(settings.control_listen, "--control-listen").await?,
            webhook: listen(settings.webhook_listen, "--webhook-listen").await?,
            operations: listen(settings.ops_listen, "--ops-listen").await?,
        })
    }
}

impl Shared {
    pub(super) fn serve_admin(&self, listener: TcpListener) {
        let stop = self.stop.clone();
        let router = admin::router(self.health.clone(), self.metrics.clone());
        self.spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "the admin port ended");
            }
        });
    }

    /// Starts what keeps certificates. An own authority may take a while; a directory must be good from the start.
    pub(super) fn keep_certificates(
        &self,
        settings: &Settings,
        clients: &Clients,
        address: &str,
    ) -> anyhow::Result<TlsSource> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let certificates = Certificates {
            client: clients.write.clone(),
            namespace: settings.namespace.clone(),
            leadership: self.leadership.clone(),
            schedule: settings.schedule()?,
            names: Names::new(&settings.namespace, settings.sans.iter().cloned().chain([host.to_owned()])),
            trust: self.trust.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
        };
        let Some(directory) = settings.tls_dir.clone() else {
            let (tls, keeping) = certificates.own(self.stop.clone());
            self.spawn(keeping);
            return Ok(tls);
        };
        let kept = certificates.directory(directory, self.stop.clone());
        let (tls, keeping) = kept.context("--tls-dir can't be used")?;
        self.spawn(keeping);
        Ok(tls)
    }

    /// Webhooks need a certificate and nothing else: what they don't know yet, they say.
    pub(super) async fn serve_webhooks(self, mut tls: TlsSource, listener: TcpListener, admission: Admission) {
        let Some(Some(tls)) = self.stop.run_until_cancelled(tls.ready()).await else {
            return;
        };
        let config = move || tls.server_config(Purpose::Webhook).ok();
        self.health.set(Component::Webhooks, Status::healthy());
        admission::serve(listener, config, admission, self.stop.clone()).await;
        self.health.set(Component::Webhooks, Status::unhealthy("the webhook port is closed"));
    }

    pub(super) async fn serve_control(
        self,
        mut tls: TlsSource,
        clients: Clients,
        (control_listener, operations): (TcpListener, TcpListener),
        identity: String,
    ) {
        let Some(Some(tls)) = self.stop.run_until_cancelled(tls.ready()).await else {
            return;
        };
        let control = Arc::new(Control {
            directory: self.directory.clone(),
            endpoints: self.endpoints.clone(),
            source: self.source.clone(),
            references: self.references.clone(),
            replicas: self.replicas.clone(),
            commands: self.commands.clone(),
            book: self.book.clone(),
            verifier: TokenVerifier::new(clients.call.clone()),
            leadership: self.leadership.clone(),
            operations: self.operations.clone(),
            metrics: self.control_metrics.clone(),
            seats: Seats::default(),
            peers: Seats::default(),
        });
        self.forward(tls.clone(), identity);
        self.serve_operations(operations, &tls, &clients);
        self.health.set(Component::Control, Status::healthy());
        serve(control_listener, tls, control, self.stop.clone()).await;
        self.health.set(Component::Control, Status::unhealthy("the control port is closed"));
    }

    fn serve_operations(&self, listener: TcpListener, tls: &Tls, clients: &Clients) {
        let replica =
            ops::Replica { operations: self.operations.clone(), leadership: self.leadership.clone(), tls: tls.clone() };
        let server = ops::Server::new(replica, clients.call.clone(), self.operations_metrics.clone());
        self.spawn(server.follow_front_proxy(clients.watch.clone(), self.metrics.clone(), self.stop.clone()));
        let (health, stop) = (self.health.clone(), self.stop.clone());
        self.spawn(async move {
            health.set(Component::Operations, Status::healthy());
            ops::serve(listener, server, stop).await;
            health.set(Component::Operations, Status::unhealthy("the operations port is closed"));
        });
    }

    fn forward(&self, tls: Tls, identity: String) {
        let (book, commands) = (self.book.clone(), self.commands.clone());
        let forwarder = Forwarder { book, commands, leadership: self.leadership.clone(), tls, identity };
        self.spawn(forward(forwarder, self.stop.clone()));
    }
}

/// Opens one port; a failure names the flag that chooses another.
pub(super) async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}: choose another {flag}"))
}
