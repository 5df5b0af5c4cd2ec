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

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::operations::{CircuitBreakerState, RateLimitState};

    fn stays<S: State + Serialize + DeserializeOwned>(text: &str) {
        let list: StateList<S> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&list).unwrap(), text);
        assert_eq!((list.items[0].size(), list.items[0].is_incomplete()), (1, true));
    }

    #[test]
    fn states_of_every_kind_are_flat_objects_with_their_fields_in_order() {
        stays::<CircuitBreakerState>(
            r#"{"apiVersion":"ops.fusebox.dev/v1alpha1","kind":"CircuitBreakerStateList","metadata":{"continue":"shop/pay"},"items":[{"apiVersion":"ops.fusebox.dev/v1alpha1","kind":"CircuitBreakerState","metadata":{"namespace":"shop","name":"pay"},"generation":2,"side":"Client","scope":"Service","mode":"Enforce","incomplete":true,"truncated":true,"pods":[{"name":"web","workload":"Deployment/web","ready":true,"connected":false,"current":false,"breakers":[{"target":{"namespace":"shop","name":"pay"},"port":80,"state":"Open","failurePercent":50.0,"trips":1,"rejected":7}]}],"elsewhere":[{"namespace":"bank","pods":3,"ready":2,"current":1,"open":1}]}]}"#,
        );
        stays::<RateLimitState>(
            r#"{"apiVersion":"ops.fusebox.dev/v1alpha1","kind":"RateLimitStateList","metadata":{},"items":[{"apiVersion":"ops.fusebox.dev/v1alpha1","kind":"RateLimitState","metadata":{"namespace":"shop","name":"api"},"generation":2,"side":"Server","mode":"Shadow","incomplete":true,"pods":[{"name":"web","workload":"Deployment/web","ready":true,"connected":true,"current":true,"limits":[{"target":{"namespace":"shop","name":"api"},"port":8080,"limit":"all","reported":true,"allowed":5,"limited":4,"delayed":0,"trackedKeys":1,"blockedClients":0}]}],"elsewhere":[{"namespace":"bank","pods":3,"ready":2,"current":1,"limited":9}]}]}"#,
        );
    }

    #[test]
    fn what_an_older_operator_leaves_out_is_none() {
        let text = r#"{"apiVersion":"ops.fusebox.dev/v1alpha1","kind":"RateLimitState","metadata":{"namespace":"shop","name":"api"},"generation":2,"side":"Server","mode":"Shadow"}"#;
        let state: RateLimitState = serde_json::from_str(text).unwrap();
        assert_eq!((state.enforcers.pods.len(), state.size(), state.is_incomplete()), (0, 0, false));
    }
}
