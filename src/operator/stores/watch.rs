//! Keeps one table up to date by a watch, for ever.
//!
//! Errors are waited out with a bound and shown; they never empty a table. A connection that was cut
//! silently is noticed within a minute, because a watch lasts 40 s and its silence is measured.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::{Api, Resource, ResourceExt};
use kube_runtime::WatchStreamExt;
use kube_runtime::utils::Backoff as KubeBackoff;
use kube_runtime::watcher::{self, Config, Event, watcher};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch as channel;

use super::scope::Scope;
use super::table::{Change, ObjectName, Table};
use crate::backoff::Backoff;
use crate::metrics::Metrics;

/// How long a watch lasts before it is opened anew; a silent one is cut by the read timeout of its client, ten seconds later.
const WATCH_SECONDS: u32 = 40;

/// The delays of a failing watch.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(10), jitter_percent: 50 };

/// A watch counts as failing for this long after an error, since its recovery is silent.
pub const ERROR_LASTS: Duration = Duration::from_secs(15);

/// Errors further apart than this don't add up.
const FORGIVE_AFTER: Duration = Duration::from_secs(60);

/// A kind that need not be served is passed over after so many refusals in a row, so that one that is refused for a moment is not.
const REFUSALS: u32 = 3;

/// Whether anything is compiled before the objects of a kind were listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing is.
    Always,
    /// Only where the API server serves the kind to this operator: an older chart's CRDs and roles know no newer kinds.
    WhereServed,
}

/// What all watches are doing; cheap to clone, one shared content.
#[derive(Clone, Debug, Default)]
pub struct Watches {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    watches: Mutex<BTreeMap<&'static str, State>>,
    version: channel::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether anything waits for its list.
    expected: bool,
    listed: bool,
    failed: Option<(Instant, String)>,
}

/// The delays of one watch. A success does not reset them: a watch that begins a list that fails is a
/// success and a failure each time.
#[derive(Debug)]
pub struct WatchBackoff {
    kind: &'static str,
    failures: u32,
    last: Option<Instant>,
}

/// What of an object is kept; None where it counts as absent.
pub(super) type Reduce<K, R> = Box<dyn Fn(&K) -> Option<R> + Send>;

/// One kind's watch.
pub(super) struct Watch<K, R> {
    pub(super) kind: &'static str,
    pub(super) need: Need,
    pub(super) api: Api<K>,
    pub(super) selector: Option<&'static str>,
    /// The namespaces whose objects are kept; a namespace itself is kept by its name.
    pub(super) scope: Scope,
    pub(super) table: Table<R>,
    pub(super) reduce: Reduce<K, R>,
}

impl Watches {
    /// Says that a watch must be listed before anything is compiled.
    pub(super) fn expect(&self, kind: &'static str) {
        self.shared.watches.lock().entry(kind).or_default().expected = true;
    }

    /// Says that a watch has ended.
    pub(super) fn forget(&self, kind: &'static str) {
        self.shared.watches.lock().remove(kind);
        self.shared.version.send_modify(|version| *version += 1);
    }

    /// Waits until every expected watch was listed once.
    pub async fn all_listed(&self) {
        let mut version = self.shared.version.subscribe();
        while !self.unlisted().is_empty() {
            if version.changed().await.is_err() {
                return;
            }
        }
    }

    /// Expected kinds that were not listed yet.
    #[must_use]
    pub fn unlisted(&self) -> Vec<&'static str> {
        let watches = self.shared.watches.lock();
        watches.iter().filter(|(_, state)| state.expected && !state.listed).map(|(kind, _)| *kind).collect()
    }

    /// Kinds whose watch failed of late, with the error.
    #[must_use]
    pub fn failing(&self, now: Instant) -> Vec<(&'static str, String)> {
        let watches = self.shared.watches.lock();
        let failing = watches.iter().filter_map(|(kind, state)| {
            let (at, error) = state.failed.as_ref()?;
            (now.saturating_duration_since(*at) < ERROR_LASTS).then(|| (*kind, error.clone()))
        });
        failing.collect()
    }

    /// Stops waiting for a kind that the API server does not serve.
    fn pass_over(&self, kind: &'static str) {
        tracing::warn!(
            kind,
            "the API server does not serve these policies to this operator, which goes on without them: apply the CRDs and roles of its own release"
        );
        self.change(kind, |state| state.listed = true);
    }

    fn change(&self, kind: &'static str, change: impl FnOnce(&mut State)) {
        change(self.shared.watches.lock().entry(kind).or_default());
        self.shared.version.send_modify(|version| *version += 1);
    }
}

