//! The work behind the ports: stores, compiling, and everything that writes.
//!
//! What needs filled stores starts once they are, and never before; who may write is the lease's word, which each writer asks
//! by itself. Nothing is decided here: each part is only given what it works with.

use std::sync::Arc;

use fusebox_compiler::monitoring::MonitoringOptions;
use fusebox_compiler::snapshot::Prometheus;
use tokio::sync::watch;

use super::Shared;
use super::tending::count;
use crate::api_calls::Clients;
use crate::apply::{Applier, OutputKind};
use crate::certificates::{Publisher, Target};
use crate::discovery::Discovery;
use crate::events;
use crate::health::{Component, Status};
use crate::ops::{Desk, LeadsSince};
use crate::reconcile::{Compiled, Reconciler};
use crate::references::{ReferenceSurroundings, References};
use crate::settings::Settings;
use crate::status::StatusWriter;
use crate::stores::{self, Scope, Surroundings, Synced};

impl Shared {
    /// Watches for as long as the process lives: a list that is cut by the shutdown does no harm.
    pub(super) fn start_stores(&self, clients: &Clients, (scope, own): (Scope, &str)) -> Surroundings {
        let around = Surroundings {
            clients: clients.clone(),
            metrics: self.metrics.clone(),
            watches: self.watches.clone(),
            inputs: self.inputs.clone(),
            statuses: self.statuses.clone(),
            directory: self.directory.clone(),
            endpoints: self.endpoints.clone(),
            outputs_scope: scope.and(own),
            scope,
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        };
        stores::spawn(&self.stores, &around);
        for kind in OutputKind::ALL.into_iter().filter(|kind| !kind.is_prometheus()) {
            self.outputs.watch(kind, &around);
        }
        around
    }

    /// Everything that needs filled stores.
    pub(super) async fn reconcile(self, settings: Settings, clients: Clients, around: Surroundings, identity: String) {
        let (prometheus_sender, prometheus) = watch::channel(Prometheus::Missing);
        let discovery = Discovery {
            client: clients.call.clone(),
            interval: settings.discovery_interval,
            prometheus: prometheus_sender,
            outputs: self.outputs.clone(),
            around,
            health: self.health.clone(),
        };
        self.spawn(discovery.run(self.stop.clone()));
        let Some(synced) = self.stop.run_until_cancelled(self.stores.clone().synced(&self.watches)).await else {
            return;
        };
        self.health.set(Component::Stores, Status::healthy());
        let (published_sender, published) = (self.published.clone(), self.published.subscribe());
        self.publish_bundles(&settings, &clients, &published);
        self.start_writers(&clients, &synced, &published, identity);
        let operator = settings.operator();
        let references = References::new(ReferenceSurroundings {
            client: clients.references.clone(),
            values: self.references.clone(),
            inputs: self.inputs.clone(),
            metrics: self.metrics.clone(),
            own_namespace: operator.namespace.clone(),
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        });
        let reconciler = Reconciler {
            operator,
            stores: synced,
            inputs: self.inputs.subscribe(),
            prometheus,
            trust: self.trust.clone(),
            configurations: self.source.clone(),
            references,
            replicas: self.replicas.clone(),
            published: published_sender,
            debounce: settings.debounce,
            monitoring: MonitoringOptions {
                labels: settings.service_monitor_labels.into_iter().collect(),
                ..MonitoringOptions::default()
            },
            metrics: self.metrics.clone(),
        };
        reconciler.run(self.stop.clone()).await;
    }

    fn publish_bundles(
        &self,
        settings: &Settings,
        clients: &Clients,
        published: &watch::Receiver<Option<Arc<Compiled>>>,
    ) {
        let name = &settings.webhook_configuration;
        let publisher = Publisher {
            client: clients.write.clone(),
            leadership: self.leadership.clone(),
            trust: self.trust.clone(),
            // Who keeps the certificates writes these, too.
            targets: if settings.tls_dir.is_some() { Vec::new() } else { Target::all(name) },
            published: published.clone(),
            outputs: self.outputs.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
        };
        self.spawn(publisher.run(self.stop.clone()));
    }

    fn start_writers(
        &self,
        clients: &Clients,
        synced: &Synced,
        published: &watch::Receiver<Option<Arc<Compiled>>>,
        identity: String,
    ) {
        self.open_operations(clients, synced, published, &identity);
        let (recorder, events) =
            events::recorder(clients.write.clone(), self.leadership.clone(), identity, self.metrics.clone());
        self.spawn(events.run(self.stop.clone()));
        let applier = Applier {
            client: clients.write.clone(),
            leadership: self.leadership.clone(),
            stores: self.outputs.clone(),
            published: published.clone(),
            trust: self.trust.clone(),
            monitoring: self.monitoring.clone(),
            statuses: self.statuses.clone(),
            metrics: self.metrics.clone(),
        };
        self.spawn(applier.run(self.stop.clone()));
        let writer = StatusWriter {
            client: clients.write.clone(),
            leadership: self.leadership.clone(),
            stores: synced.clone(),
            published: published.clone(),
            book: self.book.clone(),
            monitoring: self.monitoring.clone(),
            touched: self.statuses.clone(),
            events: recorder,
            metrics: self.metrics.clone(),
        };
        self.spawn(writer.run(self.stop.clone()));
        self.spawn(count(synced.clone(), self.metrics.clone(), self.stop.clone()));
    }

    /// Lets the operations API answer, now that the stores are filled.
    fn open_operations(
        &self,
        clients: &Clients,
        synced: &Synced,
        published: &watch::Receiver<Option<Arc<Compiled>>>,
        identity: &str,
    ) {
        let (recorder, events) =
            events::recorder(clients.write.clone(), self.leadership.clone(), identity.to_owned(), self.metrics.clone());
        self.spawn(events.run(self.stop.clone()));
        let leads_since = LeadsSince::default();
        self.spawn(leads_since.clone().follow(self.leadership.clone(), self.stop.clone()));
        let desk = Desk {
            call: clients.call.clone(),
            write: clients.write.clone(),
            leadership: self.leadership.clone(),
            published: published.clone(),
            book: self.book.clone(),
            commands: self.commands.clone(),
            events: parking_lot::Mutex::new(recorder),
            leads_since,
        };
        self.operations.open(desk, synced.clone());
    }
}
