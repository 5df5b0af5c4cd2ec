//! The authority's Secret and ConfigMap: read by every replica, written by the leader alone.
//!
//! The Secret is created when it is absent and never overwritten, so two leaders in a row, or two
//! that race, end up with the same authority.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, CertificateError};
use super::tls::{Names, Tls};
use crate::lease::{GuardedError, Leadership};

/// The Secret with the authority's certificate and key.
pub const SECRET: &str = "fusebox-control-ca";

/// The ConfigMap with the authority's certificate, for sidecars to mount.
pub const CONFIG_MAP: &str = "fusebox-control-ca";

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";

/// How soon it is looked again while there is no authority yet.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// How long reading one object may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How often Secret, ConfigMap and leaves are looked after.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);

/// Where the authority is kept.
#[derive(Clone)]
pub struct CertificateStore {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    leadership: Leadership,
}

impl CertificateStore {
    /// The store in this namespace, the operator's own.
    #[must_use]
    pub fn new(client: Client, namespace: &str, leadership: Leadership) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client, namespace),
            leadership,
        }
    }

    /// Waits for the authority and makes TLS from it; the leader creates the authority when there is none.
    /// None when `shutdown` came first.
    pub async fn tls(&self, names: Names, shutdown: &CancellationToken) -> Option<Tls> {
        loop {
            match self.attempt(&names).await {
                Ok(Some(tls)) => return Some(tls),
                Ok(None) => {}
                Err(error) => tracing::warn!(error = chain(&error), "no certificate yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_EVERY) => {}
                () = shutdown.cancelled() => return None,
            }
        }
    }

    /// Keeps leaves fresh, and at the leader Secret and ConfigMap in place, until `shutdown`.
    pub async fn maintain(&self, tls: &Tls, shutdown: &CancellationToken) {
        let mut roles = self.leadership.subscribe();
        loop {
            if let Err(error) = self.maintain_once(tls).await {
                tracing::warn!(error = chain(&error), "certificates could not be looked after");
            }
            tokio::select! {
                () = tokio::time::sleep(MAINTAIN_EVERY) => {}
                _ = roles.changed() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn attempt(&self, names: &Names) -> Result<Option<Tls>, CertificateError> {
        let authority = match self.read().await? {
            Some(authority) => authority,
            None => match self.create().await? {
                Some(authority) => authority,
                None => return Ok(None),
            },
        };
        Tls::new(&authority, names.clone(), SystemTime::now()).map(Some)
    }

    async fn maintain_once(&self, tls: &Tls) -> Result<(), CertificateError> {
        let authority = match self.read().await? {
            Some(authority) => Some(authority),
            None => self.create().await?,
        };
        if let Some(authority) = authority {
            if tls.renew(&authority, SystemTime::now())? {
                tracing::info!("certificates renewed");
            }
            self.publish(authority.certificate_pem()).await?;
        }
        Ok(())
    }

    async fn read(&self) -> Result<Option<Authority>, CertificateError> {
        let Some(secret) = timed("Secret", self.secrets.get_opt(SECRET)).await? else { return Ok(None) };
        let data = secret.data.unwrap_or_default();
        Authority::parse(part(&data, CERTIFICATE)?, part(&data, KEY)?).map(Some)
    }

    /// Creates the Secret if this replica leads; None when it does not, or another was first.
    async fn create(&self) -> Result<Option<Authority>, CertificateError> {
        if !self.leadership.may_write(std::time::Instant::now()) {
            return Ok(None);
        }
        let authority = Authority::generate(SystemTime::now())?;
        let secret = Secret {
            metadata: named(SECRET),
            type_: Some("Opaque".to_owned()),
            data: Some(BTreeMap::from([
                (CERTIFICATE.to_owned(), ByteString(authority.certificate_pem().as_bytes().to_vec())),
                (KEY.to_owned(), ByteString(authority.key_pem().as_bytes().to_vec())),
            ])),
            ..Secret::default()
        };
        let parameters = PostParams::default();
        match self.leadership.guard(self.secrets.create(&parameters, &secret)).await {
            Ok(_) => Ok(Some(authority)),
            Err(GuardedError::Failed(kube::Error::Api(status))) if status.code == 409 => Ok(None),
            Err(GuardedError::Failed(error)) => Err(failed("Secret", error)),
            Err(GuardedError::NotLeader | GuardedError::TimedOut(_)) => Ok(None),
        }
    }

    /// Puts the public half into the ConfigMap, if this replica leads and it differs.
    async fn publish(&self, certificate_pem: &str) -> Result<(), CertificateError> {
        if !self.leadership.may_write(std::time::Instant::now()) {
            return Ok(());
        }
        let current = timed("ConfigMap", self.config_maps.get_opt(CONFIG_MAP)).await?;
        let data = current.and_then(|map| map.data).unwrap_or_default();
        if data.get(CERTIFICATE).is_some_and(|stored| stored == certificate_pem) {
            return Ok(());
        }
        let map = ConfigMap {
            metadata: named(CONFIG_MAP),
            data: Some(BTreeMap::from([(CERTIFICATE.to_owned(), certificate_pem.to_owned())])),
            ..ConfigMap::default()
        };
        let parameters = PatchParams::apply("fusebox").force();
        let patch = Patch::Apply(&map);
        match self.leadership.guard(self.config_maps.patch(CONFIG_MAP, &parameters, &patch)).await {
            Err(GuardedError::Failed(error)) => Err(failed("ConfigMap", error)),
            Ok(_) | Err(GuardedError::NotLeader | GuardedError::TimedOut(_)) => Ok(()),
        }
    }
}

fn named(name: &str) -> ObjectMeta {
    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "fusebox".to_owned())]);
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() }
}

fn part<'a>(data: &'a BTreeMap<String, ByteString>, key: &'static str) -> Result<&'a str, CertificateError> {
    let text = data.get(key).and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    text.ok_or(CertificateError::Incomplete { secret: SECRET, key })
}

async fn timed<T>(what: &'static str, call: impl Future<Output = kube::Result<T>>) -> Result<T, CertificateError> {
    let answer = tokio::time::timeout(READ_TIMEOUT, call).await;
    answer.map_err(|_| CertificateError::Timeout { what })?.map_err(|error| failed(what, error))
}

fn failed(what: &'static str, error: kube::Error) -> CertificateError {
    CertificateError::Api { what, source: Box::new(error) }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
