//! `fusebox-operator cleanup`: removes what the operator made, after it was uninstalled.
//!
//! It deletes only what carries the operator's label and hash, and nothing in a namespace whose pods still have sidecars:
//! those go on with their last configuration. It must not run beside an operator, which would make everything again.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use fusebox_api::names::{SIDECAR_INJECTED, SIDECAR_LABEL};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt as _};

use crate::apply::{APPLIED_ANNOTATION, MANAGED_BY_SELECTOR, OutputKind};
use crate::certificates;
use crate::run::LEASE;

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(90);

/// What is cleaned up.
#[derive(Clone, Debug, Args)]
pub struct Cleanup {
    /// Only these namespaces and the operator's own, comma separated. Default: all.
    #[arg(long, value_delimiter = ',')]
    pub within: Vec<String>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// What was deleted, as `Kind namespace/name`.
    pub deleted: BTreeSet<String>,
    /// The namespaces that were left alone, because their pods have sidecars.
    pub left: BTreeSet<String>,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The API server refused.
    #[error("{what} can't be cleaned up")]
    Api {
        /// Which kind, or which object.
        what: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server took too long.
    #[error("not cleaned up within {}s", DEADLINE.as_secs())]
    Deadline,
}

impl Cleanup {
    /// Does it; the operator's own namespace is `own`.
    ///
    /// # Errors
    /// [`CleanupError`]; what was deleted before stays deleted, and it can be run again.
    pub async fn run(&self, client: Client, own: &str) -> Result<Cleaned, CleanupError> {
        tokio::time::timeout(DEADLINE, self.all(&client, own)).await.map_err(|_| CleanupError::Deadline)?
    }

    async fn all(&self, client: &Client, own: &str) -> Result<Cleaned, CleanupError> {
        let mut cleaned = Cleaned { left: self.with_sidecars(client, own).await?, ..Cleaned::default() };
        for kind in OutputKind::ALL {
            for scope in self.scopes(own) {
                let objects = listed(&outputs(client, kind, scope), (kind.name(), MANAGED_BY_SELECTOR)).await?;
                for object in objects.iter().filter(|object| object.annotations().contains_key(APPLIED_ANNOTATION)) {
                    let namespace = object.namespace().unwrap_or_default();
                    if !cleaned.left.contains(&namespace) {
                        let api = outputs(client, kind, Some(&namespace));
                        delete(&api, (kind.name(), &namespace, &object.name_any()), &mut cleaned).await?;
                    }
                }
            }
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), own);
        delete(&secrets, ("Secret", own, certificates::SECRET), &mut cleaned).await?;
        let leases: Api<Lease> = Api::namespaced(client.clone(), own);
        delete(&leases, ("Lease", own, LEASE), &mut cleaned).await?;
        Ok(cleaned)
    }

    async fn with_sidecars(&self, client: &Client, own: &str) -> Result<BTreeSet<String>, CleanupError> {
        let selector = format!("{SIDECAR_LABEL}={SIDECAR_INJECTED}");
        let mut namespaces = BTreeSet::new();
        for scope in self.scopes(own) {
            let pods: Api<Pod> = match scope {
                Some(namespace) => Api::namespaced(client.clone(), namespace),
                None => Api::all(client.clone()),
            };
            namespaces.extend(listed(&pods, ("Pod", &selector)).await?.iter().filter_map(kube::ResourceExt::namespace));
        }
        Ok(namespaces)
    }

    /// The namespaces to look into; None is all of them.
    fn scopes<'a>(&'a self, own: &'a str) -> Vec<Option<&'a str>> {
        if self.within.is_empty() {
            return vec![None];
        }
        let namespaces: BTreeSet<&str> = self.within.iter().map(String::as_str).chain([own]).collect();
        namespaces.into_iter().map(Some).collect()
    }
}

impl std::fmt::Display for Cleaned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for object in &self.deleted {
            writeln!(f, "deleted {object}")?;
        }
        for namespace in &self.left {
            writeln!(f, "left namespace {namespace} alone: it has pods with sidecars")?;
        }
        write!(f, "{} objects deleted", self.deleted.len())
    }
}

fn outputs(client: &Client, kind: OutputKind, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind.resource()),
        None => Api::all_with(client.clone(), &kind.resource()),
    }
}

/// All objects that the selector finds; none where the kind is not installed.
async fn listed<K>(api: &Api<K>, (kind, selector): (&str, &str)) -> Result<Vec<K>, CleanupError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match api.list(&ListParams::default().labels(selector)).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(source) => Err(CleanupError::Api { what: kind.to_owned(), source: Box::new(source) }),
    }
}

async fn delete<K>(
    api: &Api<K>,
    (kind, namespace, name): (&str, &str, &str),
    cleaned: &mut Cleaned,
) -> Result<(), CleanupError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let what = format!("{kind} {namespace}/{name}");
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => {
            cleaned.deleted.insert(what);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(CleanupError::Api { what, source: Box::new(source) }),
    }
}
