//! Certificates on a real API server: rotated under load, restarted in the middle, tampered with, and kept by others.
//!
//! A follower stands for the other replicas: it reads the Secret, serves with what it holds, and is called all the time,
//! by the API server as a webhook and by clients that know no more than the published ConfigMap.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::Json;
use axum::routing::post;
use fusebox_testkit::certificates::Authority;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::certificates::{Bundle, Certificates, Names, Purpose, SECRET, Schedule, Tls, TlsSource, Trust};
use crate::lease::{Leadership, Timing};

/// An authority for 42 s, leaves for 8 s, known everywhere after 3 s.
const SHORT: [&str; 6] = ["--ca-validity", "42s", "--certificate-validity", "8s", "--ca-propagation", "3s"];
const QUICK_LEASE: [&str; 6] = ["--lease-duration", "3s", "--renew-interval", "500ms", "--renew-deadline", "2s"];
const ROTATED: Duration = Duration::from_secs(150);

/// What callers met.
#[derive(Default)]
struct Tally {
    calls: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn take(&self, outcome: Result<()>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = outcome {
            self.failures.lock().push(format!("{:?}: {error:#}", Instant::now()));
        }
    }
}

async fn follower(client: Client, schedule: Schedule, leadership: Leadership) -> Result<(Tls, Trust, DropGuard)> {
    let stop = CancellationToken::new();
    let trust = Trust::new(SOON);
    let certificates = Certificates {
        client,
        namespace: NAMESPACE.to_owned(),
        leadership,
        schedule,
        names: Names::new(NAMESPACE, []),
        trust: trust.clone(),
        health: Health::starting([]),
        metrics: Metrics::new()?,
    };
    let (mut source, keeping): (TlsSource, _) = certificates.own(stop.clone());
    tokio::spawn(keeping);
    let tls = tokio::time::timeout(SOON, source.ready()).await?.context("no certificate")?;
    Ok((tls, trust, stop.drop_guard()))
}

/// Answers every admission review, with the certificate of the moment.
async fn webhook(tls: Tls) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = axum::Router::new().route(
        "/",
        post(|Json(review): Json<Value>| async move {
            let response = json!({"uid": review["request"]["uid"], "allowed": true});
            Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
        }),
    );
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(config) = tls.server_config(Purpose::Webhook) else { return };
            // A call a connection, so that each one meets the certificate of its moment.
            let mut config = (*config).clone();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let config = Arc::new(config);
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                let mut builder = hyper::server::conn::http1::Builder::new();
                let _ = builder.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}

/// The webhook configuration as a chart installs it, with no caBundle, for the ConfigMaps of `namespace`.
async fn install_webhook(cluster: &Cluster, url: &str, namespace: &str) -> Result<()> {
    let yaml = format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {{name: fusebox}}\n\
         webhooks:\n- name: configmaps.fusebox.dev\n  admissionReviewVersions: [v1]\n  sideEffects: None\n  failurePolicy: Fail\n  \
         timeoutSeconds: 5\n  clientConfig: {{url: '{url}'}}\n  \
         namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}\n  \
         rules: [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}}]\n"
    );
    cluster.apply(&yaml).await.map(drop)
}

async fn handshake(address: SocketAddr, bundle: &Bundle) -> Result<()> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(bundle.roots()?)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(format!("fusebox-operator.{NAMESPACE}.svc"))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(())
}

async fn published(client: &Client, namespace: &str) -> Result<Bundle> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get("fusebox-ca").await?.data.context("no data")?;
    Ok(Bundle::new("the ConfigMap", map.get("ca.crt").map(String::as_str))?)
}

/// The Secret's authority that signs, and what it says of the rotation.
async fn stored(client: &Client) -> Result<(String, Value)> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let data = secrets.get(SECRET).await?.data.context("no data")?;
    let text = |key: &str| data.get(key).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
    let rotation = text("rotation.json").map(|text| serde_json::from_str(&text)).transpose()?;
    Ok((text("ca.crt").context("no ca.crt")?, rotation.unwrap_or_default()))
}

