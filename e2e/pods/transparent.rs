//! With transparent interception the upstream's connection is the sidecar's own.

use anyhow::{Context as _, Result, ensure};
use fusebox_api::names::SIDECAR_UID;
use fusebox_testkit::eventually;

use fusebox_e2e::stage::{PATIENCE, Sidecars, Stage, on_stage};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn the_upstream_is_called_by_the_sidecar_and_not_by_the_application() -> Result<()> {
    on_stage("transparent", Sidecars::Transparent, async |stage| {
        stage.payments((1, 1), "trip: {consecutiveFailures: 3}").await?;
        let [server, client] = [&stage.pod_names("payments").await?[0], &stage.pod_names("web").await?[0]];
        eventually(PATIENCE, "the upstream's peer is a socket of the sidecar's user", async || {
            ensure!(caller_of(stage, server, client).await? == SIDECAR_UID, "it is another user's");
            Ok(())
        })
        .await
    })
    .await
}

/// The user of the socket that the server saw in its last call, by the client pod's own list of sockets.
async fn caller_of(stage: &Stage, server: &str, client: &str) -> Result<i64> {
    // With a sidecar of its own before it nginx sees that one; what that one was called by is in the server pod's list.
    let sockets = stage.exec(server, "nginx", &["cat", "/proc/net/tcp", "/proc/net/tcp6"]).await?;
    let address = stage.pods("web").await?.into_iter().find_map(|pod| pod.status?.pod_ip).context("no address yet")?;
    let port = sockets.lines().filter_map(Socket::parse).find(|socket| socket.remote_address == address);
    let port = port.context("the server has no connection from the client's pod")?.remote_port;
    let sockets = stage.exec(client, "curl", &["cat", "/proc/net/tcp", "/proc/net/tcp6"]).await?;
    let socket = sockets.lines().filter_map(Socket::parse).find(|socket| socket.local_port == port);
    Ok(socket.context("the connection has ended meanwhile")?.user)
}

/// An established connection in /proc/net/tcp.
struct Socket {
    local_port: u16,
    remote_address: String,
    remote_port: u16,
    user: i64,
}

impl Socket {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, "01", _, _, _, user, ..] = fields[..] else { return None };
        let (_, local_port) = local.split_once(':')?;
        let (address, remote_port) = remote.split_once(':')?;
        // An IPv4 address in a socket of IPv6 is the last 8 digits; each word is written with its lowest byte first.
        let word = u32::from_str_radix(address.get(address.len().checked_sub(8)?..)?, 16).ok()?;
        Some(Self {
            local_port: u16::from_str_radix(local_port, 16).ok()?,
            remote_address: std::net::Ipv4Addr::from(word.swap_bytes()).to_string(),
            remote_port: u16::from_str_radix(remote_port, 16).ok()?,
            user: user.parse().ok()?,
        })
    }
}

#[test]
fn a_line_of_the_kernel_is_read_as_it_is_meant() {
    let line = "1: 0200F40A:9C40 0500F40A:1F90 01 00000000:00000000 00:00000000 00000000 15000 0 123 1 0 20 4 30 10 -1";
    let socket = Socket::parse(line).unwrap();
    assert_eq!((socket.local_port, socket.remote_port, socket.user), (40_000, 8080, 15_000));
    assert_eq!(socket.remote_address, "10.244.0.5");
    assert!(Socket::parse(&line.replace(" 01 ", " 06 ")).is_none(), "a connection that has ended has no user any more");
}
