//! Events on what became of policies: what `kubectl describe` shows, bounded.
//!
//! Each policy has its own allowance and all have one together, because a breaker that flaps must
//! not fill the API server. An Event that is not written is counted; it is never waited for.

mod blocked;
mod happenings;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fusebox_api::names::{GROUP, VERSION};
use fusebox_compiler::PolicyKey;
use fusebox_policy::config::PolicyVersion;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bucket::{Allowance, Bucket};
use crate::lease::Leadership;
use crate::metrics::Metrics;

pub use blocked::ToldBlocked;
pub use happenings::happenings;

/// Events of one policy.
pub const PER_POLICY: Allowance = Allowance { burst: 10, every: Duration::from_secs(30) };

/// Events of all policies together.
pub const IN_ALL: Allowance = Allowance { burst: 100, every: Duration::from_millis(500) };

/// Events that wait to be written, at most.
const MAX_QUEUED: usize = 256;

/// The longest note that the API server takes, in bytes.
const MAX_NOTE: usize = 1024;

const REPORTER: &str = "fusebox.dev/operator";

/// Something that happened to a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Whether it needs attention.
    pub severity: Severity,
    /// A stable CamelCase word.
    pub reason: String,
    /// A sentence.
    pub note: String,
}

/// Whether an Event needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does not.
    Normal,
    /// It does.
    Warning,
}

/// Who may have an Event, pure: time is an argument.
#[derive(Debug)]
pub struct Budget {
    all: Bucket,
    policies: BTreeMap<PolicyKey, Bucket>,
}

/// Takes happenings and bounds them.
#[derive(Debug)]
pub struct Recorder {
    budget: Budget,
    sender: mpsc::Sender<(PolicyVersion, Happening)>,
    metrics: Metrics,
}

/// Writes Events.
pub struct Writer {
    client: Client,
    leadership: Leadership,
    instance: String,
    queue: mpsc::Receiver<(PolicyVersion, Happening)>,
    metrics: Metrics,
}

impl Budget {
    /// Full allowances.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { all: Bucket::new(IN_ALL, now), policies: BTreeMap::new() }
    }

    /// Takes one Event of a policy; if there is none left, says whose allowance is used up.
    ///
    /// # Errors
    /// A stable word for metrics.
    pub fn take(&mut self, policy: &PolicyKey, now: Instant) -> Result<(), &'static str> {
        self.policies.retain(|_, bucket| !bucket.is_full(now));
        let own = self.policies.entry(policy.clone()).or_insert_with(|| Bucket::new(PER_POLICY, now));
        // Checked first and spent after: who is refused drains nobody else's.
        let mut trial = *own;
        if !trial.take(now) {
            return Err("PolicyAllowance");
        }
        if !self.all.take(now) {
            return Err("Allowance");
        }
        *own = trial;
        Ok(())
    }
}

/// A recorder and the writer behind it.
#[must_use]
pub fn recorder(client: Client, leadership: Leadership, instance: String, metrics: Metrics) -> (Recorder, Writer) {
    let (sender, queue) = mpsc::channel(MAX_QUEUED);
    let recorder = Recorder { budget: Budget::new(Instant::now()), sender, metrics: metrics.clone() };
    (recorder, Writer { client, leadership, instance, queue, metrics })
}

impl Recorder {
    /// Records what happened, as far as it is allowed. It never waits.
    pub fn record(&mut self, policy: &PolicyVersion, happenings: Vec<Happening>, now: Instant) {
        let Some(key) = PolicyKey::of(policy) else { return };
        for happening in happenings {
            let allowed = self.budget.take(&key, now);
            let queued =
                allowed.and_then(|()| self.sender.try_send((policy.clone(), happening)).map_err(|_| "QueueFull"));
            if let Err(why) = queued {
                self.metrics.events_dropped.with_label_values(&[why]).inc();
            }
        }
    }
}

impl Writer {
    /// Writes until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let (policy, happening) = tokio::select! {
                () = stop.cancelled() => return,
                Some(next) = self.queue.recv() => next,
            };
            let reason = happening.reason.clone();
            let event = event(&policy, happening, &self.instance, Timestamp::now());
            let api: Api<Event> = Api::namespaced(self.client.clone(), &policy.id.namespace);
            match self.leadership.guard(api.create(&PostParams::default(), &event)).await {
                Ok(_) => self.metrics.events.with_label_values(&[&reason]).inc(),
                Err(error) => {
                    self.metrics.events_dropped.with_label_values(&["NotWritten"]).inc();
                    tracing::debug!(namespace = policy.id.namespace, name = policy.id.name, %error, "event not written");
                }
            }
        }
    }
}

fn event(policy: &PolicyVersion, happening: Happening, instance: &str, now: Timestamp) -> Event {
    let PolicyVersion { kind, id, uid, .. } = policy;
    Event {
        metadata: ObjectMeta {
            namespace: Some(id.namespace.clone()),
            // An object's name may be as long as an Event's, so the policy's is cut.
            name: Some(format!("{}.{:x}", cut(&id.name, 200), now.as_nanosecond())),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        regarding: Some(ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(kind.clone()),
            namespace: Some(id.namespace.clone()),
            name: Some(id.name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        type_: Some(match happening.severity {
            Severity::Normal => "Normal".to_owned(),
            Severity::Warning => "Warning".to_owned(),
        }),
        action: Some("Reconcile".to_owned()),
        reason: Some(happening.reason),
        note: Some(cut(&happening.note, MAX_NOTE).to_owned()),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(cut(instance, 128).to_owned()),
        ..Event::default()
    }
}

/// The beginning of a text, of at most `limit` bytes and whole characters.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use fusebox_compiler::Kind;
    use fusebox_policy::config::PolicyId;

    use super::*;

    fn policy(name: &str) -> PolicyKey {
        Kind::CircuitBreakerPolicy.key(&PolicyId { namespace: "shop".into(), name: name.into() })
    }

    #[test]
    fn a_flapping_policy_uses_up_its_own_allowance_and_no_other() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let passed = (0..100_000_u64)
            .filter(|step| budget.take(&policy("flapping"), start + Duration::from_millis(step * 6)).is_ok())
            .count();
        assert_eq!(passed, 10 + 600 / 30 - 1, "in ten minutes: the burst and one each half minute");
        let end = start + Duration::from_secs(600);
        assert_eq!(budget.take(&policy("flapping"), end - Duration::from_millis(1)), Err("PolicyAllowance"));
        assert_eq!(budget.take(&policy("calm"), end), Ok(()));
    }

    #[test]
    fn all_policies_together_are_bounded() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let outcomes: Vec<_> = (0..1000).map(|number| budget.take(&policy(&number.to_string()), now)).collect();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 100);
        assert_eq!(outcomes[999], Err("Allowance"));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let happening =
            Happening { severity: Severity::Normal, reason: "Accepted".into(), note: "\u{e4}".repeat(MAX_NOTE) };
        let version =
            PolicyVersion { kind: "CircuitBreakerPolicy".into(), id: policy("a").id, uid: "u".into(), generation: 1 };
        let event = event(&version, happening, "pod", Timestamp::UNIX_EPOCH);
        assert!(event.note.unwrap().len() <= MAX_NOTE);
    }
}
