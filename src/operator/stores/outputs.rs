//! The outputs that stand: everything with our label, of the four kinds we make.
//!
//! The Prometheus kinds come and go with their CRDs, so their watches do too. Only the applier
//! reads these; nothing is compiled from them, or our own writes would wake the compiler.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Api;
use kube::api::DynamicObject;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::table::{Change, ObjectName, Reduced, Table};
use super::watch::{Listed, Need, Watch};
use super::{Signal, Surroundings};
use crate::apply::{MANAGED_BY_SELECTOR, OutputKey, OutputKind};
use crate::touched::Touched;

/// An output as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputRecord {
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// The object, without managed fields.
    pub object: Value,
}

/// The stores of outputs; cheap to clone, one shared content.
#[derive(Clone, Debug, Default)]
pub struct OutputStores {
    shared: Arc<Mutex<BTreeMap<OutputKind, Store>>>,
    changed: Touched<OutputKey>,
    listed: Signal,
}

#[derive(Debug)]
struct Store {
    table: Table<OutputRecord>,
    listed: bool,
    watch: AbortHandle,
}

impl Reduced for OutputRecord {
    fn decides_like(&self, other: &Self) -> bool {
        self == other
    }
}

impl OutputStores {
    /// Starts watching a kind, unless it is watched.
    pub fn watch(&self, kind: OutputKind, around: &Surroundings) {
        let mut stores = self.shared.lock();
        if stores.contains_key(&kind) {
            return;
        }
        let table = Table::default();
        let api = Api::<DynamicObject>::all_with(around.clients.watch.clone(), &kind.resource());
        let watch = Watch {
            kind: kind.name(),
            need: Need::Always,
            api,
            scope: around.outputs_scope.clone(),
            table: table.clone(),
            reduce: Box::new(output_record),
            selector: Some(MANAGED_BY_SELECTOR),
        };
        let this = self.clone();
        let tell = move |changes: Vec<Change<OutputRecord>>, listed| this.take(kind, changes, listed);
        let task = around.spawn(watch.follow(around.watches.clone(), around.metrics.clone(), tell));
        stores.insert(kind, Store { table, listed: false, watch: task });
    }

    /// Stops watching a kind whose CRD is gone, and forgets its objects.
    pub fn forget(&self, kind: OutputKind, around: &Surroundings) {
        if let Some(store) = self.shared.lock().remove(&kind) {
            store.watch.abort();
            around.watches.forget(kind.name());
        }
    }

    /// Whether it is known what stands of a kind.
    #[must_use]
    pub fn is_listed(&self, kind: OutputKind) -> bool {
        self.shared.lock().get(&kind).is_some_and(|store| store.listed)
    }

    /// What stands under a key.
    #[must_use]
    pub fn get(&self, key: &OutputKey) -> Option<Arc<OutputRecord>> {
        let name = ObjectName { namespace: key.namespace.clone(), name: key.name.clone() };
        self.shared.lock().get(&key.kind)?.table.get(&name)
    }

    /// Everything that stands.
    #[must_use]
    pub fn keys(&self) -> Vec<OutputKey> {
        let stores = self.shared.lock();
        stores.iter().flat_map(|(kind, store)| store.table.names().into_iter().map(|name| key(*kind, name))).collect()
    }

    /// Tells when a kind was listed: what is missing of it can be seen from then on.
    #[must_use]
    pub fn listed(&self) -> watch::Receiver<u64> {
        self.listed.subscribe()
    }

    /// Outputs that are not what they were.
    #[must_use]
    pub fn changed(&self) -> &Touched<OutputKey> {
        &self.changed
    }

    fn take(&self, kind: OutputKind, changes: Vec<Change<OutputRecord>>, listed: Listed) {
        self.changed.touch(changes.into_iter().map(|change| key(kind, change.name)));
        if listed == Listed::Anew {
            if let Some(store) = self.shared.lock().get_mut(&kind) {
                store.listed = true;
            }
            self.listed.ring();
        }
    }
}

fn key(kind: OutputKind, ObjectName { namespace, name }: ObjectName) -> OutputKey {
    OutputKey { kind, namespace, name }
}

fn output_record(object: &DynamicObject) -> Option<OutputRecord> {
    let mut value = serde_json::to_value(object).ok()?;
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    Some(OutputRecord {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        resource_version: object.metadata.resource_version.clone().unwrap_or_default(),
        object: value,
    })
}
