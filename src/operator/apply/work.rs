//! One piece of work: what to do about one output, and doing it.
//!
//! The decision is pure. The write goes out only while the lease is held, and says exactly what it
//! means to delete: the object that was seen, at the version that was seen.

use fusebox_api::names::FIELD_MANAGER;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::Status;
use kube::{Api, Client, ResourceExt};
use opentelemetry::Context;
use serde_json::Value;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::output::{APPLIED_ANNOTATION, Output, OutputKey, stands};
use super::queue::Outcome;
use crate::lease::{GuardedError, Leadership};
use crate::metrics::Metrics;
use crate::stores::OutputRecord;

/// What to do about an output.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// It stands, or it is not ours.
    Nothing,
    /// Write it. When what stands says that it was written already, somebody changed it since.
    Apply {
        /// What is wanted.
        output: Output,
        /// Why.
        why: Why,
    },
    /// Delete it.
    Delete {
        /// The object that was seen.
        uid: String,
        /// At which version.
        resource_version: String,
    },
}

/// Why an output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Something else is wanted than was written last.
    Wanted,
    /// Somebody changed it.
    Drifted,
}

/// What was written, until the watch brings it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    hash: String,
    resource_version: String,
}

/// How a piece of work ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) fresh: Option<Fresh>,
    pub(super) error: Option<String>,
}

/// What a piece of work needs.
pub(super) struct Work {
    pub(super) client: Client,
    pub(super) leadership: Leadership,
    pub(super) metrics: Metrics,
    pub(super) key: OutputKey,
}

type WriteError = GuardedError<kube::Error>;

/// What to do, given what is wanted, what stands, and what was written last.
pub(super) fn decide(wanted: Option<&Output>, standing: Option<&OutputRecord>, fresh: Option<&Fresh>) -> Action {
    let applied = standing.and_then(|standing| standing.object["metadata"]["annotations"][APPLIED_ANNOTATION].as_str());
    match (wanted, standing) {
        (None, None) => Action::Nothing,
        (None, Some(_)) if applied.is_none() => Action::Nothing,
        (None, Some(standing)) if standing.object["metadata"]["deletionTimestamp"] != Value::Null => Action::Nothing,
        (None, Some(standing)) => {
            Action::Delete { uid: standing.uid.clone(), resource_version: standing.resource_version.clone() }
        }
        (Some(wanted), Some(standing)) if stands(&wanted.object, &standing.object) => Action::Nothing,
        (Some(wanted), standing) if fresh.is_some_and(|fresh| fresh.is_unseen(wanted, standing)) => Action::Nothing,
        (Some(wanted), _) => {
            let why = if applied == Some(&wanted.hash) { Why::Drifted } else { Why::Wanted };
            Action::Apply { output: wanted.clone(), why }
        }
    }
}

/// Whether `seen` is at least as new as `other`; since Kubernetes 1.35 versions are numbers in order.
pub(crate) fn is_as_new_as(seen: &str, other: &str) -> bool {
    match (seen.parse::<u128>(), other.parse::<u128>()) {
        (Ok(seen), Ok(other)) => seen >= other,
        _ => true,
    }
}

impl Fresh {
    /// Whether `wanted` was written, and the watch has not brought that back yet.
    fn is_unseen(&self, wanted: &Output, standing: Option<&OutputRecord>) -> bool {
        self.hash == wanted.hash
            && standing.is_none_or(|standing| !is_as_new_as(&standing.resource_version, &self.resource_version))
    }
}

impl Done {
    /// There was nothing to do.
    pub(super) fn stands() -> Self {
        Self { outcome: Outcome::Done, fresh: None, error: None }
    }
}

impl Work {
    /// Does it, and never fails: an error is a reason to come back later.
    pub(super) async fn carry_out(self, action: Action, cause: Option<Context>) -> Done {
        let OutputKey { kind, namespace, name } = &self.key;
        let kind = kind.name();
        let span = tracing::info_span!("apply", otel.name = format!("apply {kind}"), kind, namespace, name);
        if let Some(cause) = cause {
            // Without an exporter there is no parent to set, and none is needed.
            let _ = span.set_parent(cause);
        }
        let begun = std::time::Instant::now();
        let done = self.write(action).instrument(span).await;
        self.metrics.reconcile.with_label_values(&["apply"]).inc();
        self.metrics.reconcile_duration.with_label_values(&["apply"]).observe(begun.elapsed().as_secs_f64());
        done
    }

    async fn write(&self, action: Action) -> Done {
        match action {
            Action::Nothing => Done::stands(),
            Action::Apply { output, why } => self.apply(&output, why).await,
            Action::Delete { uid, resource_version } => self.delete(uid, resource_version).await,
        }
    }

