//! `make demo`: a breaker from `kubectl apply` to Open and back, and a client that is limited and let go, on a real API server,
//! with real proxies.
//!
//! Owns the story it tells, nothing else: every line it prints comes from kubectl, from the proxies' answers or from a
//! clock. It must not need anything installed, and it leaves nothing behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fusebox_e2e::fleet::{PATIENCE, repository};
use fusebox_e2e::{Fleet, OperatorOptions, Shop, Sidecar};
use fusebox_testkit::eventually;
use fusebox_testkit::load::Load;
use futures::future::try_join_all;
use http::StatusCode;

const PROXIES: usize = 3;
const TRAFFIC: (u32, Duration) = (200, Duration::from_secs(2));

#[tokio::main]
async fn main() -> Result<()> {
    let begun = Instant::now();
    let story = Story::begin(begun).await?;
    story.protect().await?;
    story.break_it().await?;
    story.mend_it().await?;
    story.force_it().await?;
    story.limit_it().await?;
    drop(story);
    say("Everything is stopped and removed again.");
    Ok(())
}

/// What the demo is about: a fleet, a shop in it, and callers.
struct Story {
    callers: Vec<Sidecar>,
    shop: Shop,
    fleet: Fleet,
    begun: Instant,
}

impl Story {
    async fn begin(begun: Instant) -> Result<Self> {
        say("Starting a real etcd, kube-apiserver and kube-controller-manager, and the operator");
        let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
        fleet.install_operations_api().await?;
        let shop = Shop::named(&fleet, "shop").await?;
        let callers = try_join_all((0..PROXIES).map(|_| shop.caller_with_sidecar(&fleet))).await?;
        let story = Self { callers, shop, fleet, begun };
        story.note("API server, CRDs, operator, and 3 pods of Deployment web with their proxies are up");
        Ok(story)
    }

    async fn protect(&self) -> Result<()> {
        say("A policy for calls to Service payments");
        let sample = repository("config/samples/demo.yaml");
        let sample = sample.to_str().context("the repository's path is not UTF-8")?;
        println!("{}", indent(&std::fs::read_to_string(sample)?));
        self.show(&["apply", "-f", sample]).await?;
        for caller in &self.callers {
            caller.enforces("payments").await?;
        }
        self.traffic("the upstream is well").await?;
        self.shop.shows(&self.fleet, "payments", (".status.state", "Closed")).await?;
        self.show(&["get", "circuitbreakers", "-n", "shop"]).await
    }

    async fn break_it(&self) -> Result<()> {
        say("The upstream fails: every answer is a 500");
        self.shop.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
        self.traffic("until the breakers open").await?;
        self.shop.shows(&self.fleet, "payments", (".status.state", "Open")).await?;
        self.show(&["get", "circuitbreakers", "-n", "shop"]).await?;
        self.traffic("while they are open: refused at once, the upstream is left alone").await?;
        let refused = self.callers[0].get("/").await?;
        println!("{}", indent(&format!("HTTP {} {}", refused.status, refused.text())));
        Ok(())
    }

    async fn mend_it(&self) -> Result<()> {
        say("The upstream is mended; after the open time a few probes may pass");
        self.shop.upstream.set_status(StatusCode::OK);
        self.shop.shows(&self.fleet, "payments", (".status.state", "HalfOpen")).await?;
        self.show(&["get", "circuitbreakers", "-n", "shop"]).await?;
        eventually(PATIENCE, "probes close the breakers", async || {
            for caller in &self.callers {
                let answer = caller.get("/").await?;
                anyhow::ensure!(answer.status == 200, "{} still refuses", caller.pod.name());
            }
            self.shop.shows_now(&self.fleet, "payments", (".status.state", "Closed")).await
        })
        .await?;
        self.show(&["get", "circuitbreakers", "-n", "shop"]).await
    }

