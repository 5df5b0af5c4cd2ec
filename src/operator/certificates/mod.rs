//! The operator's certificates: one authority for all TLS ports and replicas, a leaf of its own for each.
//!
//! The authority lives in a Secret that the leader writes and replaces in time; leaves live in memory only and are short,
//! so nothing that a replica holds is worth much for long. Or both come from a directory that somebody else keeps. What
//! others must trust is published from here. The authority's key must not leave this module.

mod authority;
mod bundle;
mod directory;
mod error;
mod keeper;
mod keyring;
mod publish;
mod report;
mod rotation;
mod tls;
mod trust;

use std::path::PathBuf;

use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::lease::Leadership;
use crate::metrics::Metrics;

pub use authority::{Authority, PEER_NAME};
pub use bundle::{Bundle, Validity};
pub use error::CertificateError;
pub use keyring::SECRET;
pub use publish::{CERTIFICATE_KEY, Publisher, Target, config_maps, places};
pub use rotation::{Schedule, ScheduleError};
pub use tls::{LEAF_VALIDITY, Names, Purpose, Tls, TlsSource};
pub use trust::Trust;

use directory::{Directory, DirectoryKeeper};
use keeper::Keeper;
use report::Reporter;

/// Where certificates come from, and what keeping them needs.
pub struct Certificates {
    /// The client for writes.
    pub client: Client,
    /// The operator's own namespace.
    pub namespace: String,
    /// Whether this replica may write.
    pub leadership: Leadership,
    /// The authority's times.
    pub schedule: Schedule,
    /// What the operator is called.
    pub names: Names,
    /// Where what is trusted is shown.
    pub trust: Trust,
    /// Where it shows how long certificates last.
    pub health: Health,
    /// The same as a metric.
    pub metrics: Metrics,
}

impl Certificates {
    /// Keeps an authority of our own in a Secret. TLS comes as soon as the leader has made it; the future ends by `stop`.
    pub fn own(self, stop: CancellationToken) -> (TlsSource, impl Future<Output = ()> + Send + 'static) {
        let (tls, source) = TlsSource::new();
        let keeper = Keeper {
            secrets: Api::namespaced(self.client.clone(), &self.namespace),
            leadership: self.leadership.clone(),
            schedule: self.schedule,
            reporter: self.reporter(),
            names: self.names,
            trust: self.trust,
            tls,
            memory: None,
        };
        (source, keeper.run(stop))
    }

    /// Follows the directory `path`, in which somebody else keeps `tls.crt`, `tls.key` and `ca.crt`; the future ends by `stop`.
    ///
    /// # Errors
    /// When what is there now is not good, naming the file.
    pub fn directory(
        self,
        path: PathBuf,
        stop: CancellationToken,
    ) -> Result<(TlsSource, impl Future<Output = ()> + Send + 'static), CertificateError> {
        let (tls, source) = TlsSource::new();
        let mut keeper = DirectoryKeeper {
            reporter: self.reporter(),
            schedule: self.schedule,
            trust: self.trust,
            directory: Directory { path, names: self.names },
            tls,
            memory: None,
        };
        keeper.round()?;
        keeper.report(Ok(()));
        Ok((source, keeper.run(stop)))
    }

    fn reporter(&self) -> Reporter {
        Reporter { health: self.health.clone(), metrics: self.metrics.clone() }
    }
}