/// A word for where a rotation is.
fn phase(rotation: &Value) -> &'static str {
    match (&rotation["next"], &rotation["previous"]) {
        (Value::Null, Value::Null) => "one authority",
        (Value::Null, _) => "the one before is still trusted",
        (next, _) if next["publishedAt"].is_null() => "the next is announced",
        _ => "the next is published",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_rotations_under_load_fail_no_call_although_the_operator_restarts_in_each_phase() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace) = (cluster.client().await?, cluster.unique_namespace("load").await?);
    let flags: Vec<&str> = SHORT.iter().chain(&QUICK_LEASE).copied().collect();
    let mut operator = Some(Running::start(&cluster, "first", &flags).await?);
    let [validity, leaf, propagation] = [42, 8, 3].map(Duration::from_secs);
    let schedule = Schedule::new(validity, leaf, propagation)?;
    let (tls, _, _follows) = follower(client.clone(), schedule, Leadership::new(&Timing::default())).await?;
    let address = webhook(tls).await?;
    install_webhook(&cluster, &format!("https://{address}/"), &namespace).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let admitted = async |maps: &Api<ConfigMap>| {
        let object = ConfigMap {
            metadata: ObjectMeta { generate_name: Some("load-".into()), ..ObjectMeta::default() },
            ..ConfigMap::default()
        };
        let params = PostParams { dry_run: true, ..PostParams::default() };
        Ok(maps.create(&params, &object).await.map(drop)?)
    };
    eventually(SOON, "the first admission", async || admitted(&maps).await).await?;
    let first = eventually(SOON, "the first ConfigMap", async || published(&client, NAMESPACE).await).await?;

    let (admissions, handshakes) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let (tally, ended) = (Arc::clone(&admissions), stop.clone());
    tokio::spawn(async move {
        while !ended.is_cancelled() {
            tally.take(admitted(&maps).await);
        }
    });
    let (tally, ended, reader) = (Arc::clone(&handshakes), stop.clone(), client.clone());
    tokio::spawn(async move {
        // The file in a pod is always some time behind the ConfigMap.
        let (mut file, mut read_at) = (first, Instant::now());
        while !ended.is_cancelled() {
            if read_at.elapsed() > Duration::from_secs(2)
                && let Ok(bundle) = published(&reader, NAMESPACE).await
            {
                (file, read_at) = (bundle, Instant::now());
            }
            tally.take(handshake(address, &file).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });

    let (mut signers, mut restarted) = (BTreeSet::new(), BTreeSet::new());
    eventually(ROTATED, "it rotated twice, and restarted in each phase", async || {
        let (signer, rotation) = stored(&client).await?;
        signers.insert(signer);
        let phase = phase(&rotation);
        // The first rotation is left alone.
        if signers.len() > 1 && restarted.insert(phase) {
            if let Some(running) = operator.take() {
                running.stop().await?;
            }
            operator = Some(Running::start(&cluster, "again", &flags).await?);
        }
        ensure!(signers.len() > 2 && restarted.len() == 4, "{} signers, {restarted:?}", signers.len());
        Ok(())
    })
    .await?;
    stop.cancel();
    for (what, tally) in [("admissions", admissions), ("handshakes", handshakes)] {
        let calls = tally.calls.load(Ordering::Relaxed);
        println!("{what}: {calls} calls, {} failed", tally.failures.lock().len());
        assert!(calls > 100 && tally.failures.lock().is_empty(), "{what}: {calls}, {:?}", tally.failures.lock());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_that_race_end_with_the_same_authorities() -> Result<()> {
    let cluster = cluster().await?;
    let client = cluster.client().await?;
    let schedule = Schedule::new(Duration::from_secs(12), Duration::from_secs(2), Duration::from_secs(1))?;
    let leads = || Leadership::held(&Timing::default(), Instant::now() + ROTATED);
    let (one, other) =
        tokio::try_join!(follower(client.clone(), schedule, leads()), follower(client.clone(), schedule, leads()),)?;
    let mut signers = BTreeSet::new();
    eventually(ROTATED, "both rotate as one", async || {
        // Everybody is told at once.
        for (_, trust, _) in [&one, &other] {
            trust.note_published(trust.known());
        }
        let (signer, _) = stored(&client).await?;
        signers.insert(signer);
        ensure!(signers.len() > 2, "{} signers", signers.len());
        Ok(())
    })
    .await?;
    eventually(SOON, "both hold what is stored", async || {
        let (signer, _) = stored(&client).await?;
        let bundles = [one.0.bundle(), other.0.bundle()];
        ensure!(bundles[0] == bundles[1] && bundles[0].pem().contains(signer.trim()), "they differ");
        Ok(())
    })
    .await
}

fn api_service(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apiregistration.k8s.io", "v1", "APIService");
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "apiservices"))
}

fn webhooks(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration");
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, "validatingwebhookconfigurations"))
}

async fn install_api_service(cluster: &Cluster) -> Result<()> {
    let yaml = "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1alpha1.ops.fusebox.dev}\n\
                spec: {group: ops.fusebox.dev, version: v1alpha1, groupPriorityMinimum: 1000, versionPriority: 15, \
                service: {namespace: fusebox-system, name: fusebox-operator, port: 9445}}\n";
    cluster.apply(yaml).await.map(drop)
}

