//! Our own authority's life: read by every replica, written by the leader alone, one careful step at a time.
//!
//! What a replica signs with and what it publishes is always what the API server holds. A write names the version that it
//! was decided from, so two leaders in a row, or two that race, end up with the same authorities.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use fusebox_api::names::FIELD_MANAGER;
use fusebox_compiler::objects::MANAGED_BY;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::{CertificateError, chain};
use super::keyring::{Keyring, SECRET};
use super::report::Reporter;
use super::rotation::{Action, Schedule};
use super::tls::{Names, Tls};
use super::trust::Trust;
use crate::lease::{GuardedError, Leadership};

/// How soon it is looked again while there is no certificate yet.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// How long reading one object may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Steps of one round, at most: more are never due at once.
const MAX_STEPS: usize = 4;

/// Keeps authority and leaves.
pub(super) struct Keeper {
    pub(super) secrets: Api<Secret>,
    pub(super) leadership: Leadership,
    pub(super) schedule: Schedule,
    pub(super) names: Names,
    pub(super) trust: Trust,
    pub(super) tls: watch::Sender<Option<Tls>>,
    pub(super) reporter: Reporter,
    /// What was read last, or written.
    pub(super) memory: Option<Keyring>,
}

impl Keeper {
    /// Keeps leaves fresh, and at the leader the authority, until it is stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let (mut roles, mut publications) = (self.leadership.subscribe(), self.trust.publications());
        loop {
            let outcome = self.round().await;
            if outcome.is_err() {
                self.renew();
            }
            self.report(outcome);
            let pause = if self.memory.is_none() { RETRY_EVERY } else { self.schedule.look_every() };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = roles.changed() => {}
                Ok(()) = publications.changed() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn round(&mut self) -> Result<(), CertificateError> {
        let begun = Instant::now();
        let keyring = match timed(self.secrets.get_opt(SECRET)).await? {
            Some(secret) => self.advance(secret).await?,
            None => self.create().await?,
        };
        self.trust.offer(keyring.bundle(), begun);
        self.put_to_use(keyring)
    }

    /// What is stored, after what the leader has to do about it.
    async fn advance(&self, mut secret: Secret) -> Result<Keyring, CertificateError> {
        let mut keyring = Keyring::decode(secret.data.as_ref().unwrap_or(&std::collections::BTreeMap::new()))?;
        for _ in 0..MAX_STEPS {
            let now = SystemTime::now();
            let action = self.schedule.step(&keyring.times(), self.trust.publication(keyring.bundle()), now);
            if action == Action::Wait || !self.leadership.may_write(Instant::now()) {
                break;
            }
            let next = keyring.after(action, &self.schedule, now)?;
            secret.data = Some(next.encode()?);
            let Some(written) = self.replace(&secret).await? else {
                // Somebody else wrote: what he did is read in the next round.
                break;
            };
            (secret, keyring) = (written, next);
            tracing::info!(?action, authorities = keyring.bundle().certificates().len(), "authority rotates");
        }
        Ok(keyring)
    }

    async fn replace(&self, secret: &Secret) -> Result<Option<Secret>, CertificateError> {
        let parameters = PostParams::default();
        self.written(self.leadership.guard(self.secrets.replace(SECRET, &parameters, secret)).await)
    }

    /// Stores an authority where there is none. Where one is remembered, its certificate still shows and is trusted
    /// everywhere, so it stays, and the next is announced: whoever deletes the Secret has it replaced and breaks nothing.
    async fn create(&self) -> Result<Keyring, CertificateError> {
        let absent = CertificateError::Absent { secret: SECRET };
        if !self.leadership.may_write(Instant::now()) {
            return Err(absent);
        }
        let now = SystemTime::now();
        let keyring = match &self.memory {
            Some(known) if known.times().next.is_none() => known.after(Action::Announce, &self.schedule, now)?,
            Some(known) => known.clone(),
            None => Keyring::generate(&self.schedule, now)?,
        };
        let labels = [(MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned())].into();
        let secret = Secret {
            metadata: ObjectMeta { name: Some(SECRET.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
            type_: Some("Opaque".to_owned()),
            data: Some(keyring.encode()?),
            ..Secret::default()
        };
        let parameters = PostParams::default();
        let created = self.leadership.guard(self.secrets.create(&parameters, &secret)).await;
        self.written(created)?.ok_or(absent)?;
        tracing::info!("authority made");
        Ok(keyring)
    }

    /// What a write gave; None where somebody else was first, or where this replica does not lead any more.
    fn written(&self, outcome: Result<Secret, GuardedError<kube::Error>>) -> Result<Option<Secret>, CertificateError> {
        match outcome {
            Ok(secret) => Ok(Some(secret)),
            Err(GuardedError::Failed(kube::Error::Api(status))) if status.code == 409 => Ok(None),
            Err(GuardedError::NotLeader) => Ok(None),
            Err(GuardedError::Failed(error)) => Err(CertificateError::api(what(), &error)),
            Err(GuardedError::TimedOut(after)) => Err(CertificateError::Timeout { what: what(), after }),
        }
    }

    /// Signs new leaves where the authorities are others or the old leaves are half over.
    fn put_to_use(&mut self, keyring: Keyring) -> Result<(), CertificateError> {
        let now = SystemTime::now();
        let same = self.memory.as_ref().is_some_and(|known| is_same(known, &keyring));
        let standing = self.tls.borrow().clone();
        match standing {
            Some(tls) if same && now < self.schedule.renew_at(tls.validity()) => {}
            Some(tls) => {
                tls.swap(keyring.credentials(&self.names, self.schedule.leaf(), now)?)?;
                tracing::info!("certificates renewed");
            }
            None => {
                let credentials = keyring.credentials(&self.names, self.schedule.leaf(), now)?;
                self.tls.send_replace(Some(Tls::of(credentials, self.names.clone())?));
            }
        }
        self.memory = Some(keyring);
        Ok(())
    }

    /// Without the API server a leaf of the authority that was known last is still better than one that is over.
    fn renew(&mut self) {
        if let Some(keyring) = self.memory.clone()
            && let Err(error) = self.put_to_use(keyring)
        {
            tracing::warn!(error = chain(&error), "certificates can't be renewed");
        }
    }

    fn report(&self, outcome: Result<(), CertificateError>) {
        let leaf = self.tls.borrow().as_ref().map(|tls| ("leaf", tls.validity()));
        let authority = self.memory.as_ref().map(|keyring| ("authority", keyring.times().current));
        let certificates: Vec<_> = authority.into_iter().chain(leaf).collect();
        self.reporter.round(outcome, &certificates);
    }
}

fn is_same(one: &Keyring, other: &Keyring) -> bool {
    one.signer() == other.signer() && one.bundle() == other.bundle()
}

fn what() -> String {
    format!("Secret {SECRET}")
}

async fn timed<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CertificateError> {
    let answer = tokio::time::timeout(READ_TIMEOUT, call).await;
    let answer = answer.map_err(|_| CertificateError::Timeout { what: what(), after: READ_TIMEOUT })?;
    answer.map_err(|error| CertificateError::api(what(), &error))
}
