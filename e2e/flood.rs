//! `make flood`: millions of clients that come once each, and one that keeps to its quota.
//!
//! It must not look inside the proxy: what is told is what comes back, and what the kernel says of the proxy's memory. The good
//! client spends half of its quota before the flood and the rest during it: it must be refused nothing of it, and must be given
//! nothing twice.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fusebox_e2e::fleet::PATIENCE;
use fusebox_testkit::{FlakyUpstream, Port, Process, ProcessBuilder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How many parts, after each of which a line is printed, and how many keys come in one.
const DEFAULT_PARTS: u64 = 10;
const DEFAULT_KEYS: u64 = 1_000_000;
/// Connections of the flood, and requests in flight on each.
const CONNECTIONS: u64 = 8;
const IN_FLIGHT: u64 = 100;
/// Of the limit: a bucket that was spent from takes a minute to be full, so that the table has no place long before a million.
const BURST: u64 = 40;
const INTERVAL: Duration = Duration::from_secs(60);
const MAX_TRACKED_KEYS: u64 = 65_536;
/// What the table may take, and what the rest of the proxy may grow by from rest to full load.
const MAX_GROWTH_KIB: u64 = MAX_TRACKED_KEYS * 100 / 1024 + 16 * 1024;
const GOOD: &str = "a client that keeps to its quota";
/// The longest answer that is read.
const MAX_HEAD: usize = 16 * 1024;

/// A proxy with a limit for each API key.
struct Scene {
    proxy: Process,
    listener: Port,
    configuration: PathBuf,
}

/// Answers of a part of the flood.
#[derive(Default)]
struct Answers {
    passed: u64,
    refused: u64,
}

/// A connection that knows how much of what came is read.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    read: usize,
}

