//! Whether a user may do what was asked: the API server's own word, by SubjectAccessReview.
//!
//! The API server has asked the same before it handed the call on; asking again means that nobody who reaches this port
//! by another way can do more. Answers are kept for moments and within a bound, and never for writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_api::names::{OPERATIONS_GROUP, VERSION};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::front_proxy::User;
use super::refusal::{Denial, Refusal};

/// A yes is believed for this long: so long may a right that was taken away still be used for reading.
const YES_LASTS: Duration = Duration::from_secs(5);

/// A no is believed for this long: so long may a right that was given not be usable yet.
const NO_LASTS: Duration = Duration::from_secs(1);

/// Answers that are kept, at most; beyond it the API server is asked each time.
const MAX_KEPT: usize = 4096;

/// How long the API server may take.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// What somebody wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: &'static str,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    /// Empty for all.
    pub(crate) namespace: String,
    /// Empty for a list.
    pub(crate) name: String,
}

/// Asks, and remembers for moments; cheap to clone, one shared memory.
#[derive(Clone)]
pub(crate) struct Authorizer {
    reviews: Api<SubjectAccessReview>,
    memory: Arc<Mutex<Memory>>,
}

type Question = [u8; 32];

/// What was answered, with time as an argument.
#[derive(Debug, Default)]
struct Memory {
    answers: HashMap<Question, (bool, Instant)>,
}

impl Attributes {
    /// Whether it changes nothing.
    fn only_reads(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    /// The resource with its subresource.
    pub(crate) fn resource(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            sub => format!("{}/{sub}", self.resource),
        }
    }

    /// What it is about, as Kubernetes writes it.
    pub(crate) fn object(&self) -> String {
        match self.name.as_str() {
            "" => format!("{}.{OPERATIONS_GROUP}", self.resource),
            name => format!("{}.{OPERATIONS_GROUP} {name:?}", self.resource),
        }
    }

    /// Where, as Kubernetes writes it.
    pub(crate) fn place(&self) -> String {
        match self.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        }
    }
}

impl Authorizer {
    /// One that knows nothing yet.
    pub(crate) fn new(client: Client) -> Self {
        Self { reviews: Api::all(client), memory: Arc::default() }
    }

    /// Whether the user may.
    ///
    /// # Errors
    /// `Forbidden`, or `Unavailable` where the API server does not say.
    pub(crate) async fn authorize(&self, user: &User, attributes: &Attributes) -> Result<(), Refusal> {
        let spec = review_of(user, attributes);
        // Plain data always has a JSON form; without one nothing is remembered.
        let question: Option<Question> = serde_json::to_vec(&spec).ok().map(|json| Sha256::digest(&json).into());
        let question = question.filter(|_| attributes.only_reads());
        let remembered = question.and_then(|question| self.memory.lock().get(&question, Instant::now()));
        let allowed = match remembered {
            Some(allowed) => allowed,
            None => {
                let allowed = self.review(spec).await?;
                if let Some(question) = question {
                    self.memory.lock().keep(question, allowed, Instant::now());
                }
                allowed
            }
        };
        if allowed {
            return Ok(());
        }
        Err(Refusal::Forbidden(Box::new(Denial { user: user.name.clone(), attributes: attributes.clone() })))
    }

    async fn review(&self, spec: SubjectAccessReviewSpec) -> Result<bool, Refusal> {
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let parameters = PostParams::default();
        let answer = tokio::time::timeout(REVIEW_TIMEOUT, self.reviews.create(&parameters, &review)).await;
        match answer {
            Ok(Ok(answered)) => Ok(answered.status.is_some_and(|status| status.allowed)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the API server did not say what a user may do");
                Err(Refusal::Unavailable("the API server did not say what this user may do: try again"))
            }
            Err(_) => Err(Refusal::Unavailable("the API server did not say in time what this user may do: try again")),
        }
    }
}

fn review_of(user: &User, attributes: &Attributes) -> SubjectAccessReviewSpec {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: given(&user.uid),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()),
        resource_attributes: Some(ResourceAttributes {
            group: Some(OPERATIONS_GROUP.to_owned()),
            version: Some(VERSION.to_owned()),
            resource: Some(attributes.resource.clone()),
            subresource: given(&attributes.subresource),
            namespace: given(&attributes.namespace),
            name: given(&attributes.name),
            verb: Some(attributes.verb.to_owned()),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    }
}

impl Memory {
    fn get(&self, question: &Question, now: Instant) -> Option<bool> {
        self.answers.get(question).filter(|(_, until)| now < *until).map(|(allowed, _)| *allowed)
    }

    fn keep(&mut self, question: Question, allowed: bool, now: Instant) {
        if self.answers.len() >= MAX_KEPT {
            self.answers.retain(|_, (_, until)| now < *until);
        }
        if self.answers.len() < MAX_KEPT {
            let lasts = if allowed { YES_LASTS } else { NO_LASTS };
            self.answers.insert(question, (allowed, now + lasts));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_forgotten_in_time() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.keep([1; 32], true, now);
        memory.keep([2; 32], false, now);
        assert_eq!((memory.get(&[1; 32], now), memory.get(&[2; 32], now)), (Some(true), Some(false)));
        let later = now + NO_LASTS;
        assert_eq!((memory.get(&[1; 32], later), memory.get(&[2; 32], later)), (Some(true), None));
        assert_eq!(memory.get(&[1; 32], now + YES_LASTS), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        for number in 0..2 * MAX_KEPT {
            let mut question = [0; 32];
            question[..8].copy_from_slice(&number.to_be_bytes());
            memory.keep(question, true, now);
        }
        assert_eq!(memory.answers.len(), MAX_KEPT);
        memory.keep([255; 32], true, now + YES_LASTS);
        assert_eq!(memory.answers.len(), 1, "what is over makes room");
    }

    #[test]
    fn a_write_is_never_remembered() {
        let attributes = |verb| Attributes {
            verb,
            resource: String::new(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
        };
        assert!(attributes("list").only_reads() && !attributes("create").only_reads());
    }
}
