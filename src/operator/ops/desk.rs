//! The leader's answers: what its book and its plan say, and overrides written into policies.
//!
//! It must not answer where it may have lost the lease, because another replica may know better by then.

mod rate_limit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_api::CircuitBreakerPolicy;
use fusebox_api::names::{GROUP, VERSION};
use fusebox_api::operations::{API_VERSION, CircuitBreakerOverride, CircuitBreakerState, Metadata, State, StateList};
use fusebox_compiler::plan::Readiness;
use fusebox_compiler::status::{Completeness, Heard, live};
use fusebox_compiler::{Kind, PolicyKey, PolicyPlan};
use fusebox_policy::config::{PolicyId, PolicyVersion};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::circuit_breaker::{self, Conflicts, FIRST_REPORT, RESOURCE, Wish};
use super::page::{Page, list_of};
use super::refusal::Refusal;
use super::{Answer, Question};
use crate::control::{Commands, ProxyState, ReportBook};
use crate::events::{Happening, Recorder, Severity};
use crate::lease::{GuardedError, Leadership, Role};
use crate::reconcile::{Compiled, Published};
use crate::status::SETTLE;

/// The field manager of overrides that were asked for through this API.
pub const OVERRIDE_MANAGER: &str = "fusebox-operations";

/// The field manager of `fusebox trip` where this API is not there: the same people's word, so that it is no conflict.
const COMMAND_MANAGER: &str = "fusebox-cli";

/// How often an override is tried where the policy changed meanwhile.
const ATTEMPTS: usize = 4;

/// How long reading a policy may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// What the leader answers from.
pub struct Desk {
    /// The client for reading.
    pub call: Client,
    /// The client for writes.
    pub write: Client,
    /// Whether this replica may answer.
    pub leadership: Leadership,
    /// What was compiled.
    pub published: Published,
    /// What pods said.
    pub book: ReportBook,
    /// Where pods are asked.
    pub commands: Commands,
    /// Where it is told who forced what, and who let whom go.
    pub events: Mutex<Recorder>,
    /// Since when this replica leads.
    pub leads_since: LeadsSince,
}

/// Since when this replica leads; cheap to clone, one shared content.
#[derive(Clone, Debug, Default)]
pub struct LeadsSince(Arc<Mutex<Option<Instant>>>);

impl LeadsSince {
    /// Follows the role until `stop`.
    pub async fn follow(self, leadership: Leadership, stop: CancellationToken) {
        let mut role = leadership.subscribe();
        loop {
            let leads = *role.borrow_and_update() == Role::Leader;
            *self.0.lock() = leads.then(Instant::now);
            if stop.run_until_cancelled(role.changed()).await.is_none_or(|changed| changed.is_err()) {
                return;
            }
        }
    }

    fn is_settled(&self, now: Instant) -> bool {
        self.0.lock().is_some_and(|since| now.saturating_duration_since(since) >= SETTLE)
    }
}

impl Desk {
    /// Answers as the leader.
    ///
    /// # Errors
    /// `Unavailable` where this replica does not lead, or has compiled nothing yet.
    pub(super) async fn answer(&self, question: Question) -> Result<Answer, Refusal> {
        if !self.leadership.may_write(Instant::now()) {
            return Err(Refusal::Unavailable("no replica leads at the moment: try again"));
        }
        match question {
            Question::State(policy) => self.state(&policy).map(|state| Answer::State(Box::new(state))),
            Question::States(page) => {
                self.page(Kind::CircuitBreakerPolicy, &page, |plan, heard| self.live(plan, heard)).map(Answer::States)
            }
            Question::Force(wish) => self.force(wish).await,
            Question::Release { policy, user } => self.release(&policy, &user).await,
            Question::Limits(policy) => self.limits(&policy).await,
            Question::AllLimits(page) => self.all_limits(&page),
            Question::Unblock(release) => self.unblock(release).await,
            Question::Explain { .. } => Err(Refusal::NoSuchPath),
        }
    }

    fn compiled(&self) -> Result<Arc<Compiled>, Refusal> {
        let starting = Refusal::Unavailable("the operator is still starting: try again");
        self.published.borrow().clone().ok_or(starting)
    }

    fn state(&self, id: &PolicyId) -> Result<CircuitBreakerState, Refusal> {
        let compiled = self.compiled()?;
        let plan = compiled.plan.policies.get(&key_of(id)).ok_or_else(|| not_found(id))?;
        let known: Vec<_> = plan.pods.keys().filter_map(|uid| self.book.get(uid)).collect();
        Ok(self.live(plan, &heard(&known)))
    }

