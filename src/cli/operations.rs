//! The operator's operations API, as commands ask it with the user's own login.
//!
//! Where it is not there, a note says so and the command does what the policies' own resource allows. An answer is waited for
//! through an election, and never for long.

use std::time::Duration;

use anyhow::Result;
use fusebox_api::operations::{
    API_VERSION, CircuitBreakerOverride, CircuitBreakerState, Explanation, RateLimitState, RateLimitUnblock, State,
    StateList,
};
use http::{Method, Request};
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cluster::Session;
use crate::refusal::{Role, explained_by_operations};
use crate::terminal::Terminal;

/// How often something that is not there for a moment is asked for.
const ATTEMPTS: u32 = 6;

/// Objects of one page of a list.
const PAGE: usize = 500;

/// The pause between two attempts; the leader changes within seconds.
const PAUSE: Duration = Duration::from_secs(1);

/// The operations API that answers.
pub(crate) struct Operations {
    client: Client,
    namespace: String,
}

/// What became of a release.
#[derive(Debug, Deserialize)]
pub(crate) struct Released {
    /// The policy's generation without the override.
    pub(crate) generation: Option<i64>,
    message: String,
}

impl Released {
    /// Whether there was anything to release.
    pub(crate) fn was_set(&self) -> bool {
        self.message == "released"
    }
}

impl Session {
    /// The operations API; None, with a note, where it is not installed or does not answer.
    pub(crate) async fn operations(&self, terminal: &mut Terminal) -> Result<Option<Operations>> {
        match self.impatient.list_api_group_resources(API_VERSION).await {
            Ok(_) => Ok(Some(Operations { client: self.impatient.clone(), namespace: self.namespace.clone() })),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                terminal.progress("note: the operations API is not installed, so this is what the policies say")?;
                Ok(None)
            }
            Err(kube::Error::Api(status)) if status.code == 503 => {
                terminal.progress("note: the operations API does not answer, so this is what the policies say")?;
                Ok(None)
            }
            Err(error) => Err(explained_by_operations(error, Role::View)),
        }
    }
}

impl Operations {
    /// The state of one policy, on each pod; None where there is no such policy.
    pub(crate) async fn state<S: State + DeserializeOwned>(&self, policy: &str) -> Result<Option<S>> {
        found(self.ask(Method::GET, &self.path(S::PLURAL, policy), Vec::new()).await)
    }

    /// The states of all policies of a kind, of one namespace or of all.
    pub(crate) async fn states<S: State + DeserializeOwned>(&self, namespace: Option<&str>) -> Result<Vec<S>> {
        let scope = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        let (mut states, mut next) = (Vec::new(), String::new());
        loop {
            let path = format!("/apis/{API_VERSION}{scope}/{}?limit={PAGE}&continue={next}", S::PLURAL);
            let page: StateList<S> = self
                .ask(Method::GET, &path, Vec::new())
                .await
                .map_err(|error| explained_by_operations(error, Role::View))?;
            states.extend(page.items);
            if page.metadata.next.is_empty() {
                return Ok(states);
            }
            next = page.metadata.next;
        }
    }

    /// Forces a policy's breakers.
    pub(crate) async fn force(
        &self,
        policy: &str,
        wanted: &CircuitBreakerOverride,
        query: &str,
    ) -> Result<CircuitBreakerOverride> {
        let path = format!("{}/override{query}", self.path(CircuitBreakerState::PLURAL, policy));
        let body = serde_json::to_vec(wanted)?;
        self.ask(Method::POST, &path, body).await.map_err(|error| explained_by_operations(error, Role::Operate))
    }

    /// Lets a policy's breakers decide by themselves again.
    pub(crate) async fn release(&self, policy: &str) -> Result<Released> {
        let path = format!("{}/override", self.path(CircuitBreakerState::PLURAL, policy));
        self.ask(Method::DELETE, &path, Vec::new()).await.map_err(|error| explained_by_operations(error, Role::Operate))
    }

    /// Lets a client of a policy go.
    pub(crate) async fn unblock(&self, policy: &str, wish: &RateLimitUnblock) -> Result<RateLimitUnblock> {
        let path = format!("{}/unblock", self.path(RateLimitState::PLURAL, policy));
        let body = serde_json::to_vec(wish)?;
        self.ask(Method::POST, &path, body).await.map_err(|error| explained_by_operations(error, Role::Operate))
    }

    /// Which policies apply to a pod; None where there is no such pod.
    pub(crate) async fn explanation(&self, pod: &str) -> Result<Option<Explanation>> {
        found(self.ask(Method::GET, &self.path("explanations", pod), Vec::new()).await)
    }

    fn path(&self, resource: &str, name: &str) -> String {
        format!("/apis/{API_VERSION}/namespaces/{}/{resource}/{name}", self.namespace)
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> kube::Result<T> {
        for _ in 1..ATTEMPTS {
            match self.ask_once(method.clone(), path, body.clone()).await {
                Err(kube::Error::Api(status)) if [429, 503].contains(&status.code) => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
        self.ask_once(method, path, body).await
    }

    async fn ask_once<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> kube::Result<T> {
        let request =
            Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, "application/json");
        self.client.request(request.body(body).map_err(kube::Error::HttpError)?).await
    }
}

fn found<T>(answer: kube::Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(explained_by_operations(error, Role::View)),
    }
}
