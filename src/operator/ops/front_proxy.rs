//! Who asks: only the API server's front proxy is believed, and it says who the user is.
//!
//! It proves itself by a client certificate of an authority, and under a name, that the cluster publishes in ConfigMap
//! `kube-system/extension-apiserver-authentication`. The headers of anybody else must not be read at all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures::StreamExt;
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use kube_runtime::WatchStreamExt;
use kube_runtime::watcher::{Config, Event, watcher};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::refusal::Refusal;
use crate::metrics::Metrics;
use crate::stores::WatchBackoff;

const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";

/// How long a watch lasts before it is opened anew.
const WATCH_SECONDS: u32 = 40;

/// A user, as the front proxy names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// How the front proxy proves itself, and where it says who the user is.
pub(crate) struct FrontProxy {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Empty allows every name.
    allowed_names: Vec<String>,
    user_headers: Vec<String>,
    uid_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

/// The front proxy that is believed now; None while none is known. Cheap to clone, one shared content.
#[derive(Clone, Debug, Default)]
pub(crate) struct FrontProxies(Arc<ArcSwapOption<FrontProxy>>);

/// Why the ConfigMap can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrontProxyError {
    #[error("ConfigMap {NAMESPACE}/{CONFIG_MAP} has no {0}: the API server runs without API aggregation")]
    Missing(&'static str),
    #[error("{0} in ConfigMap {NAMESPACE}/{CONFIG_MAP} is not a list of texts")]
    List(&'static str, #[source] serde_json::Error),
    #[error("requestheader-client-ca-file in ConfigMap {NAMESPACE}/{CONFIG_MAP} is not PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("requestheader-client-ca-file in ConfigMap {NAMESPACE}/{CONFIG_MAP} can't be used")]
    Authority(#[from] rustls::Error),
    #[error("clients can't be verified")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl FrontProxies {
    /// The one that is believed now.
    pub(crate) fn current(&self) -> Option<Arc<FrontProxy>> {
        self.0.load_full()
    }

    /// Takes what the ConfigMap says; what can't be used is believed no more, since keys are taken away so.
    pub(crate) fn take(&self, config_map: Option<&ConfigMap>) {
        let none = BTreeMap::new();
        let data = config_map.and_then(|map| map.data.as_ref()).unwrap_or(&none);
        match FrontProxy::parse(data) {
            Ok(front_proxy) => self.0.store(Some(Arc::new(front_proxy))),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "nobody can use the operations API");
                self.0.store(None);
            }
        }
    }

    /// Follows the ConfigMap until `stop`. An API server that is away changes nothing.
    pub(crate) async fn follow(self, client: Client, metrics: Metrics, stop: CancellationToken) {
        let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let config = Config::default().fields(&format!("metadata.name={CONFIG_MAP}")).timeout(WATCH_SECONDS);
        let errors = metrics.watch_errors.with_label_values(&["front-proxy"]);
        let mut events = watcher(api, config).backoff(WatchBackoff::new("front-proxy")).boxed();
        let mut listed = None;
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            match event {
                Ok(Event::Init) => listed = None,
                Ok(Event::InitApply(map)) => listed = Some(map),
                Ok(Event::InitDone) => self.take(listed.as_ref()),
                Ok(Event::Apply(map)) => self.take(Some(&map)),
                Ok(Event::Delete(_)) => self.take(None),
                Err(error) => {
                    errors.inc();
                    tracing::debug!(%error, "ConfigMap {NAMESPACE}/{CONFIG_MAP} can't be watched");
                }
            }
        }
    }
}

impl FrontProxy {
    /// Reads the ConfigMap's data.
    ///
    /// # Errors
    /// [`FrontProxyError`], naming what is wrong.
    pub(crate) fn parse(data: &BTreeMap<String, String>) -> Result<Self, FrontProxyError> {
        let authority = required(data, "requestheader-client-ca-file")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Ok(Self {
            // Whoever shows none gets an answer that says so, instead of a broken handshake.
            verifier: verifier.allow_unauthenticated().build()?,
            allowed_names: list(data, "requestheader-allowed-names")?,
            user_headers: required_list(data, "requestheader-username-headers")?,
            uid_headers: list(data, "requestheader-uid-headers")?,
            group_headers: list(data, "requestheader-group-headers")?,
            extra_prefixes: list(data, "requestheader-extra-headers-prefix")?,
        })
    }

