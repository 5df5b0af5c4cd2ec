//! The watch of one object by its name, for as long as somebody names it.
//!
//! `resourceNames` of a role allows a list and a watch only with a field selector on the name, which is all that is asked for.

use std::collections::BTreeSet;

use futures::StreamExt;
use kube::Api;
use kube::core::Status;
use kube_runtime::watcher::{self, Config, Event, watcher};

use super::holding::{Holding, there};
use super::pace::Trouble;
use super::{References, State};
use crate::control::Holder;

/// How long a watch lasts before it is opened anew: with all objects watched, a few calls a second.
const WATCH_SECONDS: u32 = 100;

/// One object's watch.
pub(super) struct Watching {
    pub(super) this: References,
    pub(super) holder: Holder,
    pub(super) number: u64,
    pub(super) keys: BTreeSet<String>,
}

impl Watching {
    /// Follows the object until the task ends.
    pub(super) async fn follow<K: Holding>(self, api: Api<K>) {
        let fields = format!("metadata.name={}", self.holder.name);
        let config = Config { field_selector: Some(fields), timeout: Some(WATCH_SECONDS), ..Config::default() };
        let pace = self.this.shared.pace.clone();
        let salt = self.holder.to_string();
        pace.first().await;
        let mut events = watcher(api, config).boxed();
        let (mut listed, mut failures) = (None, 0);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if !matches!(event, Event::Init) {
                        failures = 0;
                    }
                    self.take(event, &mut listed);
                }
                Err(error) => {
                    let trouble = self.trouble(&error, &mut failures);
                    pace.again(trouble, &salt).await;
                }
            }
        }
    }

    fn take<K: Holding>(&self, event: Event<K>, listed: &mut Option<K>) {
        match event {
            Event::Init => *listed = None,
            Event::InitApply(object) => *listed = Some(object),
            Event::InitDone => match listed.take() {
                Some(object) => self.found(object),
                None => self.learn(State::Missing),
            },
            Event::Apply(object) => self.found(object),
            Event::Delete(_) => self.learn(State::Missing),
        }
    }

    fn found<K: Holding>(&self, object: K) {
        let (state, entries) = there(object, &self.keys);
        self.this.learn((&self.holder, self.number), state, Some(entries));
    }

    fn learn(&self, state: State) {
        self.this.learn((&self.holder, self.number), state, None);
    }

    /// What an error means: a refusal takes the value away, since it may be the answer to a leak; others change nothing.
    fn trouble(&self, error: &watcher::Error, failures: &mut u32) -> Trouble {
        *failures = failures.saturating_add(1);
        if is_forbidden(error) {
            self.learn(State::NotPermitted);
            return Trouble::NotPermitted;
        }
        tracing::debug!(object = %self.holder, %error, "a policy's reference can't be watched; will try again");
        Trouble::Failed(*failures)
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    let of = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.is_forbidden());
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => of(error),
        watcher::Error::WatchError(status) => Status::is_forbidden(status),
        watcher::Error::NoResourceVersion => false,
    }
}
