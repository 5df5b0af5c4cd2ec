//! The operations API, `ops.fusebox.dev/v1alpha1`: what people ask of a running fleet, behind the API server's own login.
//!
//! The API server hands requests on (API aggregation), so any kubectl login works, RBAC decides and the audit log tells. Every
//! replica takes them; what only the leader knows is asked of it, and there is no answer rather than half of one. Nothing here
//! is stored, and nothing but an override is written; a client that is let go is a command to the sidecars.

mod authorization;
mod circuit_breaker;
mod desk;
mod discovery;
mod explanation;
mod forward;
mod front_proxy;
mod metrics;
mod page;
mod rate_limit;
mod refusal;
mod route;
mod server;
mod table;

use std::sync::{Arc, OnceLock};

use fusebox_api::operations::{
    CircuitBreakerOverride, CircuitBreakerState, Explanation, ListMetadata, RateLimitState, RateLimitUnblock, State,
    StateList,
};
use fusebox_policy::config::PolicyId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::certificates::Tls;
use crate::lease::{Leadership, Role};
use crate::stores::Synced;

pub use desk::{Desk, LeadsSince, OVERRIDE_MANAGER};
pub use metrics::OperationsMetrics;
pub use server::{Server, serve};

pub(crate) use forward::{PATH, reply};

use circuit_breaker::Wish;
use explanation::Explainer;
use page::Page;
use refusal::Refusal;
use table::Table;

/// What is asked, once it is known that the user may; the same between replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum Question {
    State(PolicyId),
    States(Page),
    Force(Wish),
    Release { policy: PolicyId, user: String },
    Explain { namespace: String, pod: String },
    Limits(PolicyId),
    AllLimits(Page),
    Unblock(rate_limit::Release),
}

/// What is answered; the same between replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    State(Box<CircuitBreakerState>),
    States(StateList<CircuitBreakerState>),
    Override(Box<CircuitBreakerOverride>),
    Released { generation: Option<i64>, was_set: bool },
    Explanation(Box<Explanation>),
    Limits(Box<RateLimitState>),
    AllLimits(StateList<RateLimitState>),
    Unblocked(Box<RateLimitUnblock>),
}

/// Those who answer on this replica; nobody until its stores are filled. Cheap to clone, one shared content.
#[derive(Clone, Default)]
pub struct Operations(Arc<OnceLock<Opened>>);

struct Opened {
    desk: Desk,
    explainer: Explainer,
}

/// Where this replica finds an answer.
#[derive(Clone)]
pub struct Replica {
    /// Those who answer here.
    pub operations: Operations,
    /// Who leads.
    pub leadership: Leadership,
    /// How to prove to the leader what this is.
    pub tls: Tls,
}

impl Operations {
    /// Begins to answer.
    pub fn open(&self, desk: Desk, stores: Synced) {
        // Whoever opened it first answers: there is one desk in a process.
        let _ = self.0.set(Opened { desk, explainer: Explainer::new(stores) });
    }

    fn opened(&self) -> Result<&Opened, Refusal> {
        self.0.get().ok_or(Refusal::Unavailable("the operator is still starting: try again"))
    }

    /// Answers a question as the leader.
    async fn answer(&self, question: Question) -> Result<Answer, Refusal> {
        self.opened()?.desk.answer(question).await
    }
}

impl Replica {
    async fn answer(&self, question: Question) -> Result<Answer, Refusal> {
        if let Question::Explain { namespace, pod } = question {
            return self.operations.opened()?.explainer.explain(namespace, pod).await;
        }
        match self.leadership.role() {
            Role::Leader => self.operations.answer(question).await,
            Role::Follower { leader: Some(leader) } => forward::ask(&self.tls, &leader, &question).await,
            Role::Follower { leader: None } => Err(Refusal::Unavailable("no replica leads at the moment: try again")),
        }
    }
}

impl Answer {
    /// The object that is sent.
    fn to_value(&self) -> serde_json::Result<Value> {
        match self {
            Self::State(state) => serde_json::to_value(state),
            Self::States(list) => serde_json::to_value(list),
            Self::Override(force) => serde_json::to_value(force),
            Self::Explanation(explanation) => serde_json::to_value(explanation),
            Self::Limits(state) => serde_json::to_value(state),
            Self::AllLimits(list) => serde_json::to_value(list),
            Self::Unblocked(unblocked) => serde_json::to_value(unblocked),
            Self::Released { generation, was_set } => {
                let message = if *was_set { "released" } else { "no override is set" };
                Ok(
                    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "message": message,
                           "code": 200, "generation": generation }),
                )
            }
        }
    }

    /// The table that is sent where one is asked for.
    fn table(&self, now: Timestamp) -> Option<Table> {
        match self {
            Self::State(state) => {
                Some(circuit_breaker::table(std::slice::from_ref(state), &ListMetadata::default(), now))
            }
            Self::States(list) => Some(circuit_breaker::table(&list.items, &list.metadata, now)),
            Self::Explanation(explanation) => Some(explanation::table(explanation)),
            Self::Limits(state) => Some(rate_limit::table(std::slice::from_ref(state), &ListMetadata::default(), now)),
            Self::AllLimits(list) => Some(rate_limit::table(&list.items, &list.metadata, now)),
            Self::Override(_) | Self::Released { .. } | Self::Unblocked(_) => None,
        }
    }

    /// Whether something is missing that will soon be known.
    fn is_incomplete(&self) -> bool {
        match self {
            Self::State(state) => state.is_incomplete(),
            Self::States(list) => list.items.iter().any(State::is_incomplete),
            Self::Limits(state) => state.is_incomplete(),
            Self::AllLimits(list) => list.items.iter().any(State::is_incomplete),
            Self::Override(_) | Self::Released { .. } | Self::Explanation(_) | Self::Unblocked(_) => false,
        }
    }
}
