//! A policy of any kind as the compiler sees it: what all of them have, around the spec of its own kind.
//!
//! It must know no kind: a new one is its spec, which says what all specs say, and a name for the two together.

use fusebox_api::common::{Mode, Side, TargetRef};
use fusebox_api::{CircuitBreakerPolicySpec, RateLimitSpec};
use fusebox_policy::config::PolicyId;
use jiff::Timestamp;
use kube::Resource;
use kube::core::object::HasSpec;

use super::from_objects::{name_of, namespace_of, override_written};

/// A CircuitBreakerPolicy as the compiler sees it.
pub type CircuitBreaker = Policy<CircuitBreakerPolicySpec>;

/// A RateLimit as the compiler sees it.
pub type RateLimit = Policy<RateLimitSpec>;

/// A policy as the compiler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy<S: ?Sized> {
    /// Its namespace and name.
    pub id: PolicyId,
    /// Its uid; empty where it came from a file.
    pub uid: String,
    /// Its generation; 0 where it came from a file.
    pub generation: i64,
    /// When it was created; absent where it came from a file, which counts as youngest.
    pub created: Option<Timestamp>,
    /// When its override was last written, from the managed fields; absent where its kind has none.
    pub override_written: Option<Timestamp>,
    /// What it says.
    pub spec: S,
}

/// What the specs of all kinds say.
pub trait PolicySpec: Send + Sync + 'static {
    /// Which end of a call enforces it.
    fn side(&self) -> Side;
    /// Whether it acts.
    fn mode(&self) -> Mode;
    /// What it targets.
    fn target_refs(&self) -> &[TargetRef];
}

impl<S> Policy<S> {
    /// A spec alone, which nobody has given a name or a cluster yet.
    pub(crate) const fn draft(spec: S) -> Self {
        let id = PolicyId { namespace: String::new(), name: String::new() };
        Self { id, uid: String::new(), generation: 0, created: None, override_written: None, spec }
    }
}

impl<K> From<&K> for Policy<K::Spec>
where
    K: Resource<DynamicType = ()> + HasSpec<Spec: Clone>,
{
    fn from(object: &K) -> Self {
        let metadata = object.meta();
        Self {
            id: PolicyId { namespace: namespace_of(metadata), name: name_of(metadata) },
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            override_written: override_written(metadata),
            spec: object.spec().clone(),
        }
    }
}

macro_rules! says_what_all_say {
    ($($spec:ty),+) => {
        $(impl PolicySpec for $spec {
            fn side(&self) -> Side {
                self.side
            }

            fn mode(&self) -> Mode {
                self.mode
            }

            fn target_refs(&self) -> &[TargetRef] {
                &self.target_refs
            }
        })+
    };
}

says_what_all_say!(CircuitBreakerPolicySpec, RateLimitSpec);