    /// A page of the states of one kind, each made by `state_of`.
    fn page<S: State>(
        &self,
        kind: Kind,
        page: &Page,
        state_of: impl Fn(&PolicyPlan, &BTreeMap<&str, Heard<'_>>) -> S,
    ) -> Result<StateList<S>, Refusal> {
        let compiled = self.compiled()?;
        let policies = compiled.plan.of_kind(kind, page.after.as_ref());
        let policies = policies.filter(|(id, _)| page.wants(id));
        let (known, mut items, mut size) = (self.book.snapshot(), Vec::new(), 0);
        let (heard, total) = (heard(&known), policies.clone().count());
        for (_, plan) in policies {
            if items.len() >= page.limit || size >= S::MOST {
                break;
            }
            let state = state_of(plan, &heard);
            size += state.size();
            items.push(state);
        }
        let remaining = total - items.len();
        Ok(list_of(items, remaining))
    }

    fn live(&self, plan: &PolicyPlan, heard: &BTreeMap<&str, Heard<'_>>) -> CircuitBreakerState {
        live(plan, heard, self.completeness(plan, heard))
    }

    /// Whether all pods of a policy have had the time to speak.
    fn completeness(&self, plan: &PolicyPlan, heard: &BTreeMap<&str, Heard<'_>>) -> Completeness {
        let now = Timestamp::now().as_millisecond();
        let settled = self.leads_since.is_settled(Instant::now())
            || plan.pods.iter().all(|(uid, pod)| {
                let since = heard.get(uid.as_str()).map(|heard| now - heard.since_unix_ms);
                pod.readiness == Readiness::NotReady
                    || since.is_some_and(|since| since >= i64::try_from(FIRST_REPORT.as_millis()).unwrap_or(i64::MAX))
            });
        if settled { Completeness::Complete } else { Completeness::Settling }
    }

    async fn force(&self, wish: Wish) -> Result<Answer, Refusal> {
        let until = circuit_breaker::until(&wish.wanted, Timestamp::now())?;
        let Wish { policy, wanted, user, conflicts } = wish;
        let text = format!("{user} forced {:?} until {until}: {}", wanted.state, wanted.reason);
        for _ in 0..ATTEMPTS {
            let standing = self.standing(&policy).await?;
            if conflicts == Conflicts::Refuse {
                refuse_foreign(&standing.metadata, &policy)?;
            }
            let patch = json!({
                "apiVersion": format!("{GROUP}/{VERSION}"),
                "kind": "CircuitBreakerPolicy",
                "metadata": precondition(&standing),
                "spec": { "override": { "state": wanted.state, "until": until.to_string(), "reason": wanted.reason } },
            });
            let params = PatchParams::apply(OVERRIDE_MANAGER).force();
            if let Some(stands) = self.write(&policy, &params, &Patch::Apply(&patch)).await? {
                self.tell(&stands, "OverrideSet", text);
                let metadata = Metadata { namespace: policy.namespace, name: policy.name };
                return Ok(Answer::Override(Box::new(CircuitBreakerOverride {
                    api_version: Some(API_VERSION.to_owned()),
                    kind: Some("CircuitBreakerOverride".to_owned()),
                    metadata: Some(metadata),
                    until: Some(Time(until)),
                    duration: None,
                    generation: stands.metadata.generation,
                    ..wanted
                })));
            }
        }
        Err(Refusal::Conflict(format!("policy {} changes all the time: try again", policy.name)))
    }

    async fn release(&self, policy: &PolicyId, user: &str) -> Result<Answer, Refusal> {
        for _ in 0..ATTEMPTS {
            let standing = self.standing(policy).await?;
            if owners(&standing.metadata).is_empty() {
                return Ok(Answer::Released { generation: standing.metadata.generation, was_set: false });
            }
            let patch = json!({ "metadata": precondition(&standing), "spec": { "override": null } });
            let params = PatchParams { field_manager: Some(OVERRIDE_MANAGER.to_owned()), ..PatchParams::default() };
            if let Some(stands) = self.write(policy, &params, &Patch::Merge(&patch)).await? {
                self.tell(&stands, "OverrideReleased", format!("{user} released what was forced"));
                return Ok(Answer::Released { generation: stands.metadata.generation, was_set: true });
            }
        }
        Err(Refusal::Conflict(format!("policy {} changes all the time: try again", policy.name)))
    }

    async fn standing(&self, id: &PolicyId) -> Result<PartialObjectMeta<CircuitBreakerPolicy>, Refusal> {
        let api: Api<CircuitBreakerPolicy> = Api::namespaced(self.call.clone(), &id.namespace);
        match tokio::time::timeout(READ_TIMEOUT, api.get_metadata_opt(&id.name)).await {
            Ok(Ok(Some(found))) => Ok(found),
            Ok(Ok(None)) => Err(not_found(id)),
            Ok(Err(kube::Error::Api(status))) => Err(Refusal::from(&*status)),
            Ok(Err(_)) | Err(_) => Err(Refusal::Unavailable("the API server does not answer: try again")),
        }
    }

    /// Writes, if the policy is still what it was; None where it is not.
    async fn write(
        &self,
        id: &PolicyId,
        params: &PatchParams,
        patch: &Patch<&serde_json::Value>,
    ) -> Result<Option<CircuitBreakerPolicy>, Refusal> {
        let api: Api<CircuitBreakerPolicy> = Api::namespaced(self.write.clone(), &id.namespace);
        match self.leadership.guard(api.patch(&id.name, params, patch)).await {
            Ok(stands) => Ok(Some(stands)),
            Err(GuardedError::Failed(kube::Error::Api(status))) if status.code == 409 => Ok(None),
            Err(GuardedError::Failed(kube::Error::Api(status))) if status.code == 404 => Err(not_found(id)),
            Err(GuardedError::Failed(kube::Error::Api(status))) => Err(Refusal::from(&*status)),
            Err(GuardedError::NotLeader) => Err(Refusal::Unavailable("no replica leads at the moment: try again")),
            Err(GuardedError::Failed(_) | GuardedError::TimedOut(_)) => Err(Refusal::Unknown),
        }
    }

    fn tell(&self, policy: &CircuitBreakerPolicy, reason: &str, note: String) {
        let id = PolicyId { namespace: policy.namespace().unwrap_or_default(), name: policy.name_any() };
        tracing::info!(namespace = id.namespace, name = id.name, reason, note, "override changed");
        let version = PolicyVersion {
            kind: "CircuitBreakerPolicy".to_owned(),
            id,
            uid: policy.uid().unwrap_or_default(),
            generation: policy.metadata.generation.unwrap_or_default(),
        };
        let happening = Happening { severity: Severity::Normal, reason: reason.to_owned(), note };
        self.events.lock().record(&version, vec![happening], Instant::now());
    }
}

/// What each pod said, by its uid.
fn heard(known: &[Arc<ProxyState>]) -> BTreeMap<&str, Heard<'_>> {
    let now = Instant::now();
    known.iter().map(|state| (state.pod.uid.as_str(), heard_of(state, now))).collect()
}

