//! What the states of all kinds of policies have: the pods that enforce one, those that are only counted, and lists of states.
//!
//! It must know no kind: a new one brings its pods, what is counted of others, and an impl of [`State`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{API_VERSION, Metadata};

/// A policy as it is now, on each pod that enforces it. It has the policy's name.
pub trait State {
    /// Its kind.
    const KIND: &'static str;
    /// The kind's name in paths.
    const PLURAL: &'static str;
    /// Breakers, limits or the like of one answer, at most.
    const MOST: usize;

    /// The policy's namespace and name.
    fn metadata(&self) -> &Metadata;
    /// How many breakers, limits or the like it holds.
    fn size(&self) -> usize;
    /// Whether something is missing that will soon be known.
    fn is_incomplete(&self) -> bool;
}

/// The pods that enforce a policy: `P` says of one of them, `M` is counted of those of another namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", bound(deserialize = "P: Deserialize<'de>, M: Deserialize<'de>"))]
#[schemars(bound = "P: JsonSchema, M: JsonSchema")]
pub struct Enforcers<P, M> {
    /// True while the operator has just begun to listen, and some pods have not had the time to speak.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// True where breakers or limits were left out, because one object holds 20000 at most.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// The pods of the policy's own namespace that enforce it.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub pods: Vec<P>,
    /// Pods of namespaces that accept policies of this one, by namespace. They are counted and not named, since they
    /// belong to somebody else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<Elsewhere<M>>,
}

/// Pods of another namespace that enforce the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Elsewhere<M> {
    /// Their namespace.
    pub namespace: String,
    /// How many there are.
    pub pods: i64,
    /// Those of them that are Ready.
    pub ready: i64,
    /// The Ready ones that enforce this generation.
    pub current: i64,
    /// What is counted for this kind of policy.
    #[serde(flatten)]
    pub more: M,
}

/// The states of several policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateList<S> {
    /// `ops.fusebox.dev/v1alpha1`.
    pub api_version: String,
    /// The states' kind and `List`.
    pub kind: String,
    /// Where the list goes on.
    pub metadata: ListMetadata,
    /// The states, in the order of namespaces and names.
    pub items: Vec<S>,
}

/// Where a list goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMetadata {
    /// The token that the next page is asked for with; empty after the last one.
    #[serde(rename = "continue", default, skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// How many objects follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<i64>,
}

impl<S: State> StateList<S> {
    /// A page of states.
    #[must_use]
    pub fn new(items: Vec<S>, metadata: ListMetadata) -> Self {
        Self { api_version: API_VERSION.to_owned(), kind: format!("{}List", S::KIND), metadata, items }
    }
}
