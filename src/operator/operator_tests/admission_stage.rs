//! What the admission tests share: a cluster, an operator whose webhooks are served with a certificate of the test's choice, and
//! the configurations by which the API server calls them.
//!
//! All share one cluster; selectors keep each test's webhooks to its own namespace.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fusebox_testkit::certificates::{Authority, Signed};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

use super::*;
use crate::admission::{INJECT_PATH, VALIDATE_PATH, serve};

/// How long the API server waits for a webhook here, in seconds.
const TIMEOUT_SECONDS: u32 = 2;

/// The label that a test's namespace alone has, so that no other test's webhook is asked about it.
const TEST_LABEL: &str = "fusebox.dev/test";

pub(super) const OPTIONS: &str =
    "{image: fusebox/proxy:test, controlUrls: [https://fusebox-operator.fusebox-system.svc:9443]}";

/// One test's stage.
pub(super) struct Stage {
    pub(super) cluster: &'static Cluster,
    pub(super) client: Client,
    pub(super) namespace: String,
}

/// The webhooks, served.
pub(super) struct Served {
    pub(super) url: String,
    pub(super) authority: Authority,
    address: SocketAddr,
    _operator: Running,
    _folder: tempfile::TempDir,
    _guard: DropGuard,
}

impl Stage {
    /// A namespace with these labels beside the test's own.
    pub(super) async fn new(prefix: &str, labels: &[(&str, &str)]) -> Result<Self> {
        static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
        let cluster = CLUSTER.get_or_try_init(super::cluster).await?;
        let namespace = cluster.unique_namespace(prefix).await?;
        let stage = Self { cluster, client: cluster.client().await?, namespace };
        let mut all: std::collections::BTreeMap<&str, &str> = labels.iter().copied().collect();
        all.insert(TEST_LABEL, &stage.namespace);
        stage.label_namespace(&json!(all)).await?;
        Ok(stage)
    }

    pub(super) async fn label_namespace(&self, labels: &Value) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        api.patch(&self.namespace, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a bare pod of one container.
    pub(super) async fn create(&self, name: &str, changes: impl FnOnce(&mut Value)) -> kube::Result<Value> {
        self.create_with(&PostParams::default(), name, changes).await
    }

    pub(super) async fn create_with(
        &self,
        parameters: &PostParams,
        name: &str,
        changes: impl FnOnce(&mut Value),
    ) -> kube::Result<Value> {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}}}]}});
        changes(&mut pod);
        let pod: Pod = serde_json::from_value(pod).map_err(kube::Error::SerdeError)?;
        let created = self.pods().create(parameters, &pod).await?;
        serde_json::to_value(created).map_err(kube::Error::SerdeError)
    }

    /// Has the API server ask for every pod of the namespace that asks for a sidecar, as the chart does.
    pub(super) async fn register_injection(&self, url: &str, ca: &str) -> Result<()> {
        let asks = json!({"fusebox.dev/inject": "enabled"});
        let here = json!({TEST_LABEL: self.namespace});
        let both = json!({"fusebox.dev/inject": "enabled", TEST_LABEL: self.namespace});
        let may =
            json!({"matchExpressions": [{"key": "fusebox.dev/inject", "operator": "NotIn", "values": ["disabled"]}]});
        let rules =
            json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]);
        let webhook = |name: &str, namespaces: &Value, pods: &Value| {
            let mut webhook = webhook(name, &format!("{url}{INJECT_PATH}"), ca, &rules);
            webhook["failurePolicy"] = json!("Fail");
            webhook["reinvocationPolicy"] = json!("IfNeeded");
            webhook["namespaceSelector"] = json!({"matchLabels": namespaces});
            webhook["objectSelector"] = pods.clone();
            webhook
        };
        let configuration = json!({"metadata": {"name": self.namespace}, "webhooks": [
            webhook("namespaces.inject.fusebox.dev", &both, &may),
            webhook("pods.inject.fusebox.dev", &here, &json!({"matchLabels": asks})),
        ]});
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(configuration)?).await?;
        self.injection_is_asked().await
    }

    /// Has the API server ask about policies of the namespace.
    pub(super) async fn register_validation(&self, served: &Served) -> Result<()> {
        let rules = json!([{"apiGroups": ["fusebox.dev"], "apiVersions": ["v1alpha1"], "operations": ["CREATE", "UPDATE"],
            "resources": ["circuitbreakerpolicies"]}]);
        let url = format!("{}{VALIDATE_PATH}", served.url);
        let mut webhook = webhook("validate.fusebox.dev", &url, &served.authority.certificate(), &rules);
        webhook["failurePolicy"] = json!("Ignore");
        webhook["namespaceSelector"] = json!({"matchLabels": {TEST_LABEL: self.namespace}});
        let configuration = json!({"metadata": {"name": self.namespace}, "webhooks": [webhook]});
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(configuration)?).await?;
        Ok(())
    }

    /// The API server takes a moment until it asks: until then a pod that asks stays as it is.
    async fn injection_is_asked(&self) -> Result<()> {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        eventually(SOON, "the API server asks the webhook", async || {
            let created = self.create_with(&dry, "asks", ask).await;
            let untouched = created.is_ok_and(|pod| pod["spec"].get("initContainers").is_none());
            ensure!(!untouched, "not yet");
            Ok(())
        })
        .await
    }

    /// No webhook stays behind in the cluster that all tests share.
    pub(super) async fn clear(&self) -> Result<()> {
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        // One of the two was never there.
        let _ = mutating.delete(&self.namespace, &DeleteParams::default()).await;
        let _ = validating.delete(&self.namespace, &DeleteParams::default()).await;
        Ok(())
    }
}