    /// For the handshake: who shows a certificate of another authority does not get through it.
    pub(crate) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier)
    }

    /// The user, if the certificates are the front proxy's now: an authority may have been replaced, or a certificate have
    /// ended, since the handshake.
    ///
    /// # Errors
    /// `Unauthenticated`.
    pub(crate) fn authenticate(
        &self,
        shown: &[CertificateDer<'_>],
        headers: &HeaderMap,
        now: UnixTime,
    ) -> Result<User, Refusal> {
        let (leaf, chain) = shown.split_first().ok_or(Refusal::Unauthenticated("no client certificate"))?;
        let verified = self.verifier.verify_client_cert(leaf, chain, now);
        verified.map_err(|_| Refusal::Unauthenticated("the certificate is not the front proxy's"))?;
        if !self.allows(leaf) {
            return Err(Refusal::Unauthenticated("the certificate's name is not allowed"));
        }
        self.user(headers).ok_or(Refusal::Unauthenticated("the front proxy names no user"))
    }

    fn allows(&self, leaf: &CertificateDer<'_>) -> bool {
        if self.allowed_names.is_empty() {
            return true;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return false };
        let mut names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.any(|name| self.allowed_names.iter().any(|allowed| allowed == name))
    }

    fn user(&self, headers: &HeaderMap) -> Option<User> {
        let name = first(headers, &self.user_headers)?;
        let groups = self.group_headers.iter().flat_map(|header| headers.get_all(header));
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let key = self.extra_prefixes.iter().find_map(|prefix| strip_prefix(header.as_str(), prefix));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                extra.entry(unescape(key)).or_default().push(value.to_owned());
            }
        }
        Some(User {
            name,
            uid: first(headers, &self.uid_headers).unwrap_or_default(),
            groups: groups.filter_map(|group| group.to_str().ok()).map(str::to_owned).collect(),
            extra,
        })
    }
}

impl fmt::Debug for FrontProxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FrontProxy").field("allowed_names", &self.allowed_names).finish_non_exhaustive()
    }
}

fn required<'a>(data: &'a BTreeMap<String, String>, key: &'static str) -> Result<&'a str, FrontProxyError> {
    let text = data.get(key).map(String::as_str).filter(|text| !text.trim().is_empty());
    text.ok_or(FrontProxyError::Missing(key))
}

fn required_list(data: &BTreeMap<String, String>, key: &'static str) -> Result<Vec<String>, FrontProxyError> {
    let words = list(data, key)?;
    if words.is_empty() { Err(FrontProxyError::Missing(key)) } else { Ok(words) }
}

fn list(data: &BTreeMap<String, String>, key: &'static str) -> Result<Vec<String>, FrontProxyError> {
    let text = data.get(key).map(String::as_str).filter(|text| !text.trim().is_empty());
    let words = text.map(serde_json::from_str).transpose().map_err(|error| FrontProxyError::List(key, error))?;
    Ok(words.unwrap_or_default())
}

fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    let mut values = names.iter().filter_map(|name| headers.get(name)).filter_map(|value| value.to_str().ok());
    values.find(|value| !value.is_empty()).map(str::to_owned)
}

/// What follows a prefix, without regard to case.
fn strip_prefix<'a>(header: &'a str, prefix: &str) -> Option<&'a str> {
    let head = header.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &header[prefix.len()..]).filter(|key| !key.is_empty())
}

