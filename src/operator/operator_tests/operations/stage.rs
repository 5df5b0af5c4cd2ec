//! What the tests share: a cluster with the APIService, a sidecar that reports, people with roles, and calls past the API server.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use fusebox_api::names::CA_CONFIG_MAP;
use fusebox_policy::report::{BreakerReport, BreakerState, ProxyReport};
use fusebox_policy::stream::Up;
use fusebox_testkit::certificates::Signed;
use fusebox_testkit::pods::TestPod;
use fusebox_testkit::{Cluster, eventually};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::*;
use crate::cluster_tests::Stream;

/// The group's path.
pub(in crate::operator_tests) const API: &str = "/apis/ops.fusebox.dev/v1alpha1";

/// A cluster in which the operations API is installed, with one operator behind it.
pub(in crate::operator_tests) struct Stage {
    pub(in crate::operator_tests) operator: Running,
    pub(in crate::operator_tests) authority: String,
    pub(in crate::operator_tests) cluster: Cluster,
}

/// What a direct call was answered.
#[derive(Debug)]
pub(in crate::operator_tests) struct Told {
    pub(in crate::operator_tests) code: u16,
    pub(in crate::operator_tests) headers: HeaderMap,
    pub(in crate::operator_tests) body: Value,
}

/// An address of this machine that other machines could reach.
pub(in crate::operator_tests) fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Nothing is sent: connecting only asks for the route.
    socket.connect("203.0.113.1:9").context("this machine has no address but loopback")?;
    Ok(socket.local_addr()?.ip())
}

impl Stage {
    pub(in crate::operator_tests) async fn new() -> Result<Self> {
        let cluster = cluster().await?;
        let roles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/rbac/roles.yaml");
        cluster.apply(&std::fs::read_to_string(roles)?).await?;
        let operator = replica(&cluster, "first").await?;
        operator.leads().await?;
        let authority = authority(&cluster).await?;
        install(&cluster, operator.operations).await?;
        Ok(Self { operator, authority, cluster })
    }

    /// kubectl as this user.
    pub(in crate::operator_tests) async fn kubectl(
        &self,
        user: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<Output> {
        let kubeconfig = self.kubeconfig(user)?;
        let kubeconfig = kubeconfig.to_str().context("the path is text")?;
        self.cluster.kubectl_with_input(&[&["--kubeconfig", kubeconfig], arguments].concat(), input).await
    }

    /// What kubectl prints as this user, which must succeed.
    pub(in crate::operator_tests) async fn prints(&self, user: &str, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(user, arguments, "").await?;
        ensure!(output.status.success(), "{user} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Why kubectl fails as this user.
    pub(in crate::operator_tests) async fn fails(&self, user: &str, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.kubectl(user, arguments, input).await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(!output.status.success(), "{user} {arguments:?} succeeded: {out}");
        Ok(err.into_owned())
    }

    pub(in crate::operator_tests) fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        self.cluster.kubeconfig_for_user(user, None)
    }

    /// Gives a user one of Kubernetes' own roles in a namespace, once Fusebox's roles have become part of it.
    pub(in crate::operator_tests) async fn bind(&self, user: &str, role: &str, namespace: &str) -> Result<()> {
        eventually(SOON, "the role holds Fusebox's rights", async || {
            let rules = self.cluster.kubectl_ok(&["get", "clusterrole", role, "-o", "json"]).await?;
            ensure!(rules.contains("circuitbreakerstates"), "not aggregated yet");
            ensure!(role == "view" || rules.contains("circuitbreakerstates/override"), "not aggregated yet");
            Ok(())
        })
        .await?;
        let name = format!("{user}-{role}");
        let (role, user) = (format!("--clusterrole={role}"), format!("--user={user}"));
        self.cluster.kubectl_ok(&["create", "rolebinding", &name, &role, &user, "-n", namespace]).await.map(drop)
    }
}

/// Calls an operator past the API server, as its front proxy would.
pub(in crate::operator_tests) async fn as_front_proxy(
    (cluster, authority): (&Cluster, &str),
    address: SocketAddr,
    method: Method,
    path: &str,
) -> Result<Told> {
    let headers = [("x-remote-user", "system:admin"), ("x-remote-group", "system:masters")];
    call(address, authority, Some(&front_proxy(cluster)?), request(method, path, &headers, Bytes::new())?).await
}

/// An operator whose operations port has an address that an endpoint may have.
pub(in crate::operator_tests) async fn replica(cluster: &Cluster, identity: &str) -> Result<Running> {
    let listen = SocketAddr::new(own_address()?, 0).to_string();
    let times = ["--lease-duration", "3s", "--renew-interval", "500ms", "--renew-deadline", "2s"];
    Running::start(cluster, identity, &[&times[..], &["--ops-listen", &listen]].concat()).await
}

pub(in crate::operator_tests) async fn authority(cluster: &Cluster) -> Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await?, NAMESPACE);
    eventually(SOON, "the authority is published", async || {
        maps.get(CA_CONFIG_MAP).await?.data.unwrap_or_default().remove("ca.crt").context("no ca.crt")
    })
    .await
}

