//! The pod in the making, as JSON, and the patch that leads to it.
//!
//! The pod was read as a typed one before, so indexing can't meet a value of another shape. Only what is set is touched.

use fusebox_api::names::{
    INJECTED_ANNOTATION, INTERCEPTION_ANNOTATION, REDIRECT_CONTAINER, SIDECAR_CONTAINER, SIDECAR_INJECTED,
    SIDECAR_LABEL,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::subject::Application;
use super::wishes::Wishes;
use super::{INJECTOR_VERSION, Injection, InjectionRefusal, Interception, Outcome, Subject, sidecar};

/// Warnings of one pod, at most; the API server keeps about 4 KiB of them.
const MAX_WARNINGS: usize = 16;

/// By this the cluster autoscaler knows that a pod's scratch volumes need not keep a node alive.
const EVICTABLE_VOLUMES_ANNOTATION: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";

/// One step of a JSON Patch (RFC 6902).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Puts a value where there was none.
    Add {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
    /// Puts a value where there was another.
    Replace {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
}

/// The pod in the making.
pub(super) struct Draft {
    pod: Value,
    warnings: Vec<String>,
}

impl Draft {
    pub(super) fn of(pod: &Value) -> Self {
        Self { pod: pod.clone(), warnings: Vec::new() }
    }

    pub(super) fn warn(&mut self, warning: String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(warning);
        }
    }

    pub(super) fn warn_all(&mut self, warnings: Vec<String>) {
        warnings.into_iter().for_each(|warning| self.warn(warning));
    }

    /// A container of the application.
    pub(super) fn container(&mut self, application: &Application<'_>) -> &mut Value {
        &mut self.pod["spec"][application.list][application.index]
    }

    /// Takes an init container out, to be placed again.
    pub(super) fn take_init_container(&mut self, index: usize) -> Value {
        self.pod["spec"]["initContainers"][index].clone()
    }

    /// Adds to a list of the pod's spec.
    pub(super) fn push(&mut self, place: &[&str], item: Value) {
        push(place.iter().fold(&mut self.pod["spec"], |value, field| &mut value[*field]), item);
    }

    pub(super) fn annotate(&mut self, annotation: &str, value: &str) {
        self.pod["metadata"]["annotations"][annotation] = json!(value);
    }

    /// Puts the sidecar first, and after it the step that redirects traffic to it, where there is one.
    pub(super) fn place(
        &mut self,
        container: Value,
        redirect: Value,
        subject: &Subject<'_>,
        interception: Interception,
    ) {
        let mut first = vec![container];
        if interception == Interception::Transparent {
            let before = subject.init_containers().iter().position(|it| it.name == REDIRECT_CONTAINER);
            first.push(before.map_or(redirect, |index| self.take_init_container(index)));
        }
        let list = &mut self.pod["spec"]["initContainers"];
        let ours = |it: &Value| it["name"] == SIDECAR_CONTAINER || it["name"] == REDIRECT_CONTAINER;
        first.extend(list.as_array().into_iter().flatten().filter(|it| !ours(it)).cloned());
        *list = Value::Array(first);
        if subject.own_sidecar().is_none() {
            for volume in sidecar::volumes(subject) {
                self.push(&["volumes"], volume);
            }
            self.let_autoscaler_evict(subject);
        }
    }

    /// Containers without a hook of their own go on serving while callers learn that the pod is going.
    pub(super) fn delay_shutdown(&mut self, subject: &Subject<'_>, wishes: &Wishes) -> Result<(), InjectionRefusal> {
        let delay = &wishes.delay;
        if delay.seconds == 0 {
            return Ok(());
        }
        if delay.seconds >= delay.grace_seconds {
            self.warn(format!(
                "the pod has {} s to end, so its containers are not kept serving for {} s while callers learn that it is \
                 going: raise terminationGracePeriodSeconds",
                delay.grace_seconds, delay.seconds
            ));
            return Ok(());
        }
        for application in subject.applications().iter().filter(|it| it.list == "containers") {
            let lifecycle = application.container.lifecycle.as_ref();
            if lifecycle.is_none_or(|lifecycle| lifecycle.pre_stop.is_none()) {
                self.container(application)["lifecycle"]["preStop"] = json!({"sleep": {"seconds": delay.seconds}});
            }
        }
        Ok(())
    }

    pub(super) fn finish_metadata(&mut self, interception: Interception) {
        self.pod["metadata"]["labels"][SIDECAR_LABEL] = json!(SIDECAR_INJECTED);
        self.annotate(INTERCEPTION_ANNOTATION, interception.word());
        self.annotate(INJECTED_ANNOTATION, INJECTOR_VERSION);
    }

    pub(super) fn finish(self, before: &Value, outcome: Outcome) -> Injection {
        let patch = patch(before, &self.pod);
        Injection { patch, pod: self.pod, warnings: self.warnings, outcome }
    }

    fn let_autoscaler_evict(&mut self, subject: &Subject<'_>) {
        let listed = match subject.annotations.get(EVICTABLE_VOLUMES_ANNOTATION).map(String::as_str) {
            Some(others) if !others.trim().is_empty() => format!("{others},{}", sidecar::STATE_VOLUME),
            _ => sidecar::STATE_VOLUME.to_owned(),
        };
        self.annotate(EVICTABLE_VOLUMES_ANNOTATION, &listed);
    }
}

/// Adds to a list that may not be there yet.
pub(super) fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

/// What leads from one pod to another, by whole fields of `metadata` and `spec`.
fn patch(before: &Value, after: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for part in ["metadata", "spec"] {
        for (field, value) in after[part].as_object().into_iter().flatten() {
            let path = format!("/{part}/{field}");
            let value = value.clone();
            match before[part].get(field) {
                Some(old) if *old == value => {}
                Some(_) => operations.push(Operation::Replace { path, value }),
                None => operations.push(Operation::Add { path, value }),
            }
        }
    }
    operations
}