/// Waits until the ConfigMaps and both caBundles hold what the Secret says.
async fn all_hold(client: &Client, namespaces: &[&str]) -> Result<()> {
    eventually(SOON * 2, "everything holds the bundle", async || {
        let (signer, _) = stored(client).await?;
        let bundle = Bundle::new("the Secret", [signer.as_str()])?;
        for namespace in namespaces {
            ensure!(published(client, namespace).await? == bundle, "the ConfigMap of {namespace} differs");
        }
        let service = api_service(client).get("v1alpha1.ops.fusebox.dev").await?;
        ensure!(service.data["spec"]["caBundle"] == bundle.base64().as_str(), "the APIService differs");
        let webhook = webhooks(client).get("fusebox").await?;
        ensure!(webhook.data["webhooks"][0]["clientConfig"]["caBundle"] == bundle.base64().as_str(), "the webhook");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_tampered_with_is_put_back_and_what_nobody_needs_goes() -> Result<()> {
    let cluster = cluster().await?;
    let (client, shop) = (cluster.client().await?, cluster.unique_namespace("shop").await?);
    let label = |value: Value| json!({"metadata": {"labels": {"fusebox.dev/inject": value}}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let merge = PatchParams::default();
    namespaces.patch(&shop, &merge, &Patch::Merge(label("enabled".into()))).await?;
    install_webhook(&cluster, "https://127.0.0.1:1/", "nowhere").await?;
    install_api_service(&cluster).await?;
    let operator = Running::start(&cluster, "operator", &[]).await?;
    all_hold(&client, &[NAMESPACE, &shop]).await?;

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &shop);
    let forged = Authority::new("forged")?.certificate();
    maps.patch("fusebox-ca", &merge, &Patch::Merge(json!({"data": {"ca.crt": forged}}))).await?;
    let system: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    system.delete("fusebox-ca", &DeleteParams::default()).await?;
    let forged = Bundle::new("forged", [forged.as_str()])?.base64();
    let patch = json!({"spec": {"caBundle": forged}});
    api_service(&client).patch("v1alpha1.ops.fusebox.dev", &merge, &Patch::Merge(patch)).await?;
    let patch = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": forged}]);
    cluster
        .kubectl_ok(&["patch", "validatingwebhookconfiguration", "fusebox", "--type=json", "-p", &patch.to_string()])
        .await?;
    let begun = Instant::now();
    all_hold(&client, &[NAMESPACE, &shop]).await?;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    println!("put back after {:?}", begun.elapsed());

    namespaces.patch(&shop, &merge, &Patch::Merge(label(Value::Null))).await?;
    eventually(SOON, "the ConfigMap that nobody needs goes", async || {
        ensure!(maps.get_opt("fusebox-ca").await?.is_none(), "it is there");
        Ok(())
    })
    .await?;
    let text = operator.metrics.text()?;
    assert!(text.contains("fusebox_certificate_expiry_seconds{certificate=\"authority\"} 31535"), "{text}");
    let mark = cluster.audit_log().mark()?;
    fusebox_testkit::consistently(Duration::from_secs(12), "nothing is written that stands", async || {
        let writes: Vec<_> = cluster.audit_log().events_since(mark)?.into_iter().filter(is_write).collect();
        ensure!(writes.is_empty(), "{writes:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_somebody_else_keeps_are_published_to_sidecars_alone() -> Result<()> {
    let cluster = cluster().await?;
    let (client, folder) = (cluster.client().await?, tempfile::TempDir::new()?);
    let flags = ["--tls-dir", folder.path().to_str().context("no UTF-8")?];
    install_webhook(&cluster, "https://127.0.0.1:1/", "nowhere").await?;
    let refused = Running::start(&cluster, "empty", &flags).await?.task.await?;
    let said = format!("{:#}", refused.err().context("it ran without certificates")?);
    assert!(said.contains("--tls-dir can't be used") && said.contains("tls.crt can't be read"), "{said}");

    let authority = Authority::new("cert-manager")?;
    let signed = authority.server_and_client(&["fusebox-operator.fusebox-system.svc"])?;
    for (name, text) in
        [("ca.crt", &authority.certificate()), ("tls.crt", &signed.certificate), ("tls.key", &signed.key)]
    {
        std::fs::write(folder.path().join(name), text)?;
    }
    let bundle = Bundle::new("cert-manager", [authority.certificate().as_str()])?;
    let operator = Running::start(&cluster, "operator", &flags).await?;
    operator.leads().await?;
    eventually(SOON, "sidecars are told", async || {
        ensure!(published(&client, NAMESPACE).await? == bundle, "another");
        Ok(())
    })
    .await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    assert!(secrets.get_opt(SECRET).await?.is_none(), "no authority of our own is made");
    let webhook = webhooks(&client).get("fusebox").await?;
    assert_eq!(webhook.data["webhooks"][0]["clientConfig"]["caBundle"], Value::Null, "that is cert-manager's");
    Ok(())
}