/// Undoes percent-escapes; what is none stays, as in Kubernetes.
pub(super) fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let escaped = (*byte == b'%').then(|| after.get(..2)).flatten().and_then(|digits| {
            u8::from_str_radix(std::str::from_utf8(digits).ok().filter(|it| !it.starts_with('+'))?, 16).ok()
        });
        bytes.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use fusebox_testkit::certificates::{Authority, Signed};

    fn data(authority: &Authority, names: &[&str]) -> BTreeMap<String, String> {
        [
            ("requestheader-client-ca-file", authority.certificate()),
            ("requestheader-allowed-names", json!(names).to_string()),
            ("requestheader-username-headers", json!(["X-Remote-User"]).to_string()),
            ("requestheader-group-headers", json!(["X-Remote-Group"]).to_string()),
            ("requestheader-extra-headers-prefix", json!(["X-Remote-Extra-"]).to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    fn certificate(signed: &Signed) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap()
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn why(outcome: Result<User, Refusal>) -> &'static str {
        match outcome {
            Err(Refusal::Unauthenticated(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_front_proxy_says_who_the_user_is() {
        let authority = Authority::new("front-proxy").unwrap();
        let shown = [certificate(&authority.client("front-proxy-client", None).unwrap())];
        let front_proxy = FrontProxy::parse(&data(&authority, &["front-proxy-client"])).unwrap();
        let headers = headers(&[
            ("x-remote-user", "alice"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-extra-example.org%2fscope", "all"),
        ]);
        let user = front_proxy.authenticate(&shown, &headers, UnixTime::now()).unwrap();
        assert_eq!((user.name.as_str(), user.groups.len()), ("alice", 2));
        assert_eq!(user.extra["example.org/scope"], ["all"]);
    }

    #[test]
    fn headers_of_anybody_else_are_not_believed() {
        let (authority, other) = (Authority::new("front-proxy").unwrap(), Authority::new("other").unwrap());
        let front_proxy = FrontProxy::parse(&data(&authority, &["front-proxy-client"])).unwrap();
        let forged = headers(&[("x-remote-user", "system:admin"), ("x-remote-group", "system:masters")]);
        let now = UnixTime::now();
        assert_eq!(why(front_proxy.authenticate(&[], &forged, now)), "no client certificate");
        let stranger = [certificate(&other.client("front-proxy-client", None).unwrap())];
        assert!(why(front_proxy.authenticate(&stranger, &forged, now)).contains("not the front proxy's"));
        let misnamed = [certificate(&authority.client("kubelet", None).unwrap())];
        assert!(why(front_proxy.authenticate(&misnamed, &forged, now)).contains("name is not allowed"));
        let server = [certificate(&authority.server(&["front-proxy-client"]).unwrap())];
        assert!(why(front_proxy.authenticate(&server, &forged, now)).contains("not the front proxy's"), "a server's");
        let rightful = [certificate(&authority.client("front-proxy-client", None).unwrap())];
        assert!(why(front_proxy.authenticate(&rightful, &HeaderMap::new(), now)).contains("names no user"));
    }

    #[test]
    fn no_names_allow_every_name_of_the_authority() {
        let authority = Authority::new("front-proxy").unwrap();
        let front_proxy = FrontProxy::parse(&data(&authority, &[])).unwrap();
        let shown = [certificate(&authority.client("anything", None).unwrap())];
        let headers = headers(&[("x-remote-user", "alice")]);
        assert!(front_proxy.authenticate(&shown, &headers, UnixTime::now()).is_ok());
    }

    #[test]
    fn a_cluster_without_aggregation_is_named() {
        let error = FrontProxy::parse(&BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("without API aggregation"), "{error}");
        let mut data = data(&Authority::new("front-proxy").unwrap(), &[]);
        data.insert("requestheader-allowed-names".into(), "nonsense".into());
        assert!(matches!(FrontProxy::parse(&data), Err(FrontProxyError::List("requestheader-allowed-names", _))));
        let proxies = FrontProxies::default();
        proxies.take(Some(&ConfigMap { data: Some(data), ..ConfigMap::default() }));
        assert!(proxies.current().is_none());
    }

    #[test]
    fn escapes_are_undone_and_other_percents_stay() {
        assert_eq!(unescape("a%2Fb%zz%+1%4"), "a/b%zz%+1%4");
    }
}