/// Service, EndpointSlice and APIService, and waits until the API server reaches the operator; the leader writes the
/// certificates into the APIService by itself.
async fn install(cluster: &Cluster, address: SocketAddr) -> Result<()> {
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "fusebox-operator", "namespace": NAMESPACE },
          "spec": { "ports": [{ "name": "ops", "port": 9445, "targetPort": 9445 }] } },
        { "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
          "metadata": { "name": "fusebox-operator", "namespace": NAMESPACE,
                        "labels": { "kubernetes.io/service-name": "fusebox-operator" } },
          "addressType": "IPv4", "ports": [{ "name": "ops", "port": address.port(), "protocol": "TCP" }],
          "endpoints": [{ "addresses": [address.ip().to_string()], "conditions": { "ready": true } }] },
        { "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
          "metadata": { "name": "v1alpha1.ops.fusebox.dev" },
          "spec": { "group": "ops.fusebox.dev", "version": "v1alpha1", "groupPriorityMinimum": 1000, "versionPriority": 10,
                    "service": { "name": "fusebox-operator", "namespace": NAMESPACE, "port": 9445 } } },
    ]});
    cluster.apply(&objects.to_string()).await?;
    is_available(cluster, "True").await
}

async fn is_available(cluster: &Cluster, expected: &str) -> Result<()> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Available\")]}";
    eventually(SOON, "the APIService's availability", async || {
        let condition = cluster.kubectl_ok(&["get", "apiservice", "v1alpha1.ops.fusebox.dev", "-o", path]).await?;
        ensure!(condition.contains(&format!("\"status\":\"{expected}\"")), "{condition}");
        Ok(())
    })
    .await
}

/// A sidecar that is connected, enforces what it is told and reports its breakers as open.
pub(in crate::operator_tests) async fn open_sidecar(
    address: SocketAddr,
    authority: &str,
    pod: &TestPod,
) -> Result<Stream> {
    let mut stream = eventually(SOON, "the operator takes the stream", async || {
        Stream::to(address, authority, &pod.control_token().await?).await
    })
    .await?;
    stream.send(&Up::Hello { version: "9.9.9".into(), revision: None, policies: vec![] }).await?;
    eventually_configured(&mut stream).await?;
    Ok(stream)
}

/// Acknowledges configurations until one has a breaker, and reports that one.
async fn eventually_configured(stream: &mut Stream) -> Result<()> {
    loop {
        let (revision, config) = stream.configuration().await?;
        let policies = config.policies.clone();
        stream.send(&Up::Ack { revision, policies }).await?;
        let breakers = config.outbound.iter().filter_map(|route| Some((route.port, route.circuit_breaker.as_ref()?)));
        let reports: Vec<BreakerReport> =
            breakers.flat_map(|(port, it)| it.rules.iter().map(move |rule| report(it.key(port, rule)))).collect();
        if !reports.is_empty() {
            return stream
                .send(&Up::Report(ProxyReport { full: true, breakers: reports, ..ProxyReport::default() }))
                .await;
        }
    }
}

fn report(key: fusebox_policy::config::BreakerKey) -> BreakerReport {
    BreakerReport {
        key,
        state: BreakerState::Open,
        forced: None,
        mode: fusebox_policy::config::Mode::Enforce,
        since_unix_ms: 1_772_366_400_000,
        failure_percent: Some(87.5),
        slow_percent: None,
        trips: 3,
        last_trip_unix_ms: Some(1_772_366_400_000),
        rejected: 42,
        reason: "ConsecutiveFailures".into(),
        next_probe_unix_ms: Some(4_102_444_800_000),
    }
}

/// The API server's own certificate for calls to extension servers.
pub(in crate::operator_tests) fn front_proxy(cluster: &Cluster) -> Result<Signed> {
    let read = |name: &str| std::fs::read_to_string(cluster.folder().join("certificates").join(name));
    Ok(Signed { certificate: read("front-proxy.crt")?, key: read("front-proxy.key")? })
}

pub(in crate::operator_tests) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "fusebox-operator");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(Full::new(body))?)
}

/// One call of the operations port.
pub(in crate::operator_tests) async fn call(
    address: SocketAddr,
    authority: &str,
    shown: Option<&Signed>,
    request: Request<Full<Bytes>>,
) -> Result<Told> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some(signed) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(signed.certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(signed.key.as_bytes())?,
        )?,
    };
    let name = ServerName::try_from(format!("fusebox-operator.{NAMESPACE}.svc"))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = requests.send_request(request).await?;
    let (head, body) = response.into_parts();
    let body = serde_json::from_slice(&body.collect().await?.to_bytes())?;
    Ok(Told { code: head.status.as_u16(), headers: head.headers, body })
}
