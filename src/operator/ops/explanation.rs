//! `explanations`: which policies apply to a pod, which do not, and why.
//!
//! Every replica has what decides in its stores and answers by itself. It must tell no more than who may read the pod's
//! namespace may know.

use std::sync::Arc;

use fusebox_api::operations::{Explanation, Workload};
use fusebox_compiler::explanation::{Reader, explain};
use fusebox_compiler::snapshot::Prometheus;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::refusal::Refusal;
use super::route::{Asked, Operation};
use super::table::{Column, Row, Table};
use super::{Answer, Question};
use crate::stores::Synced;

const RESOURCE: &str = "explanations";

/// Explanations that are made at once: each compiles the whole cluster.
const AT_ONCE: usize = 2;

/// Explains one pod.
pub(crate) const GET: Operation = Operation { resource: RESOURCE, subresource: "", verb: "get", read };

const COLUMNS: &[Column] = &[
    Column::new("Pod", "The pod."),
    Column::new("Policy", "The policy."),
    Column::new("Applies", "Whether it applies to the pod."),
    Column::new("Why", "Where and how it applies, or why it does not."),
];

/// Explains pods.
#[derive(Clone, Debug)]
pub(crate) struct Explainer {
    stores: Synced,
    turns: Arc<Semaphore>,
}

fn read(asked: &Asked<'_>) -> Result<Question, Refusal> {
    Ok(Question::Explain { namespace: asked.attributes.namespace.clone(), pod: asked.attributes.name.clone() })
}

impl Explainer {
    pub(crate) fn new(stores: Synced) -> Self {
        Self { stores, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Explains one pod.
    ///
    /// # Errors
    /// `NotFound`, or `Busy`.
    pub(crate) async fn explain(&self, namespace: String, pod: String) -> Result<Answer, Refusal> {
        let _turn = self.turns.try_acquire().map_err(|_| Refusal::Busy)?;
        let (stores, name) = (self.stores.clone(), pod.clone());
        let explained = tokio::task::spawn_blocking(move || {
            let snapshot = stores.snapshot(Timestamp::now(), Prometheus::Missing);
            explain(snapshot, &namespace, &name, Reader::Namespace)
        });
        let explained = explained.await.map_err(|_| Refusal::Unavailable("the compiler stopped unexpectedly"))?;
        let missing = || Refusal::NotFound {
            resource: RESOURCE,
            name: pod,
            why: "no pod of this name, or it has finished".to_owned(),
        };
        explained.map(|explanation| Answer::Explanation(Box::new(explanation))).ok_or_else(missing)
    }
}

/// One line for each policy.
pub(crate) fn table(explanation: &Explanation) -> Table {
    let Explanation { metadata, workload, sidecar, applies, does_not_apply, .. } = explanation;
    let Workload { kind, name, .. } = workload;
    let missing = if *sidecar { "" } else { " (but it has no sidecar)" };
    let pod = &metadata.name;
    let yes = applies.iter().map(|it| {
        let policy = format!("{}/{}", it.policy.namespace, it.policy.name);
        let how = format!("{} of {kind}/{name}, side {:?}, mode {:?}{missing}", it.traffic, it.side, it.mode);
        Row::new(metadata, [pod.as_str(), &policy, "True", &how])
    });
    let no = does_not_apply.iter().map(|it| {
        let policy = format!("{}/{}", it.policy.namespace, it.policy.name);
        Row::new(metadata, [pod.as_str(), &policy, "False", &format!("{}: {}", it.target, it.why)])
    });
    Table { columns: COLUMNS, rows: yes.chain(no).collect(), next: Default::default() }
}
