//! Manifests from files, as a snapshot: for `render`, `run` and the golden files.
//!
//! It must take exactly the kinds that the operator watches and pass over all others, so that a
//! directory can be given as it is applied.

use fusebox_api::{CircuitBreakerPolicy, RateLimit};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1 as core;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::check::File;
use crate::snapshot::{Pod, Snapshot, Workload};
use crate::yaml::{self, Node, Place, Step, YamlError};

/// Why manifests can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file is no YAML.
    #[error("{file}:{line}:{column}: {source}", line = source.place.line, column = source.place.column)]
    Yaml {
        /// The file.
        file: String,
        /// What is wrong.
        #[source]
        source: YamlError,
    },
    /// A document is not what its kind says.
    #[error("{file}:{line}:{column}: {kind} can't be read: {source}; `fusebox check -f {file}` tells more", line = place.line, column = place.column)]
    Malformed {
        /// The file.
        file: String,
        /// Where the document, or the field, begins.
        place: Place,
        /// The document's kind.
        kind: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads every manifest of every file into a snapshot.
///
/// # Errors
/// [`ManifestError`] at the first document that can't be read.
pub fn load(files: &[File<'_>], now: Timestamp) -> Result<Snapshot, ManifestError> {
    let mut snapshot = Snapshot::empty(now);
    for file in files {
        let documents = yaml::read(file.text);
        let documents = documents.map_err(|source| ManifestError::Yaml { file: file.name.to_owned(), source })?;
        for document in &documents {
            let added = add(&mut snapshot, document.to_value());
            added.map_err(|(kind, source)| ManifestError::Malformed {
                file: file.name.to_owned(),
                place: place_of(document),
                kind,
                source,
            })?;
        }
    }
    Ok(snapshot)
}

fn place_of(document: &Node) -> Place {
    document.place_of(&[Step::Key("kind")])
}

fn add(snapshot: &mut Snapshot, document: Value) -> Result<(), (String, serde_json::Error)> {
    let word = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (word("apiVersion"), word("kind"));
    if kind == "List" {
        let items = document.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        return items.into_iter().try_for_each(|item| add(snapshot, item));
    }
    let added = match (api_version.as_str(), kind.as_str()) {
        ("fusebox.dev/v1alpha1", "CircuitBreakerPolicy") => {
            read::<CircuitBreakerPolicy>(document).map(|it| snapshot.circuit_breakers.push((&it).into()))
        }
        ("fusebox.dev/v1alpha1", "RateLimit") => {
            read::<RateLimit>(document).map(|it| snapshot.rate_limits.push((&it).into()))
        }
        ("v1", "Service") => read::<core::Service>(document).map(|it| snapshot.services.push((&it).into())),
        ("v1", "Pod") => read::<core::Pod>(document).map(|it| snapshot.pods.extend(Pod::from_object(&it))),
        ("v1", "Namespace") => read::<core::Namespace>(document).map(|it| snapshot.namespaces.push((&it).into())),
        ("apps/v1", "Deployment") => template::<Deployment>(snapshot, document),
        ("apps/v1", "StatefulSet") => template::<StatefulSet>(snapshot, document),
        ("apps/v1", "DaemonSet") => template::<DaemonSet>(snapshot, document),
        ("batch/v1", "Job") => template::<Job>(snapshot, document),
        ("batch/v1", "CronJob") => template::<CronJob>(snapshot, document),
        _ => Ok(()),
    };
    added.map_err(|error| (kind, error))
}

fn read<T: DeserializeOwned>(document: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(document)
}

fn template<T>(snapshot: &mut Snapshot, document: Value) -> Result<(), serde_json::Error>
where
    T: DeserializeOwned,
    for<'a> Workload: From<&'a T>,
{
    read::<T>(document).map(|object| snapshot.workloads.push(Workload::from(&object)))
}
