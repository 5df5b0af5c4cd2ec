//! What a tenant may try against another namespace, on real parts: each way fails, and says why where it is a policy.
//!
//! `docs/isolation.md` lists the ways, and the tests that hold the others.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::fleet::PATIENCE;
use fusebox_e2e::{Fleet, OperatorOptions, Shop, Sidecar};
use fusebox_testkit::pods::{PodBuilder, SIDECAR_LABEL, TestPod};
use fusebox_testkit::{Workload, eventually};
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::AuthInfo;
use kube::{Api, Client};

/// A namespace whose owner wants another's traffic refused.
struct Tenant {
    namespace: String,
}

impl Tenant {
    async fn new(fleet: &Fleet) -> Result<Self> {
        Ok(Self { namespace: fleet.cluster.unique_namespace("evil").await? })
    }

    async fn pod(&self, fleet: &Fleet) -> Result<TestPod> {
        let workload = Workload::Deployment("web".into());
        PodBuilder::of(&self.namespace, workload).with_sidecar().create(&fleet.client).await
    }

    /// A policy of the tenant's that forces every breaker open, wherever it reaches.
    async fn force_open(&self, fleet: &Fleet, name: &str, (target, spec): (&str, &str)) -> Result<()> {
        let until = jiff::Timestamp::now() + Duration::from_secs(3_600);
        let policy = format!(
            "{{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, \
             metadata: {{name: {name}, namespace: {}}}, spec: {{targetRefs: [{{{target}}}], {spec}, \
             override: {{state: ForcedOpen, until: \"{until:.0}\", reason: mine}}}}}}",
            self.namespace
        );
        fleet.cluster.apply(&policy).await.map(drop)
    }

