//! One bad pod of three, with scope Endpoint: left out, shown, and back again.
//!
//! The real controller makes the EndpointSlices. It takes no loopback addresses, so the pods have this machine's own
//! address, with a door to an upstream on each pod's port; nothing leaves the machine.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::fleet::PATIENCE;
use fusebox_e2e::{Fleet, OperatorOptions, Shop, Sidecar, SidecarOptions};
use fusebox_testkit::pods::{PodBuilder, TestPod};
use fusebox_testkit::upstream::FlakyUpstream;
use fusebox_testkit::{Workload, eventually};
use http::StatusCode;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

const QUICK: &str = "scope: Endpoint, maxOpenEndpointsPercent: 50, trip: {consecutiveFailures: 3}, \
     open: {baseDuration: 5s, maxDuration: 5s, jitterPercent: 0}, halfOpen: {successThreshold: 1}";

/// One pod behind `payments`, and what answers there.
struct Backend {
    upstream: FlakyUpstream,
    pod: TestPod,
    address: SocketAddr,
    door: JoinHandle<()>,
}

impl Backend {
    async fn start(fleet: &Fleet, namespace: &str, ip: IpAddr) -> Result<Self> {
        let upstream = FlakyUpstream::start().await?;
        let listener = TcpListener::bind((ip, 0)).await?;
        let address = listener.local_addr()?;
        let door = tokio::spawn(door(listener, upstream.address()));
        let pod = PodBuilder::of(namespace, Workload::Deployment("payments".into()));
        let pod = pod.port("http", address.port()).ip(ip).create(&fleet.client).await?;
        Ok(Self { upstream, pod, address, door })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.door.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_pod_of_three_is_left_out_and_comes_back() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let (shop, backends) = scene(&fleet).await?;
    let [bad, good, third] = &backends;
    let options = SidecarOptions { destination: format!("{}/payments:80", shop.namespace), ..Default::default() };
    let web = Sidecar::start(&fleet, shop.caller(&fleet).await?, &options).await?;
    shop.apply_policy(&fleet, "payments", QUICK).await?;
    web.enforces("payments").await?;
    eventually(PATIENCE, "all three endpoints are called", async || {
        web.get("/").await?;
        ensure!(backends.iter().all(|backend| backend.upstream.requests() > 0), "not yet");
        Ok(())
    })
    .await?;

    bad.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    eventually(PATIENCE, "one endpoint of three is open, and the status says which", async || {
        for _ in 0..9 {
            web.get("/").await?;
        }
        shop.shows_now(&fleet, "payments", (".status.state", "PartiallyOpen")).await
    })
    .await?;
    let path = ".status.targets[0].endpoints.openAddresses[0]";
    shop.shows(&fleet, "payments", (path, &bad.address.to_string())).await?;
    shop.shows(&fleet, "payments", (".status.summary.open", "1/3 endpoints")).await?;
    shop.condition(&fleet, "payments", ("Tripped", "True", "PartiallyOpen")).await?;
    shop.condition(&fleet, "payments", ("Ready", "True", "Ready")).await?;

    let (before, others) = (bad.upstream.requests(), good.upstream.requests() + third.upstream.requests());
    for _ in 0..20 {
        web.get("/").await?;
    }
    let others = good.upstream.requests() + third.upstream.requests() - others;
    assert!(others >= 19, "only {others} of 20 requests went to the good ones");
    assert!(bad.upstream.requests() - before <= 1, "only a probe may be let to the bad one");

    bad.upstream.set_status(StatusCode::OK);
    let before = bad.upstream.requests();
    eventually(PATIENCE, "the endpoint is probed, and called like the others again", async || {
        ensure!(web.get("/").await?.status == StatusCode::OK, "refused");
        ensure!(bad.upstream.requests() >= before + 5, "left out still");
        shop.shows_now(&fleet, "payments", (".status.state", "Closed")).await
    })
    .await?;
    shop.condition(&fleet, "payments", ("Tripped", "False", "NotTripped")).await?;

    third.pod.delete().await?;
    eventually(PATIENCE, "the pod that went is no endpoint any more", async || {
        ensure!(!web.state().await?.to_string().contains(&third.address.to_string()), "it is one still");
        Ok(())
    })
    .await
}

/// Service `payments` with three pods.
async fn scene(fleet: &Fleet) -> Result<(Shop, [Backend; 3])> {
    let namespace = fleet.cluster.unique_namespace("shop").await?;
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: payments, namespace: {namespace}}}, \
         spec: {{selector: {{app: payments}}, ports: [{{name: http, port: 80, targetPort: http}}]}}}}"
    );
    fleet.cluster.apply(&service).await?;
    let ip = own_address().await?;
    let mut backends = Vec::new();
    for _ in 0..3 {
        backends.push(Backend::start(fleet, &namespace, ip).await?);
    }
    let backends = backends.try_into().map_err(|_| anyhow::anyhow!("another number of backends"))?;
    Ok((Shop { namespace, upstream: FlakyUpstream::start().await? }, backends))
}

/// This machine's own address. Connecting a datagram socket looks the route up and sends nothing.
async fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    socket.connect(("198.51.100.1", 9)).await.context("this machine has no address but loopback")?;
    Ok(socket.local_addr()?.ip())
}

/// Carries every connection to the upstream behind.
async fn door(listener: TcpListener, upstream: SocketAddr) {
    while let Ok((mut outside, _)) = listener.accept().await {
        tokio::spawn(async move {
            if let Ok(mut inside) = TcpStream::connect(upstream).await {
                // How a connection ends is its two ends' matter.
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
    }
}
