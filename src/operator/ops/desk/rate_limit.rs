//! The leader's answers about limits: what its book says, what the pods themselves answer, and clients that are let go.
//!
//! Every pod of a policy is asked at once, also those that are connected to followers, and what did not answer in time is said.

mod searching;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fusebox_api::operations::{API_VERSION, MAX_LIMITED_KEYS, Metadata, RateLimitUnblock, Unanswered};
use fusebox_compiler::status::{Asked, Heard, live_limits};
use fusebox_compiler::{Kind, PolicyKey, PolicyPlan};
use fusebox_policy::config::PolicyId;
use fusebox_policy::stream::{self, Command, Search};
use futures::{StreamExt, stream::iter};

use super::{Desk, heard, no_policy};
use crate::events::{Happening, Severity};
use crate::ops::Answer;
use crate::ops::page::Page;
use crate::ops::rate_limit::{RESOURCE, Release};
use crate::ops::refusal::Refusal;

/// Pods that are asked at once, at most.
const ASKED_AT_ONCE: usize = 512;

/// How long all pods of a policy together may take.
const ALL_WITHIN: Duration = Duration::from_secs(4);

/// Pods that are named because they did not let a client go, at most.
const MAX_UNANSWERED: usize = 100;

/// What each pod was answered, by its uid.
type Answers = BTreeMap<String, Result<stream::Answer, String>>;

impl Desk {
    /// The limits of one policy, with what its pods answer now.
    pub(super) async fn limits(&self, id: &PolicyId) -> Result<Answer, Refusal> {
        let compiled = self.compiled()?;
        let plan = compiled.plan.policies.get(&key(id)).ok_or_else(|| limit_not_found(id))?;
        let most = u32::try_from(MAX_LIMITED_KEYS).unwrap_or(u32::MAX);
        let answers = self.ask_all(plan, &Command::TopKeys { policy: id.clone(), most }).await;
        let asked = answers.into_iter().map(|(uid, answer)| (uid, asked(answer))).collect();
        let known: Vec<_> = plan.pods.keys().filter_map(|uid| self.book.get(uid)).collect();
        let heard = heard(&known);
        Ok(Answer::Limits(Box::new(live_limits(plan, &heard, &asked, self.completeness(plan, &heard)))))
    }