    /// Waits until the tenant's policy is judged so.
    async fn judged(&self, fleet: &Fleet, name: &str, wanted: (&str, &str)) -> Result<()> {
        let policies: Api<fusebox_api::CircuitBreakerPolicy> = Api::namespaced(fleet.client.clone(), &self.namespace);
        eventually(PATIENCE, &format!("cb/{name} is Accepted={wanted:?}"), async || {
            let status = policies.get(name).await?.status.context("no status")?;
            let found = status.conditions.iter().find(|it| it.type_ == "Accepted").context("no condition")?;
            ensure!((found.status.as_str(), found.reason.as_str()) == wanted, "{found:?}");
            Ok(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn borrowed_endpoints_aliases_and_foreign_targets_steer_their_own_callers_alone() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let (shop, tenant) = (Shop::open(&fleet).await?, Tenant::new(&fleet).await?);
    let (server, caller) = (shop.server(&fleet).await?, shop.caller_with_sidecar(&fleet).await?);
    borrow(&fleet, &tenant, (&shop, &server.pod)).await?;

    let foreign = format!("name: payments, namespace: {}", shop.namespace);
    let (no, yes) = (|reason| ("False", reason), ("True", "Accepted"));
    for (name, target, spec, verdict) in [
        ("borrowed-server", "name: borrowed", "side: Server", no("NoSelector")),
        ("borrowed-endpoints", "name: borrowed", "scope: Endpoint", no("NoSelector")),
        ("borrowed-client", "name: borrowed", "side: Client", yes),
        ("alias-server", "name: alias", "side: Server", no("NoSelector")),
        ("alias-client", "name: alias", "side: Client", yes),
        ("foreign-server", foreign.as_str(), "side: Server", no("CrossNamespaceServer")),
        ("foreign-client", foreign.as_str(), "side: Client", yes),
    ] {
        tenant.force_open(&fleet, name, (target, spec)).await?;
        tenant.judged(&fleet, name, verdict).await?;
    }

    let own = Sidecar::start(&fleet, tenant.pod(&fleet).await?, &shop.sidecar_options()).await?;
    own.enforces("foreign-client").await?;
    let refused = own.get("/").await?;
    assert_eq!(refused.header("fusebox-error"), "circuit-open", "the tenant's own callers obey it");

    // The policies are in force by now, so whatever they could reach they have reached.
    for (whose, sidecar) in [("server", &server), ("caller", &caller)] {
        let state = sidecar.state().await?.to_string();
        assert!(!state.contains(&tenant.namespace), "the {whose}'s proxy has the tenant's policy: {state}");
    }
    assert_eq!(caller.get("/").await?.status, 200);
    assert_eq!(server.get_inbound("/").await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_token_speaks_for_its_own_pod_alone_and_ends_with_it() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let (shop, tenant) = (Shop::open(&fleet).await?, Tenant::new(&fleet).await?);
    shop.apply_policy(&fleet, "payments", "trip: {consecutiveFailures: 1}, open: {baseDuration: 5m}").await?;
    let pod = shop.caller(&fleet).await?;
    let token = pod.control_token().await?;
    let error = api_as(&fleet, &token).await?.list(&ListParams::default()).await.err().context("it was taken")?;
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 401), "the API server says {error:?}");

    // Whoever holds the token is that pod to the operator, from anywhere: it gets the pod's configuration, and reports for it.
    let thief = Sidecar::start(&fleet, pod, &shop.sidecar_options()).await?;
    thief.enforces("payments").await?;
    shop.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    thief.get("/").await?;
    shop.shows(&fleet, "payments", (".status.state", "Open")).await?;

    // A token of the tenant's own pod brings the tenant's own configuration, and its words on the shop's policy count for nothing.
    let own = Sidecar::start(&fleet, tenant.pod(&fleet).await?, &shop.sidecar_options()).await?;
    tenant
        .force_open(&fleet, "mine", (&format!("name: payments, namespace: {}", shop.namespace), "side: Client"))
        .await?;
    own.enforces("mine").await?;
    assert!(
        !own.state()
            .await?
            .to_string()
            .contains(&format!("\"namespace\":\"{}\",\"name\":\"payments\",\"uid\"", shop.namespace))
    );
    shop.shows(&fleet, "payments", (".status.summary.open", "1/1")).await?;

    thief.pod.delete().await?;
    shop.shows(&fleet, "payments", (".status.state", "Unknown")).await?;
    shop.shows(&fleet, "payments", (".status.summary.open", "0/0")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_without_the_container_makes_no_sidecar() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let forged = PodBuilder::bare(&shop.namespace, "forged").label(SIDECAR_LABEL.0, SIDECAR_LABEL.1);
    let forged = Sidecar::start(&fleet, forged.create(&fleet.client).await?, &shop.sidecar_options()).await?;
    let web = shop.caller_with_sidecar(&fleet).await?;
    shop.apply_policy(&fleet, "payments", "").await?;
    web.enforces("payments").await?;
    shop.condition(&fleet, "payments", ("Programmed", "True", "Programmed")).await?;
    shop.shows(&fleet, "payments", (".status.summary.open", "0/1")).await?;
    let state = forged.state().await?.to_string();
    assert!(!state.contains("\"payments\",\"uid\"") && !state.contains("\"generation\""), "{state}");
    Ok(())
}

/// A Service without selector whose endpoints are another namespace's pod, under the controller's name, and an alias.
async fn borrow(fleet: &Fleet, tenant: &Tenant, (shop, pod): (&Shop, &TestPod)) -> Result<()> {
    let (own, theirs, ip) = (&tenant.namespace, &shop.namespace, pod.ip());
    for object in [
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: borrowed, namespace: {own}}}, \
             spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}"
        ),
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: borrowed-1, namespace: {own}, labels: \
             {{kubernetes.io/service-name: borrowed, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}}}, \
             addressType: IPv4, ports: [{{name: http, port: 8080, protocol: TCP}}], endpoints: [{{addresses: [{ip}]}}]}}"
        ),
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: alias, namespace: {own}}}, spec: {{type: ExternalName, \
             externalName: payments.{theirs}.svc.cluster.local, ports: [{{name: http, port: 80}}]}}}}"
        ),
    ] {
        fleet.cluster.apply(&object).await?;
    }
    Ok(())
}

/// The API server, as whoever holds this token.
async fn api_as(fleet: &Fleet, token: &str) -> Result<Api<Pod>> {
    let mut config = fleet.cluster.config().await?;
    config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
    Ok(Api::default_namespaced(Client::try_from(config)?))
}
