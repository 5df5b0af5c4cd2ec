//! `run` with a real upstream and real requests.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use fusebox_testkit::eventually;
use fusebox_testkit::http::Client;
use fusebox_testkit::upstream::FlakyUpstream;
use http::StatusCode;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Printed, terminal};
use crate::{Arguments, Command, Exit, run};

const DEADLINE: Duration = Duration::from_secs(10);

/// Finds `outbound http://ADDRESS` in what was printed.
async fn address(out: &Printed, kind: &str) -> Result<SocketAddr> {
    eventually(DEADLINE, "the listener is announced", async || {
        let text = out.text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{kind} http://")));
        let word = line.and_then(|line| line.split(' ').next()).context("not announced")?;
        Ok(word.parse()?)
    })
    .await
}

async fn printed(out: &Printed, wanted: &str) -> Result<()> {
    eventually(DEADLINE, "the transition is printed", async || {
        ensure!(out.text().contains(wanted), "{wanted:?} is not in:\n{}", out.text());
        Ok(())
    })
    .await
}

/// `fusebox run` under way.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Exit>>,
}

impl Running {
    /// Ends it as a person would.
    async fn end(self) -> Result<Exit> {
        let _ = self.stop.send(());
        self.task.await?
    }
}

/// Runs `fusebox run` with the policies of a file, of the tests' data or with its whole path, in front of these upstreams of shop/payments, and gives what it prints.
fn begin(policies: &str, upstreams: &[&FlakyUpstream]) -> Result<(Running, Printed, Printed)> {
    let file = Path::new("tests/data").join(policies).display().to_string();
    let mut words = ["fusebox", "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "-f", &file]
        .map(str::to_owned)
        .to_vec();
    words.extend(upstreams.iter().map(|upstream| format!("--upstream=shop/payments={}", upstream.address())));
    let Command::Run(arguments) = Arguments::try_parse_from(words)?.command else { unreachable!("run was asked for") };
    let (mut terminal, out, err) = terminal();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        run::serve(&arguments, stopped, &mut terminal).await
    });
    Ok((Running { stop, task }, out, err))
}