fn main() -> ExitCode {
    let arguments: Result<Vec<u64>, _> = std::env::args().skip(1).map(|word| word.parse()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime");
    let done = runtime.and_then(|runtime| {
        let arguments = arguments.context("the arguments are a number of parts, and of keys in each")?;
        let argument = |number: usize, other| arguments.get(number).copied().unwrap_or(other).max(1);
        runtime.block_on(run(argument(0, DEFAULT_PARTS), argument(1, DEFAULT_KEYS)))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(parts: u64, keys: u64) -> Result<()> {
    let upstream = FlakyUpstream::start().await?;
    let scene = Scene::start(upstream.address()).await?;
    let mut good = Connection::to(scene.listener.address()).await?;
    let (before, each) = (BURST / 2, (BURST / 2 / parts).max(1));
    let begun = Instant::now();
    for _ in 0..before {
        ensure!(good.ask(GOOD).await? == 200, "the good client was refused before the flood");
    }
    let at_rest = scene.resident_kib()?;
    println!("| keys | passed | refused | the good client | RSS, KiB | keys a second |\n|---|---|---|---|---|---|");
    println!("| 0 | | | {before} passed | {at_rest} | |");
    let mut sent = before;
    for number in 1..=parts {
        let part = Instant::now();
        let (came, answers) = (number * keys, flood(&scene, (number - 1) * keys, keys).await?);
        for _ in 0..each.min(BURST.saturating_sub(sent)) {
            let status = good.ask(GOOD).await?;
            ensure!(status == 200, "after {came} keys the good client was answered {status}");
            sent += 1;
        }
        let (memory, Answers { passed, refused }) = (scene.resident_kib()?, answers);
        let pace = keys / part.elapsed().as_secs().max(1);
        println!("| {came} | {passed} | {refused} | {sent} passed | {memory} | {pace} |");
        ensure!(memory <= at_rest + MAX_GROWTH_KIB, "memory grew by {} KiB", memory - at_rest);
    }
    spend_the_rest(&mut good, sent, begun).await
}

/// What is left of the good client's quota passes, and then it is refused: nothing was forgotten, and nothing handed out twice.
async fn spend_the_rest(good: &mut Connection, mut sent: u64, begun: Instant) -> Result<()> {
    while good.ask(GOOD).await? == 200 {
        sent += 1;
        ensure!(sent < 1_000, "the good client is never refused");
    }
    let most = BURST + begun.elapsed().as_secs() / INTERVAL.as_secs() + 1;
    ensure!(sent >= BURST, "the good client had {sent} of {BURST}");
    ensure!(sent <= most, "the good client had {sent}, more than {most}");
    println!("\nThe good client had {sent} of {BURST} and what was refilled, then it was refused.");
    Ok(())
}

/// So many keys that come once each, from `first` on.
async fn flood(scene: &Scene, first: u64, keys: u64) -> Result<Answers> {
    let each = keys / CONNECTIONS;
    let part = |connection| flood_one(scene.listener.address(), first + connection * each, each);
    let parts = futures::future::try_join_all((0..CONNECTIONS).map(part)).await?;
    Ok(parts.into_iter().fold(Answers::default(), |sum, part| Answers {
        passed: sum.passed + part.passed,
        refused: sum.refused + part.refused,
    }))
}

async fn flood_one(address: SocketAddr, first: u64, keys: u64) -> Result<Answers> {
    let mut connection = Connection::to(address).await?;
    let mut answers = Answers::default();
    let mut requests = String::new();
    for batch in 0..keys / IN_FLIGHT {
        requests.clear();
        for number in 0..IN_FLIGHT {
            write!(requests, "{}", request(&format!("flood-{:016}", first + batch * IN_FLIGHT + number)))?;
        }
        connection.stream.write_all(requests.as_bytes()).await?;
        for _ in 0..IN_FLIGHT {
            match connection.status().await? {
                200 => answers.passed += 1,
                429 => answers.refused += 1,
                other => bail!("a request of the flood was answered {other}"),
            }
        }
    }
    Ok(answers)
}

fn request(key: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: payments.shop\r\nx-api-key: {key}\r\n\r\n")
}

impl Scene {
    async fn start(upstream: SocketAddr) -> Result<Self> {
        let (listener, admin) = (Port::reserve()?, Port::reserve()?);
        let configuration = std::env::temp_dir().join(format!("fusebox-flood-{}.yaml", std::process::id()));
        std::fs::write(&configuration, configured(upstream)).context("cannot write the configuration")?;
        let mut proxy = ProcessBuilder::binary("fusebox-proxy")?
            .arg(format!("--outbound={}=shop/payments:80", listener.address()))
            .arg(format!("--admin={}", admin.address()))
            .arg("--config")
            .arg(&configuration)
            .start()?;
        proxy.wait_for_http(admin.address(), "/health/ready", PATIENCE).await?;
        Ok(Self { proxy, listener, configuration })
    }

    fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.proxy.pid())).context("it has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What is left behind is a small file in the folder for such files.
        let _ = std::fs::remove_file(&self.configuration);
    }
}

impl Connection {
    async fn to(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("the proxy does not listen")?;
        Ok(Self { stream, buffer: Vec::new(), read: 0 })
    }

    async fn ask(&mut self, key: &str) -> Result<u16> {
        self.stream.write_all(request(key).as_bytes()).await?;
        self.status().await
    }

    /// The status of the next answer, whose body is passed over.
    async fn status(&mut self) -> Result<u16> {
        let head = loop {
            let unread = &self.buffer[self.read..];
            if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break self.read + end + 4;
            }
            ensure!(unread.len() < MAX_HEAD, "the head of an answer has no end");
            self.more().await?;
        };
        let text = String::from_utf8_lossy(&self.buffer[self.read..head]).to_ascii_lowercase();
        let status = text.get(9..12).and_then(|status| status.parse().ok()).context("an answer without a status")?;
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("an answer without a length")?.trim().parse()?;
        while self.buffer.len() < head + length {
            self.more().await?;
        }
        self.read = head + length;
        if self.read == self.buffer.len() {
            self.buffer.clear();
            self.read = 0;
        }
        Ok(status)
    }

    async fn more(&mut self) -> Result<()> {
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the proxy closed the connection");
        Ok(())
    }
}

fn configured(upstream: SocketAddr) -> String {
    let interval = INTERVAL.as_millis();
    format!(
        "format: 1
workload: {{ namespace: shop, kind: Deployment, name: cart }}
policies:
  - {{ kind: RateLimit, namespace: shop, name: each-key, generation: 1 }}
outbound:
  - service: {{ namespace: shop, name: payments }}
    port: 80
    addresses: [\"{upstream}\"]
    rateLimit:
      policy: {{ namespace: shop, name: each-key }}
      target: {{ kind: Service, namespace: shop, name: payments }}
      side: Client
      limits:
        - name: each-key
          key: [!header x-api-key]
          rules: [{{ rate: {{ requests: 1, perMs: {interval}, burst: {BURST} }} }}]
      maxTrackedKeys: {MAX_TRACKED_KEYS}
"
    )
}