impl Served {
    /// An operator's webhooks at an address of their own, once it knows the cluster.
    pub(super) async fn start(cluster: &Cluster) -> Result<Self> {
        let authority = Authority::new("admission-test")?;
        let signed = authority.server(&["127.0.0.1", "localhost"])?;
        Self::start_with(cluster, authority, &signed).await
    }

    pub(super) async fn start_with(cluster: &Cluster, authority: Authority, signed: &Signed) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("injection.yaml");
        std::fs::write(&file, OPTIONS)?;
        let flag = format!("--injection-config={}", file.display());
        let operator = Running::start(cluster, "admission", &[&flag]).await?;
        let mut published = operator.admission.published.clone();
        tokio::time::timeout(SOON, published.wait_for(Option::is_some)).await??;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, config) = (listener.local_addr()?, server_config(signed)?);
        let shutdown = CancellationToken::new();
        let tls = move || Some(Arc::clone(&config));
        tokio::spawn(serve(listener, tls, operator.admission.clone(), shutdown.clone()));
        let url = format!("https://127.0.0.1:{}", address.port());
        Ok(Self { url, authority, address, _operator: operator, _folder: folder, _guard: shutdown.drop_guard() })
    }

    /// A connection as the API server makes it: HTTP/1.1 over TLS.
    pub(super) async fn connect(&self) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate().as_bytes())?)?;
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?;
        let (requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(requests)
    }

    /// One request over a connection of its own.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<(u16, Value)> {
        let response = self.connect().await?.send_request(request).await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?))
    }
}

/// A POST of JSON.
pub(super) fn post(path: &str, body: impl Into<Bytes>) -> Result<Request<Full<Bytes>>> {
    let request = Request::builder().method(Method::POST).uri(path).header("host", "localhost");
    Ok(request.header("content-type", "application/json").body(Full::new(body.into()))?)
}

/// A review about a new pod.
pub(super) fn review(namespace: &str, pod: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "namespace": namespace, "operation": "CREATE",
        "resource": {"group": "", "version": "v1", "resource": "pods"}, "object": pod, "dryRun": false,
    }})
}

/// Labels a pod as one that asks.
pub(super) fn ask(pod: &mut Value) {
    pod["metadata"]["labels"]["fusebox.dev/inject"] = json!("enabled");
}

pub(super) fn server_config(signed: &Signed) -> Result<Arc<ServerConfig>> {
    let chain = vec![CertificateDer::from_pem_slice(signed.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes())?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn webhook(name: &str, url: &str, ca: &str, rules: &Value) -> Value {
    json!({"name": name, "clientConfig": {"url": url, "caBundle": STANDARD.encode(ca)}, "rules": rules,
        "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": TIMEOUT_SECONDS})
}