    /// The limits of all policies that are asked for, as pods said them last.
    pub(super) fn all_limits(&self, page: &Page) -> Result<Answer, Refusal> {
        let nobody = BTreeMap::new();
        let state_of = |plan: &PolicyPlan, heard: &BTreeMap<&str, Heard<'_>>| {
            live_limits(plan, heard, &nobody, self.completeness(plan, heard))
        };
        self.page(Kind::RateLimit, page, state_of).map(Answer::AllLimits)
    }

    /// Lets a client go on all pods.
    pub(super) async fn unblock(&self, release: Release) -> Result<Answer, Refusal> {
        let compiled = self.compiled()?;
        let plan = compiled.plan.policies.get(&key(&release.policy)).ok_or_else(|| limit_not_found(&release.policy))?;
        let searching = self.search(plan, &release).await;
        let answers = self.ask_all(plan, &unblocking(&release, Search::Watched)).await;
        let knew = |answer: &Result<stream::Answer, String>| matches!(answer, Ok(stream::Answer::Unblocked { buckets, .. }) if *buckets > 0);
        let who = answers.iter().filter(|(_, answer)| knew(answer)).map(|(uid, _)| uid);
        let released = who.chain(&searching.released).collect::<BTreeSet<_>>().len();
        let unanswered = unanswered(plan, &answers);
        self.tell_unblocked(plan, &release, (released, unanswered.len()));
        let Release { policy: PolicyId { namespace, name }, digest, reason, user: _ } = release;
        Ok(Answer::Unblocked(Box::new(RateLimitUnblock {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some("RateLimitUnblock".to_owned()),
            metadata: Some(Metadata { namespace, name }),
            key: Vec::new(),
            digest,
            reason,
            pods: Some(number(answers.len())),
            released: Some(number(released)),
            unsearched: searching.unsearched,
            unanswered,
        })))
    }

    /// Asks every pod of a policy.
    async fn ask_all(&self, plan: &PolicyPlan, command: &Command) -> Answers {
        let until = tokio::time::Instant::now() + ALL_WITHIN;
        let pods: Vec<String> = plan.pods.keys().cloned().collect();
        let asked: Vec<_> = pods.into_iter().map(|uid| self.ask_until(uid, command.clone(), until)).collect();
        iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await
    }

    async fn ask_until(
        &self,
        uid: String,
        command: Command,
        until: tokio::time::Instant,
    ) -> (String, Result<stream::Answer, String>) {
        let answer = tokio::time::timeout_at(until, self.ask(&uid, command)).await;
        (uid, answer.unwrap_or_else(|_| Err("it was not answered in time".to_owned())))
    }

    async fn ask(&self, uid: &str, command: Command) -> Result<stream::Answer, String> {
        let source = self.book.source(uid).ok_or_else(|| "its sidecar is not connected".to_owned())?;
        match self.commands.ask(&source, uid, command).await {
            Ok(stream::Answer::Failed { problem }) => Err(problem),
            Ok(answer) => Ok(answer),
            Err(why) => Err(why.to_string()),
        }
    }

    fn tell_unblocked(&self, plan: &PolicyPlan, release: &Release, (released, silent): (usize, usize)) {
        let Release { policy, digest, reason, user } = release;
        let (pods, digest) = (plan.pods.len(), &digest[..digest.len().min(16)]);
        tracing::info!(
            namespace = policy.namespace,
            name = policy.name,
            user,
            digest,
            reason,
            pods,
            released,
            silent,
            "unblocked"
        );
        let note =
            format!("{user} let client {digest} go on {released} of {pods} pods ({silent} did not answer): {reason}");
        let happening = Happening { severity: Severity::Normal, reason: "ClientUnblocked".to_owned(), note };
        self.events.lock().record(&plan.version, vec![happening], Instant::now());
    }
}

fn unblocking(release: &Release, search: Search) -> Command {
    let Release { policy, digest, .. } = release;
    Command::Unblock { policy: policy.clone(), key_digest: digest.clone(), search }
}

fn key(id: &PolicyId) -> PolicyKey {
    Kind::RateLimit.key(id)
}

fn limit_not_found(id: &PolicyId) -> Refusal {
    no_policy((RESOURCE, Kind::RateLimit), id)
}

fn asked(answer: Result<stream::Answer, String>) -> Asked {
    match answer {
        Ok(stream::Answer::TopKeys { keys }) => Asked::Keys(keys),
        Ok(_) => Asked::Nothing("its sidecar answered something else".to_owned()),
        Err(why) => Asked::Nothing(why),
    }
}

/// Who did not answer: the policy's own pods by name, those of other namespaces by number.
fn unanswered(plan: &PolicyPlan, answers: &Answers) -> Vec<Unanswered> {
    let silent = answers.iter().filter_map(|(uid, answer)| Some((plan.pods.get(uid)?, answer.as_ref().err()?)));
    let (mut named, mut elsewhere) = (Vec::new(), BTreeMap::<(&str, &str), usize>::new());
    for (pod, problem) in silent {
        if pod.namespace == plan.version.id.namespace {
            named.push(Unanswered { pod: pod.name.clone(), problem: problem.clone() });
        } else {
            *elsewhere.entry((&pod.namespace, problem)).or_default() += 1;
        }
    }
    named.extend(elsewhere.into_iter().map(|((namespace, problem), pods)| Unanswered {
        pod: format!("({pods} in {namespace})"),
        problem: problem.to_owned(),
    }));
    named.truncate(MAX_UNANSWERED);
    named
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