#[tokio::test(flavor = "multi_thread")]
async fn run_guards_real_traffic_and_prints_transitions_as_they_come() -> Result<()> {
    let upstream = FlakyUpstream::start().await?;
    let (running, out, err) = begin("policies.yaml", &[&upstream])?;

    let client = Client::new(address(&out, "outbound").await?);
    assert_eq!(client.get("/").await?.status, StatusCode::OK);
    printed(&out, "applies shop/payments on shop/payments:80 (mode Enforce, rules writes)").await?;
    assert!(err.text().contains("shop/payments-inside: side Server"), "{}", err.text());

    upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    for _ in 0..3 {
        client.get("/").await?;
    }
    let before = upstream.requests();
    assert_eq!(client.get("/").await?.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(upstream.requests(), before, "a refused request does not reach the upstream");
    printed(&out, "shop/payments:80 Closed -> Open ConsecutiveFailures").await?;

    upstream.set_status(StatusCode::OK);
    printed(&out, "Open -> HalfOpen").await?;
    eventually(DEADLINE, "the breaker closes", async || {
        let status = client.get("/").await?.status;
        ensure!(status == StatusCode::OK && out.text().contains("HalfOpen -> Closed"), "{status}");
        Ok(())
    })
    .await?;

    assert_eq!(running.end().await?, Exit::Done);
    assert!(out.text().contains("draining"));
    assert!(client.get("/").await.is_err(), "nobody listens any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn run_takes_several_upstreams_of_a_service_for_its_endpoints_and_leaves_the_bad_one_out() -> Result<()> {
    let (good, bad) = (FlakyUpstream::start().await?, FlakyUpstream::start().await?);
    let (running, out, err) = begin("endpoints.yaml", &[&good, &bad])?;

    let client = Client::new(address(&out, "outbound").await?);
    printed(&out, "applies shop/payments on shop/payments:80 (scope Endpoint, mode Enforce)").await?;
    bad.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    let change = format!("shop/payments:80 endpoint {} Closed -> Open ConsecutiveFailures", bad.address());
    eventually(DEADLINE, "the bad endpoint is left out", async || {
        client.get("/").await?;
        ensure!(out.text().contains(&change), "{change:?} is not in:\n{}", out.text());
        Ok(())
    })
    .await?;
    bad.set_status(StatusCode::OK);
    let endpoint = format!("endpoint {} ", bad.address());
    eventually(DEADLINE, "the endpoint comes back", async || {
        ensure!(client.get("/").await?.status == StatusCode::OK, "refused");
        let came_back = |line: &str| line.contains(&endpoint) && line.contains("-> Closed ProbesSucceeded");
        ensure!(out.text().lines().any(came_back), "not in:\n{}", out.text());
        Ok(())
    })
    .await?;
    assert!(!out.text().contains(&format!("endpoint {}", good.address())), "{}", out.text());
    assert_eq!(err.text(), "");
    assert_eq!(running.end().await?, Exit::Done);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn run_limits_clients_with_quotas_from_a_config_map_among_its_files() -> Result<()> {
    let upstream = FlakyUpstream::start().await?;
    let (running, out, err) = begin("limits.yaml", &[&upstream])?;

    let client = Client::new(address(&out, "outbound").await?);
    printed(&out, "applies shop/per-tenant on shop/payments:80 (mode Enforce, limits per-tenant)").await?;
    let passed = async |tenant: &str| -> Result<usize> {
        let mut passed = 0;
        for _ in 0..6 {
            passed += usize::from(client.get_with("/", &[("x-tenant", tenant)]).await?.status == StatusCode::OK);
        }
        Ok(passed)
    };
    assert_eq!((passed("alice").await?, passed("bob").await?), (4, 2), "alice has a quota of her own");
    let refused = client.get_with("/", &[("x-tenant", "bob")]).await?;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(err.text(), "");
    assert_eq!(running.end().await?, Exit::Done);
    Ok(())
}

/// Signed with the key of `tests/data/tokens.yaml`, for `ada`.
const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im9uZSJ9.eyJzdWIiOiJhZGEiLCJleHAiOjQwMDAwMDAwMDB9.gGBeFv0KWSHjPbj84iSz5-nX9EtqQuH4kCDAU6n6jpc_Vgx-_Z4uxdB9z3eN-l_37whvnQjEC-lpddaRBeOfQmwY_bJPsnQ3flB9Uv0OePp1g361L5z6h4XCgPdheyNh1bkXjGbgpVVeuNQD5He6U7Dm6NoHR4pUNj1xT_jIGsyHkbiFYNuBZrXgWOJKROtiwMZYo0C3Jq-kFfES6aAYTJ82GyXzbFPi-e49ezimZsCBwHyABqZ6bEHfPkLqa5yNYgFlhG8yRjJsyeNWzh7TDLQUTC4-CLylSA3GUk93xMCeNKn0Ho7EEyA6lPqd5QZ3TT0k78kw-lSZoZUhhADYMg";

#[tokio::test(flavor = "multi_thread")]
async fn run_verifies_tokens_with_keys_from_a_config_map_among_its_files() -> Result<()> {
    let upstream = FlakyUpstream::start().await?;
    let (running, out, err) = begin("tokens.yaml", &[&upstream])?;

    let client = Client::new(address(&out, "outbound").await?);
    printed(&out, "applies shop/per-user on shop/payments:80 (mode Enforce, limits per-user)").await?;
    let status = async |token: &str| -> Result<u16> {
        let authorization = format!("Bearer {token}");
        Ok(client.get_with("/", &[("authorization", authorization.as_str())]).await?.status.as_u16())
    };
    let forged = TOKEN.replace("eyJzdWIiOiJhZGEi", "eyJzdWIiOiJldmEi");
    assert_eq!(
        (status(&forged).await?, status("none").await?),
        (200, 429),
        "they share the bucket of those without a token"
    );
    assert_eq!((status(TOKEN).await?, status(TOKEN).await?), (200, 429), "one that holds has a bucket of its own");
    assert_eq!(err.text(), "");
    assert_eq!(running.end().await?, Exit::Done);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn run_says_which_values_are_not_in_its_files_and_why() -> Result<()> {
    let upstream = FlakyUpstream::start().await?;
    let text = std::fs::read_to_string("tests/data/limits.yaml")?.replace("  quotas.yaml: |", "  other.yaml: |");
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("limits.yaml");
    std::fs::write(&file, text)?;
    let (running, out, err) = begin(file.to_str().context("a name that is no text")?, &[&upstream])?;
    let client = Client::new(address(&out, "outbound").await?);
    printed(&err, "no value of ConfigMap shop/quotas, key quotas.yaml: the object in the files has no such key")
        .await?;
    assert_eq!(client.get_with("/", &[("x-tenant", "alice")]).await?.status, StatusCode::OK, "it has the limit's rate");
    assert_eq!(running.end().await?, Exit::Done);
    Ok(())
}
