//! What policies name: single ConfigMaps and Secrets, each watched by its name, since RBAC can allow just that.
//!
//! Only objects that accepted policies name are watched, of the policies' own namespaces, and only the entries that they name are
//! kept, in memory alone. It must not say what a missing value means for a policy: the compiler does.

mod holding;
mod pace;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fusebox_compiler::snapshot::ReferenceState;
use fusebox_policy::config::{Reference, ReferenceKind};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{Entries, Holder, ReferenceValues};
use crate::metrics::Metrics;
use crate::stores::Signal;
use pace::Pace;

/// Objects that are watched at once, at most; what is named beyond is told of.
pub const MAX_WATCHED: usize = 256;

/// The watches; cheap to clone, one shared content.
#[derive(Clone)]
pub struct References {
    shared: Arc<Shared>,
}

/// What watches need and whom they tell.
#[derive(Clone)]
pub struct ReferenceSurroundings {
    /// The client.
    pub client: Client,
    /// Where values go.
    pub values: ReferenceValues,
    /// Rung when something changed that is compiled.
    pub inputs: Signal,
    /// Where counts show.
    pub metrics: Metrics,
    /// The operator's own namespace, in which nothing is ever read for a policy.
    pub own_namespace: String,
    /// Ends the watches.
    pub stop: CancellationToken,
    /// The tasks.
    pub tasks: TaskTracker,
}

struct Shared {
    around: ReferenceSurroundings,
    pace: Pace,
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    next: u64,
    watched: BTreeMap<Holder, Watched>,
    /// Objects that are named beyond the bound, with the entries.
    left_out: BTreeMap<Holder, BTreeSet<String>>,
}

/// One object that is watched.
struct Watched {
    /// Tells this watch from an earlier one of the same object.
    number: u64,
    keys: BTreeSet<String>,
    task: AbortHandle,
    state: State,
}

/// What is known of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    Missing,
    NotPermitted,
    /// It is there; what of its entries is no value.
    There {
        revision: String,
        without: BTreeMap<String, holding::NoValue>,
    },
}

impl References {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(around: ReferenceSurroundings) -> Self {
        Self { shared: Arc::new(Shared { around, pace: Pace::default(), objects: Mutex::default() }) }
    }

    /// Watches what these references name, and no longer what they do not.
    pub fn want(&self, wanted: &BTreeSet<Reference>) {
        let mut named: BTreeMap<Holder, BTreeSet<String>> = BTreeMap::new();
        for reference in wanted {
            named.entry(Holder::of(reference)).or_default().insert(reference.key.clone());
        }
        let mut objects = self.shared.objects.lock();
        let Objects { watched, .. } = &mut *objects;
        let stale = watched.extract_if(.., |holder, it| named.get(holder) != Some(&it.keys));
        for (holder, it) in stale {
            it.task.abort();
            if !named.contains_key(&holder) {
                self.shared.around.values.set(&holder, None);
            }
        }
        // Those that are watched keep their place.
        let mut room = MAX_WATCHED.saturating_sub(objects.watched.len());
        let left_out_before = std::mem::take(&mut objects.left_out);
        for (holder, keys) in named {
            if objects.watched.contains_key(&holder) {
                continue;
            }
            if room == 0 {
                objects.left_out.insert(holder, keys);
                continue;
            }
            room -= 1;
            self.begin(&mut objects, holder, keys);
        }
        if objects.left_out != left_out_before {
            self.shared.around.inputs.ring();
        }
        self.count(&objects);
    }

    /// What is known of every reference that is wanted.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Reference, ReferenceState> {
        let objects = self.shared.objects.lock();
        let watched = objects
            .watched
            .iter()
            .flat_map(|(holder, it)| it.keys.iter().map(|key| (reference(holder, key), it.state.of_entry(key))));
        let left_out = objects.left_out.iter().flat_map(|(holder, keys)| {
            let problem = format!(
                "policies name more than {MAX_WATCHED} ConfigMaps and Secrets, and no more are read: let them name fewer, with more entries in each"
            );
            let state = ReferenceState::Unusable { problem };
            keys.iter().map(move |key| (reference(holder, key), state.clone()))
        });
        watched.chain(left_out).collect()
    }

    fn begin(&self, objects: &mut Objects, holder: Holder, keys: BTreeSet<String>) {
        objects.next += 1;
        let number = objects.next;
        let around = &self.shared.around;
        if holder.namespace == around.own_namespace {
            let task = around.tasks.spawn(async {}).abort_handle();
            objects.watched.insert(holder, Watched { number, keys, task, state: State::NotPermitted });
            return around.inputs.ring();
        }
        let watching = watching::Watching { this: self.clone(), holder: holder.clone(), number, keys: keys.clone() };
        let (client, namespace, stop) = (around.client.clone(), holder.namespace.clone(), around.stop.clone());
        let task = around.tasks.spawn(async move {
            let following = async {
                match watching.holder.kind {
                    ReferenceKind::ConfigMap => watching.follow(Api::<ConfigMap>::namespaced(client, &namespace)).await,
                    ReferenceKind::Secret => watching.follow(Api::<Secret>::namespaced(client, &namespace)).await,
                }
            };
            // A watch that was stopped has nothing to say.
            let _ = stop.run_until_cancelled(following).await;
        });
        let watched = Watched { number, keys, task: task.abort_handle(), state: State::Unknown };
        objects.watched.insert(holder, watched);
    }

    /// Takes what a watch learned, unless it was stopped meanwhile.
    fn learn(&self, (holder, number): (&Holder, u64), state: State, entries: Option<Entries>) {
        let mut objects = self.shared.objects.lock();
        let Some(watched) = objects.watched.get_mut(holder).filter(|it| it.number == number) else { return };
        // Under the lock, so that nothing is left behind for an object that nobody wants any more.
        self.shared.around.values.set(holder, entries);
        if watched.state == state {
            return;
        }
        tracing::info!(object = %holder, state = state.word(), "a policy's reference");
        watched.state = state;
        self.shared.around.inputs.ring();
        self.count(&objects);
    }

    fn count(&self, objects: &Objects) {
        let gauge = &self.shared.around.metrics.references;
        gauge.reset();
        for watched in objects.watched.values() {
            gauge.with_label_values(&[watched.state.word()]).inc();
        }
        let left_out = i64::try_from(objects.left_out.len()).unwrap_or(i64::MAX);
        gauge.with_label_values(&["TooMany"]).set(left_out);
    }
}

impl State {
    /// What it means for one entry.
    fn of_entry(&self, key: &str) -> ReferenceState {
        match self {
            Self::Unknown => ReferenceState::Unread,
            Self::Missing => ReferenceState::Missing,
            Self::NotPermitted => ReferenceState::NotPermitted,
            Self::There { revision, without } => match without.get(key) {
                None => ReferenceState::Present { revision: revision.clone() },
                Some(holding::NoValue::Absent) => ReferenceState::KeyMissing,
                Some(problem) => ReferenceState::Unusable { problem: problem.to_string() },
            },
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Missing => "Missing",
            Self::NotPermitted => "NotPermitted",
            Self::There { without, .. } if without.is_empty() => "Found",
            Self::There { .. } => "EntryMissing",
        }
    }
}

fn reference(holder: &Holder, key: &str) -> Reference {
    let Holder { kind, namespace, name } = holder.clone();
    Reference { kind, namespace, name, key: key.to_owned() }
}

#[cfg(test)]
mod tests;