    async fn apply(&self, output: &Output, why: Why) -> Done {
        let (api, params) = (self.api(), PatchParams::apply(FIELD_MANAGER).force());
        let patch = Patch::Apply(&output.object);
        match self.leadership.guard(api.patch(&self.key.name, &params, &patch)).await {
            Ok(applied) => {
                self.count("apply");
                let fresh = Fresh {
                    hash: output.hash.clone(),
                    resource_version: applied.resource_version().unwrap_or_default(),
                };
                // Who changes it back each time is answered later each time.
                let outcome = if why == Why::Drifted { Outcome::Failed } else { Outcome::Done };
                Done { outcome, fresh: Some(fresh), error: None }
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn delete(&self, uid: String, resource_version: String) -> Done {
        let preconditions = Preconditions { uid: Some(uid), resource_version: Some(resource_version) };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.leadership.guard(self.api().delete(&self.key.name, &params)).await {
            Ok(_) => {
                self.count("delete");
                Done::stands()
            }
            Err(error) if refusal(&error).is_some_and(Status::is_not_found) => Done::stands(),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &WriteError) -> Done {
        let OutputKey { kind, namespace, name } = &self.key;
        if refusal(error).is_some_and(is_without_namespace) {
            tracing::debug!(kind = kind.name(), namespace, name, "not written: the namespace is going");
            return Done::stands();
        }
        let (reason, text) = (reason(error), explain(error));
        self.metrics.reconcile_errors.with_label_values(&["apply", reason]).inc();
        if !matches!(error, GuardedError::NotLeader) {
            tracing::warn!(kind = kind.name(), namespace, name, reason, error = text, "not written; will try again");
        }
        Done { outcome: Outcome::Failed, fresh: None, error: Some(text) }
    }

    fn count(&self, operation: &str) {
        self.metrics.applied.with_label_values(&[self.key.kind.name(), operation]).inc();
    }

    fn api(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.key.namespace, &self.key.kind.resource())
    }
}

/// The API server's own words, where there are any.
pub(crate) fn refusal(error: &WriteError) -> Option<&Status> {
    match error {
        GuardedError::Failed(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

/// A stable word for metrics.
pub(crate) fn reason(error: &WriteError) -> &'static str {
    match error {
        GuardedError::NotLeader => "NotLeader",
        GuardedError::TimedOut(_) => "TimedOut",
        GuardedError::Failed(kube::Error::Api(status)) => match status.code {
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            422 => "Invalid",
            429 => "TooManyRequests",
            500.. => "ServerError",
            _ => "Refused",
        },
        GuardedError::Failed(_) => "Unreachable",
    }
}

pub(crate) fn explain(error: &WriteError) -> String {
    refusal(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

/// Whether the object's namespace is being deleted or gone: its objects go with it.
fn is_without_namespace(status: &Status) -> bool {
    let details = status.details.as_ref();
    let terminating =
        details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"));
    let gone = status.code == 404 && details.is_some_and(|details| details.kind == "namespaces");
    terminating || gone
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(value: &str) -> Output {
        Output::new(json!({"metadata": {"namespace": "shop", "name": "a"}, "data": {"key": value}}), None)
    }

    fn standing(object: Value, resource_version: &str) -> OutputRecord {
        OutputRecord { uid: "u".into(), resource_version: resource_version.into(), object }
    }

    fn why(action: &Action) -> Option<Why> {
        match action {
            Action::Apply { why, .. } => Some(*why),
            Action::Nothing | Action::Delete { .. } => None,
        }
    }

    #[test]
    fn nothing_is_written_that_stands() {
        assert_eq!(decide(Some(&wanted("1")), Some(&standing(wanted("1").object, "5")), None), Action::Nothing);
    }

    #[test]
    fn what_is_new_is_told_from_what_somebody_changed() {
        assert_eq!(why(&decide(Some(&wanted("1")), None, None)), Some(Why::Wanted));
        assert_eq!(why(&decide(Some(&wanted("2")), Some(&standing(wanted("1").object, "5")), None)), Some(Why::Wanted));
        let mut changed = wanted("1").object;
        changed["data"]["key"] = "3".into();
        assert_eq!(why(&decide(Some(&wanted("1")), Some(&standing(changed, "5")), None)), Some(Why::Drifted));
    }

    #[test]
    fn what_was_just_written_is_not_written_again_before_the_watch_brings_it() {
        let fresh = Fresh { hash: wanted("2").hash, resource_version: "7".into() };
        let old = standing(wanted("1").object, "5");
        assert_eq!(decide(Some(&wanted("2")), Some(&old), Some(&fresh)), Action::Nothing);
        assert_eq!(decide(Some(&wanted("2")), None, Some(&fresh)), Action::Nothing);
        let newer = standing(wanted("1").object, "8");
        assert_eq!(why(&decide(Some(&wanted("2")), Some(&newer), Some(&fresh))), Some(Why::Wanted));
        assert_eq!(why(&decide(Some(&wanted("3")), Some(&old), Some(&fresh))), Some(Why::Wanted));
    }

    #[test]
    fn only_what_carries_our_hash_is_deleted() {
        let ours = standing(wanted("1").object, "5");
        assert_eq!(decide(None, Some(&ours), None), Action::Delete { uid: "u".into(), resource_version: "5".into() });
        let mut somebody_elses = wanted("1").object;
        somebody_elses["metadata"]["annotations"] = Value::Null;
        assert_eq!(decide(None, Some(&standing(somebody_elses, "5")), None), Action::Nothing);
    }

    #[test]
    fn an_object_whose_namespace_is_going_is_given_up() {
        let parse = |value: Value| serde_json::from_value::<Status>(value).unwrap();
        let cause =
            json!({"code": 403, "reason": "Forbidden", "details": {"causes": [{"reason": "NamespaceTerminating"}]}});
        assert!(is_without_namespace(&parse(cause)));
        assert!(is_without_namespace(&parse(json!({"code": 404, "details": {"kind": "namespaces", "name": "shop"}}))));
        assert!(!is_without_namespace(&parse(json!({"code": 403, "reason": "Forbidden"}))));
        assert!(!is_without_namespace(&parse(json!({"code": 404, "details": {"kind": "configmaps"}}))));
    }
}
