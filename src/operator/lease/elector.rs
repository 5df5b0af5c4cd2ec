//! The election's thin shell: carries out the steps against the API server and publishes the outcome.
//!
//! It uses a client of its own without retries, because kube's default one retries 429, 503 and
//! 504 for minutes, and a renewal that arrives late is worse than none. Every call has a timeout.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Config};
use tokio_util::sync::CancellationToken;

use super::step::{Call, Election, Outcome, Record, Standing, Step, Timing};
use super::{ADDRESS_ANNOTATION, Leader, Leadership, Role};

/// How long a leader that shuts down waits for its own writes to end before it gives the lease back.
const DRAIN: Duration = Duration::from_secs(1);

/// Who stands for election, and where.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// This process, unlike any other: see [`unique_identity`].
    pub identity: String,
    /// Where peers reach this replica's control port, as `host:port`.
    pub address: String,
    /// The election's times.
    pub timing: Timing,
}

/// Why the election can't be held at all.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    /// No client could be made.
    #[error("no client for the lease")]
    Client(#[source] Box<kube::Error>),
    /// The system gave no random bytes.
    #[error("no random bytes for the identity")]
    Random,
}

struct Shell {
    candidate: Candidate,
    api: Api<Lease>,
    election: Election,
    /// The object as it was last seen; a write keeps what others put there.
    seen: Option<Lease>,
}

/// A client for [`run`]: no retries, and timeouts in proportion to the lease.
///
/// # Errors
/// When the configuration can't be used.
pub fn client(mut config: Config, timing: &Timing) -> Result<Client, ElectionError> {
    config.default_retry = false;
    config.connect_timeout = Some(timing.request_timeout());
    config.write_timeout = Some(timing.request_timeout());
    Client::try_from(config).map_err(|error| ElectionError::Client(Box::new(error)))
}

/// `name` with a random suffix: a process that was started anew is another candidate.
///
/// # Errors
/// When the system gives no random bytes.
pub fn unique_identity(name: &str) -> Result<String, ElectionError> {
    let mut bytes = [0_u8; 4];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| ElectionError::Random)?;
    Ok(format!("{name}_{:08x}", u32::from_be_bytes(bytes)))
}

/// Stands for election until `shutdown`, keeps `leadership` true to it, and gives the lease back at the end.
pub async fn run(client: Client, candidate: Candidate, leadership: Leadership, shutdown: CancellationToken) {
    let mut shell = Shell {
        api: Api::namespaced(client, &candidate.namespace),
        election: Election::new(candidate.identity.clone(), candidate.timing, Instant::now()),
        candidate,
        seen: None,
    };
    while !shutdown.is_cancelled() {
        match shell.election.step(Instant::now()) {
            Step::Wait(until) => {
                tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = shutdown.cancelled() => {}
                }
            }
            Step::Call(call) => {
                let outcome = shell.carry_out(call).await;
                shell.election.take(outcome, Instant::now());
            }
        }
        shell.publish(&leadership);
    }
    shell.give_back(&leadership).await;
}

impl Shell {
    async fn carry_out(&mut self, call: Call) -> Outcome {
        let api = self.api.clone();
        let name = self.candidate.name.clone();
        let parameters = PostParams::default();
        match call {
            Call::Read => match self.timed(api.get_opt(&name)).await {
                Ok(lease) => {
                    let record = lease.as_ref().map(record);
                    self.seen = lease;
                    Outcome::Read(record)
                }
                Err(failure) => failure,
            },
            Call::Create => {
                self.seen = None;
                let lease = self.next_lease(None, self.candidate.identity.clone());
                self.write(api.create(&parameters, &lease)).await
            }
            Call::Hold(version) => {
                let lease = self.next_lease(Some(version), self.candidate.identity.clone());
                self.write(api.replace(&name, &parameters, &lease)).await
            }
        }
    }

    async fn write(&mut self, call: impl Future<Output = kube::Result<Lease>>) -> Outcome {
        let sent_at = Instant::now();
        match self.timed(call).await {
            Ok(lease) => {
                let record = record(&lease);
                self.seen = Some(lease);
                Outcome::Held(sent_at, record)
            }
            Err(failure) => failure,
        }
    }

    async fn timed<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, Outcome> {
        match tokio::time::timeout(self.candidate.timing.request_timeout(), call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(Outcome::Conflict),
            Ok(Err(error)) => {
                tracing::warn!(lease = self.candidate.name, %error, "call about the lease failed");
                Err(Outcome::Failed)
            }
            Err(_) => {
                tracing::warn!(lease = self.candidate.name, "call about the lease got no answer in time");
                Err(Outcome::Failed)
            }
        }
    }

    /// The object that says `holder` holds it from now on; an empty holder gives it back.
    fn next_lease(&self, version: Option<String>, holder: String) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = self.seen.clone().unwrap_or_default();
        let spec = lease.spec.take().unwrap_or_default();
        let same = spec.holder_identity.as_deref() == Some(&holder);
        let taken_over = !same && !holder.is_empty();
        lease.spec = Some(LeaseSpec {
            acquire_time: if taken_over { Some(now.clone()) } else { spec.acquire_time },
            lease_duration_seconds: Some(whole_seconds(self.candidate.timing.lease())),
            lease_transitions: Some(spec.lease_transitions.unwrap_or_default().saturating_add(i32::from(taken_over))),
            renew_time: Some(now),
            holder_identity: Some(holder),
            ..spec
        });
        let annotations = lease.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(ADDRESS_ANNOTATION.to_owned(), self.candidate.address.clone());
        lease.metadata = ObjectMeta {
            name: Some(self.candidate.name.clone()),
            namespace: Some(self.candidate.namespace.clone()),
            resource_version: version,
            managed_fields: None,
            ..lease.metadata
        };
        lease
    }

    fn publish(&self, leadership: &Leadership) {
        let (role, write_until) = match self.election.standing(Instant::now()) {
            Standing::Leads(until) => (Role::Leader, Some(until)),
            Standing::Follows(record) => {
                let leader = Leader { identity: record.holder.clone(), address: record.address.clone() };
                (Role::Follower { leader: Some(leader) }, None)
            }
            Standing::Vacant => (Role::Follower { leader: None }, None),
        };
        let leads = write_until.is_some();
        if leadership.set(role, write_until) {
            tracing::info!(identity = self.candidate.identity, leads, "role changed");
        }
    }

    /// Stops writing, waits for what is on its way, and only then lets others take over.
    async fn give_back(&mut self, leadership: &Leadership) {
        leadership.set(Role::Follower { leader: None }, None);
        let Some(version) = self.election.release(Instant::now()) else { return };
        if tokio::time::timeout(DRAIN, leadership.writes_ended()).await.is_err() {
            tracing::warn!("the lease is left to expire: a write is still on its way");
            return;
        }
        let lease = self.next_lease(Some(version), String::new());
        let parameters = PostParams::default();
        match self.timed(self.api.replace(&self.candidate.name, &parameters, &lease)).await {
            Ok(_) => tracing::info!(identity = self.candidate.identity, "gave the lease back"),
            Err(_) => tracing::warn!("the lease could not be given back; it will expire"),
        }
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
    let annotations = lease.metadata.annotations.as_ref();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        address: annotations.and_then(|all| all.get(ADDRESS_ANNOTATION)).cloned().unwrap_or_default(),
        duration: Duration::from_secs(seconds),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// The field holds whole seconds: rounded up, at least one.
fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis().div_ceil(1000).max(1)).unwrap_or(i32::MAX)
}