fn heard_of(state: &ProxyState, now: Instant) -> Heard<'_> {
    let enforced = state.acknowledged.as_ref();
    Heard {
        connected: state.lost_for(now).is_none(),
        since_unix_ms: state.connection.since_unix_ms,
        version: &state.connection.version,
        revision: enforced.map_or("", |enforced| &enforced.revision),
        policies: enforced.map_or(&[], |enforced| &enforced.policies),
        refused: state.rejected.as_ref().map_or("", |rejected| &rejected.error),
        breakers: &state.breakers,
        limits: &state.limits,
        broken: &state.broken_references,
    }
}

fn key_of(id: &PolicyId) -> PolicyKey {
    PolicyKey::new(Kind::CircuitBreakerPolicy, id.clone())
}

fn not_found(id: &PolicyId) -> Refusal {
    no_policy((RESOURCE, Kind::CircuitBreakerPolicy), id)
}

fn no_policy((resource, kind): (&'static str, Kind), id: &PolicyId) -> Refusal {
    Refusal::NotFound {
        resource,
        name: id.name.clone(),
        why: format!("there is no {} of this name in namespace {}", kind.as_str(), id.namespace),
    }
}

/// What a write insists on: the very object that was looked at.
fn precondition(standing: &PartialObjectMeta<CircuitBreakerPolicy>) -> ObjectMeta {
    let ObjectMeta { name, namespace, uid, resource_version, .. } = standing.metadata.clone();
    ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() }
}

/// The managers that own part of the override.
fn owners(metadata: &ObjectMeta) -> Vec<&str> {
    let owns = |fields: &serde_json::Value| fields.get("f:spec").is_some_and(|spec| spec.get("f:override").is_some());
    let entries = metadata.managed_fields.iter().flatten();
    let entries = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| owns(&fields.0)));
    entries.filter_map(|entry| entry.manager.as_deref()).collect()
}

fn refuse_foreign(metadata: &ObjectMeta, policy: &PolicyId) -> Result<(), Refusal> {
    let ours = [OVERRIDE_MANAGER, COMMAND_MANAGER];
    match owners(metadata).into_iter().find(|owner| !ours.contains(owner)) {
        None => Ok(()),
        Some(owner) => Err(Refusal::Conflict(format!(
            "spec.override of policy {} is managed by {owner:?}: change it there, or take it over with ?force=true",
            policy.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn managed_by(managers: &[(&str, serde_json::Value)]) -> ObjectMeta {
        let entries: Vec<_> = managers
            .iter()
            .map(|(manager, fields)| json!({ "manager": manager, "operation": "Apply", "fieldsV1": fields }))
            .collect();
        serde_json::from_value(json!({ "managedFields": entries })).unwrap()
    }

    #[test]
    fn an_override_that_somebody_else_manages_is_not_taken_unasked() {
        let id = PolicyId { namespace: "shop".into(), name: "payments".into() };
        let (force, rest) = (json!({"f:spec": {"f:override": {}}}), json!({"f:spec": {"f:timeout": {}}}));
        let ours = managed_by(&[("fusebox-cli", force.clone()), ("argocd", rest)]);
        assert!(refuse_foreign(&ours, &id).is_ok());
        let refusal = refuse_foreign(&managed_by(&[("argocd", force)]), &id).unwrap_err();
        assert!(refusal.to_string().contains("argocd") && refusal.reason() == "Conflict", "{refusal}");
    }
}