    async fn force_it(&self) -> Result<()> {
        say("An incident elsewhere: open it by hand, on the whole fleet, with a reason and an end");
        self.fusebox(&["trip", "payments", "-n", "shop", "--for", "30m", "--reason", "INC-42"]).await?;
        self.traffic("forced open").await?;
        self.show(&["get", "circuitbreakers", "-n", "shop"]).await?;
        self.fusebox(&["release", "payments", "-n", "shop"]).await?;
        self.traffic("released").await?;
        self.show(&["get", "circuitbreakers", "-n", "shop"]).await
    }

    async fn limit_it(&self) -> Result<()> {
        say("A rate limit at the Service's own pod: five requests a minute for each API key, then a pause");
        let sample = repository("config/samples/demo-rate-limit.yaml");
        let sample = sample.to_str().context("the repository's path is not UTF-8")?;
        println!("{}", indent(&std::fs::read_to_string(sample)?));
        self.show(&["apply", "-f", sample]).await?;
        let server = self.shop.server(&self.fleet).await?;
        server.enforces("checkout").await?;
        self.calls(&server, "alice", 8).await?;
        let refused = server.get_inbound_with("/", &[("x-api-key", "alice")]).await?;
        println!(
            "{}",
            indent(&format!(
                "HTTP {} retry-after: {}\n{}",
                refused.status,
                refused.header("retry-after"),
                refused.text()
            ))
        );
        self.calls(&server, "bob", 2).await?;
        eventually(PATIENCE, "the status tells of the blocked client", async || {
            let shown = self
                .fleet
                .kubectl(&["get", "rl", "checkout", "-n", "shop", "-o", "jsonpath={.status.summary.blocked}"])
                .await?;
            anyhow::ensure!(shown == "1", "{shown:?} blocked");
            Ok(())
        })
        .await?;
        self.show(&["get", "ratelimits", "-n", "shop"]).await?;
        self.fusebox(&["limits", "checkout", "-n", "shop"]).await?;
        self.fusebox(&["limits", "unblock", "checkout", "-n", "shop", "--key", "alice", "--reason", "INC-43"]).await?;
        self.calls(&server, "alice", 1).await
    }

    /// Calls the server's proxy as the client with this key and says what came back.
    async fn calls(&self, server: &Sidecar, key: &str, count: usize) -> Result<()> {
        let mut statuses = Vec::new();
        for _ in 0..count {
            statuses.push(server.get_inbound_with("/", &[("x-api-key", key)]).await?.status.as_u16().to_string());
        }
        self.note(&format!("{count} requests with key {key}: {}", statuses.join(" ")));
        Ok(())
    }

    /// Sends requests through every caller's proxy and says what came back.
    async fn traffic(&self, when: &str) -> Result<()> {
        let (rate, period) = TRAFFIC;
        let loads = self.callers.iter().map(|caller| Load::new(caller.outbound(), rate, period).run());
        let reports = try_join_all(loads).await?;
        let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
        for (status, count) in reports.iter().flat_map(|report| &report.statuses) {
            *statuses.entry(*status).or_default() += count;
        }
        let slowest = reports.iter().map(|report| report.percentile(99.0)).max().unwrap_or_default();
        let answers: Vec<String> = statuses.iter().map(|(status, count)| format!("{count} x {status}")).collect();
        self.note(&format!("{when}: {}, 99 % within {:.2} ms", answers.join(", "), slowest.as_secs_f64() * 1e3));
        Ok(())
    }

    async fn show(&self, arguments: &[&str]) -> Result<()> {
        let typed = arguments.join(" ").replace(&format!("{}/", repository("").display()), "");
        println!("\n  $ kubectl {typed}");
        println!("{}", indent(&self.fleet.kubectl(arguments).await?));
        Ok(())
    }

    async fn fusebox(&self, arguments: &[&str]) -> Result<()> {
        println!("\n  $ fusebox {}", arguments.join(" "));
        let output = self.fleet.fusebox(arguments).await?;
        println!("{}", indent(&output));
        Ok(())
    }

    fn note(&self, text: &str) {
        println!("  [{:5.1}s] {text}", self.begun.elapsed().as_secs_f64());
    }
}

fn say(text: &str) {
    println!("\n== {text}");
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("    {line}\n")).collect()
}