impl WatchBackoff {
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, failures: 0, last: None }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > FORGIVE_AFTER) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        Some(BACKOFF.delay(self.failures, &self.kind))
    }
}

impl KubeBackoff for WatchBackoff {
    fn reset(&mut self) {}
}

impl<K, R> Watch<K, R>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    R: Send + Sync + 'static,
{
    /// Follows the watch and tells of each change, until the task ends.
    pub(super) async fn follow(self, watches: Watches, metrics: Metrics, mut tell: impl FnMut(Vec<Change<R>>, Listed)) {
        let Self { kind, need, api, selector, scope, table, reduce } = self;
        let config =
            Config { label_selector: selector.map(str::to_owned), timeout: Some(WATCH_SECONDS), ..Config::default() };
        let mut events = watcher(api, config).backoff(WatchBackoff::new(kind)).boxed();
        let mut writer = table.writer();
        let mut refusals = 0;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    report(kind, &error, &watches, &metrics);
                    refusals = if is_refused(&error) { refusals + 1 } else { 0 };
                    if need == Need::WhereServed && refusals == REFUSALS {
                        watches.pass_over(kind);
                    }
                    continue;
                }
            };
            let listed = if matches!(event, Event::InitDone) { Listed::Anew } else { Listed::Before };
            let changes = writer.take(reduced(event, &reduce, &scope));
            metrics.store_objects.with_label_values(&[kind]).set(i64::try_from(table.len()).unwrap_or(i64::MAX));
            tell(changes, listed);
            if listed == Listed::Anew {
                watches.change(kind, |state| {
                    state.listed = true;
                    state.failed = None;
                });
            }
        }
    }
}

/// Whether changes are those of a list that is complete now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Anew,
    Before,
}

/// Whether the kind is not there, or may not be read.
fn is_refused(error: &watcher::Error) -> bool {
    match error {
        // A path that is not served is answered in plain words, of which only the code can be told.
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => [403, 404].contains(&status.code),
        _ => false,
    }
}

fn report(kind: &'static str, error: &watcher::Error, watches: &Watches, metrics: &Metrics) {
    metrics.watch_errors.with_label_values(&[kind]).inc();
    let text = error.to_string();
    tracing::warn!(kind, error = text, "watch failed");
    watches.change(kind, |state| state.failed = Some((Instant::now(), text)));
}

fn reduced<K: Resource, R>(event: Event<K>, reduce: &Reduce<K, R>, scope: &Scope) -> Event<(ObjectName, Option<R>)> {
    let kept = |object: &K| {
        let namespace = object.namespace().unwrap_or_else(|| object.name_any());
        scope.holds(&namespace).then(|| reduce(object)).flatten()
    };
    let named = |object: &K| ObjectName { namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply((named(&object), kept(&object))),
        Event::Apply(object) => Event::Apply((named(&object), kept(&object))),
        Event::Delete(object) => Event::Delete((named(&object), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_add_up_although_each_list_begins_well() {
        let mut backoff = WatchBackoff::new("pods");
        let delays: Vec<Duration> = (0..8)
            .map(|_| {
                KubeBackoff::reset(&mut backoff);
                backoff.next().unwrap()
            })
            .collect();
        assert!(delays[0] <= Duration::from_millis(500) && delays[7] >= Duration::from_secs(5), "{delays:?}");
    }

    #[tokio::test]
    async fn nothing_is_synced_before_every_expected_kind_was_listed() {
        let watches = Watches::default();
        watches.expect("pods");
        watches.expect("services");
        watches.change("pods", |state| state.listed = true);
        assert_eq!(watches.unlisted(), ["services"]);
        watches.change("services", |state| state.listed = true);
        watches.all_listed().await;
    }

    #[tokio::test]
    async fn a_watch_that_nobody_waits_for_is_shown_when_it_fails_and_holds_nothing_up() {
        let watches = Watches::default();
        watches.change("endpointslices", |state| state.failed = Some((Instant::now(), "forbidden".to_owned())));
        watches.all_listed().await;
        assert_eq!(watches.failing(Instant::now()), [("endpointslices", "forbidden".to_owned())]);
    }
}
