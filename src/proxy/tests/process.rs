//! The binary itself: signals, exit codes and what survives it, which no embedder sees.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long anything in these tests may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// One policy on shop/payments:80 that three failures in a row trip for a minute.
const CONFIG: &str = r#"{
  "format": 1,
  "workload": {"namespace": "shop", "kind": "Deployment", "name": "web"},
  "outbound": [{
    "service": {"namespace": "shop", "name": "payments"}, "port": 80, "addresses": ["127.0.0.1:1"],
    "circuitBreaker": {
      "policy": {"namespace": "shop", "name": "pay"},
      "target": {"kind": "Service", "namespace": "shop", "name": "payments"},
      "side": "Client",
      "rules": [{
        "failureOn": {"httpStatus": [{"from": 500, "to": 599}]},
        "breaker": {
          "trip": {"consecutiveFailures": 3},
          "open": {"baseDurationMs": 60000, "maxDurationMs": 60000, "jitterPercent": 0},
          "halfOpen": {"maxProbes": 1, "successThreshold": 1, "probeTimeoutMs": 1000, "maxDurationMs": 1000}
        }
      }]
    }
  }]
}"#;

/// The key of a client, which nobody may read in a log.
const CLIENT_KEY: &str = "ada-0123456789-secret";

/// A limit of one request an hour for each value of `x-api-key`, or of the parameter `key`.
fn limited(mode: &str, show_keys: &str) -> String {
    format!(
        r#"{{
  "format": 1,
  "workload": {{"namespace": "shop", "kind": "Deployment", "name": "web"}},
  "outbound": [{{
    "service": {{"namespace": "shop", "name": "payments"}}, "port": 80, "addresses": ["127.0.0.1:1"],
    "rateLimit": {{
      "policy": {{"namespace": "shop", "name": "api"}},
      "target": {{"kind": "Service", "namespace": "shop", "name": "payments"}},
      "side": "Client", "mode": "{mode}", "showKeys": "{show_keys}", "maxTrackedKeys": 10,
      "limits": [{{
        "name": "per-key", "key": [!apiKey {{"headers": ["x-api-key"], "queryParameters": ["key"]}}],
        "rules": [{{"rate": {{"requests": 1, "perMs": 3600000, "burst": 1}}}}]
      }}]
    }}
  }}]
}}"#
    )
}

/// A proxy's process with one listener, to shop/payments:80; killed when it is dropped.
struct Running {
    child: Child,
    address: String,
    /// Held open, or the proxy could not write its log any more.
    _log: Lines<BufReader<ChildStderr>>,
}

/// Killed when it is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(upstream: &TcpListener, more: &[&str]) -> Result<Self> {
        Self::start_with(upstream, more, Stdio::inherit())
    }

    /// With its standard output going elsewhere.
    fn start_with(upstream: &TcpListener, more: &[&str], output: impl Into<Stdio>) -> Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fusebox-proxy"))
            .args(["--admin", "127.0.0.1:0", "--outbound", "127.0.0.1:0=shop/payments:80"])
            .args(["--upstream", &format!("shop/payments={}", upstream.local_addr()?)])
            .args(more)
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("the log")?).lines();
        let address = loop {
            let line: serde_json::Value = serde_json::from_str(&log.next().context("a listening line")??)?;
            if line["message"] == "listening" && line["kind"] == "outbound" {
                break line["address"].as_str().context("an address")?.to_owned();
            }
        };
        Ok(Self { child, address, _log: log })
    }

    fn connect(&self) -> Result<TcpStream> {
        let client = TcpStream::connect(&self.address)?;
        client.set_read_timeout(Some(DEADLINE))?;
        Ok(client)
    }

    /// One request on a connection of its own, and all that comes back.
    fn get(&self) -> Result<String> {
        self.get_with("/", "")
    }

    /// The same for this path, with these lines of its head.
    fn get_with(&self, path: &str, headers: &str) -> Result<String> {
        let mut client = self.connect()?;
        write!(client, "GET {path} HTTP/1.1\r\nhost: a\r\n{headers}connection: close\r\n\r\n")?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_request_in_flight_survives_sigterm_and_the_exit_code_is_zero() -> Result<()> {
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    let mut proxy = Running::start(&upstream, &[])?;
    let mut client = proxy.connect()?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")?;
    let (mut served, _) = upstream.accept()?;
    served.set_read_timeout(Some(DEADLINE))?;
    ensure!(served.read(&mut [0; 1024])? > 0, "the upstream got the request");

    let terminated = Command::new("kill").args(["-TERM", &proxy.child.id().to_string()]).status()?;
    ensure!(terminated.success(), "the signal was sent");
    while TcpStream::connect(&proxy.address).is_ok() {}
    served.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
    ensure!(proxy.child.wait()?.code() == Some(0), "the exit code is 0");
    Ok(())
}

#[test]
fn a_proxy_that_is_killed_comes_back_with_its_breaker_open() -> Result<()> {
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    let directory = tempfile::tempdir()?;
    let (config, state) = (directory.path().join("config.yaml"), directory.path().join("state"));
    std::fs::write(&config, CONFIG)?;
    let (config, state_path) = (config.display().to_string(), state.display().to_string());
    let arguments = ["--config", &config, "--state-file", &state_path];
    let mut proxy = Running::start(&upstream, &arguments)?;
    let failing = std::thread::spawn(move || fail(&upstream, 3).map(|()| upstream));
    for _ in 0..3 {
        ensure!(proxy.get()?.starts_with("HTTP/1.1 503"), "the upstream's failure");
    }
    let upstream = failing.join().map_err(|_| anyhow::anyhow!("the upstream panicked"))??;
    until_open(&state)?;
    proxy.child.kill()?;
    proxy.child.wait()?;

    let proxy = Running::start(&upstream, &arguments)?;
    let refused = proxy.get()?;
    ensure!(refused.contains("fusebox-policy: shop/pay; state=open"), "{refused}");
    let seconds = refused.lines().find_map(|line| line.strip_prefix("retry-after: ")).context("a time")?;
    ensure!((1..=60).contains(&seconds.parse::<u64>()?), "{seconds}");
    Ok(())
}

#[test]
fn the_access_log_tells_of_an_answer_a_failure_and_a_refusal_until_the_last_line() -> Result<()> {
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("config.yaml");
    std::fs::write(&config, CONFIG)?;
    let log = directory.path().join("access.log");
    let config = config.display().to_string();
    let mut proxy =
        Running::start_with(&upstream, &["--config", &config, "--access-log", "all"], std::fs::File::create(&log)?)?;
    let failing = std::thread::spawn(move || fail(&upstream, 3).map(|()| upstream));
    for _ in 0..4 {
        ensure!(proxy.get()?.starts_with("HTTP/1.1 503"), "three failures and a refusal");
    }
    let _upstream = failing.join().map_err(|_| anyhow::anyhow!("the upstream panicked"))??;
    Command::new("kill").args(["-TERM", &proxy.child.id().to_string()]).status()?;
    proxy.child.wait()?;
    let text = std::fs::read_to_string(&log)?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<serde_json::Value>, _>>()?;
    ensure!(lines.len() == 4, "a line for each request: {text}");
    let mut decisions: Vec<&str> = lines.iter().filter_map(|line| line["decision"].as_str()).collect();
    decisions.sort_unstable();
    ensure!(decisions == ["admitted", "admitted", "admitted", "open"], "{text}");
    let refused = lines.iter().find(|line| line["decision"] == "open").context("the refusal")?;
    ensure!(refused["error"] == "circuit-open" && refused["status"] == 503, "{refused}");
    ensure!(refused["policy"] == "shop/pay" && refused["target"] == "shop/payments:80", "{refused}");
    Ok(())
}

/// What the access log says of three requests of one client: two with its key in a header, one with it in the query.
fn log_of_limited(mode: &str, show_keys: &str) -> Result<Vec<serde_json::Value>> {
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    let directory = tempfile::tempdir()?;
    let (config, log) = (directory.path().join("config.yaml"), directory.path().join("access.log"));
    std::fs::write(&config, limited(mode, show_keys))?;
    let config = config.display().to_string();
    let mut proxy =
        Running::start_with(&upstream, &["--config", &config, "--access-log", "all"], std::fs::File::create(&log)?)?;
    let passing = if mode == "Shadow" { 3 } else { 1 };
    let answering = std::thread::spawn(move || answer(&upstream, "200 OK", passing).map(|()| upstream));
    let header = format!("x-api-key: {CLIENT_KEY}\r\n");
    proxy.get_with("/", &header)?;
    proxy.get_with("/", &header)?;
    proxy.get_with(&format!("/search?key={CLIENT_KEY}"), "")?;
    let _upstream = answering.join().map_err(|_| anyhow::anyhow!("the upstream panicked"))??;
    Command::new("kill").args(["-TERM", &proxy.child.id().to_string()]).status()?;
    proxy.child.wait()?;
    let text = std::fs::read_to_string(&log)?;
    ensure!(!text.contains(CLIENT_KEY) && !text.contains("0123456789"), "a client's key stands in the log: {text}");
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<serde_json::Value>, _>>()?;
    ensure!(lines.len() == 3, "a line for each request: {text}");
    Ok(lines)
}

/// Those of the lines that have this field, and how many have it not.
fn having<'a>(lines: &'a [serde_json::Value], field: &str) -> (Vec<&'a serde_json::Value>, usize) {
    let (with, without): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.get(field).is_some());
    (with, without.len())
}

#[test]
fn the_access_log_names_the_limit_that_refuses_and_its_client_no_plainer_than_the_policy_shows_keys() -> Result<()> {
    // `printf %s KEY | sha256sum`
    for (show_keys, shown) in [("Redacted", "ad***et"), ("Hashed", "7b6f16d989df4157")] {
        let lines = log_of_limited("Enforce", show_keys)?;
        let (refused, passed) = having(&lines, "limitKey");
        ensure!((refused.len(), passed) == (2, 1) && having(&lines, "limit").1 == 1, "{lines:?}");
        for line in &refused {
            ensure!(line["limit"] == "per-key" && line["decision"] == "limited", "{line}");
            ensure!(line["limitKey"] == shown && line["policy"] == "shop/api", "{line}");
            ensure!(line["status"] == 429 && line["error"] == "rate-limited", "{line}");
        }
        ensure!(refused.iter().any(|line| line["path"] == "/search"), "without the query: {lines:?}");
    }
    Ok(())
}

#[test]
fn in_shadow_the_access_log_says_which_limit_would_have_refused_and_not_whose_request() -> Result<()> {
    let lines = log_of_limited("Shadow", "Redacted")?;
    let (would, passed) = having(&lines, "wouldLimit");
    ensure!((would.len(), passed) == (2, 1), "{lines:?}");
    ensure!(would.iter().all(|line| line["wouldLimit"] == "shop/api/per-key" && line["status"] == 200), "{lines:?}");
    ensure!(having(&lines, "limit").1 == 3 && having(&lines, "limitKey").1 == 3, "{lines:?}");
    Ok(())
}

#[test]
fn as_many_files_may_be_open_as_the_system_allows_at_most() -> Result<()> {
    let child = Command::new("sh")
        .args(["-c", "ulimit -Sn 256 && ulimit -Hn 2000 && exec \"$0\" --admin 127.0.0.1:0"])
        .arg(env!("CARGO_BIN_EXE_fusebox-proxy"))
        .stderr(Stdio::piped())
        .spawn()?;
    let mut child = Ended(child);
    let mut log = BufReader::new(child.0.stderr.take().context("the log")?).lines();
    log.next().context("it started")??;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.0.id()))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("the limit")?;
    ensure!(line.split_whitespace().skip(3).take(2).eq(["2000", "2000"]), "{line}");
    Ok(())
}

#[test]
fn probes_that_are_none_stop_the_start_and_the_option_is_named() -> Result<()> {
    for (text, said) in [
        ("[{", "not a list of probes as JSON"),
        (r#"[{"path":"/x","port":1,"kind":"tcp"}]"#, "is not /probes/CONTAINER/KIND"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_fusebox-proxy")).env("FUSEBOX_PROBES", text).output()?;
        let error = String::from_utf8(output.stderr)?;
        ensure!(!output.status.success() && error.contains("--probes") && error.contains(said), "{text}: {error}");
    }
    Ok(())
}

#[test]
fn redirect_prints_its_rules_without_changing_any_and_names_what_it_can_not_follow() -> Result<()> {
    let redirect =
        |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_fusebox-proxy")).arg("redirect").args(arguments).output();
    let output = redirect(&["--proxy-uid=15000", "--exclude-inbound=22,15020", "--exclude-outbound=53", "--dry-run"])?;
    let printed = String::from_utf8(output.stdout)?;
    ensure!(output.status.success() && printed.starts_with("table inet fusebox {\n"), "{printed}");
    ensure!(printed.contains("\t\ttcp dport 22 accept\n"), "{printed}");
    let output = redirect(&["--proxy-uid=0", "--dry-run"])?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && error.contains("--proxy-uid: root"), "{error}");
    Ok(())
}

#[test]
fn help_shows_the_options_the_examples_and_the_step() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_fusebox-proxy")).arg("--help").output()?;
    let help = String::from_utf8(output.stdout)?;
    for part in ["The sidecar that enforces", "--transparent-outbound", "redirect", "In front of an application"] {
        ensure!(help.contains(part), "{part} is not in {help}");
    }
    Ok(())
}

/// Answers so many connections with 503.
fn fail(upstream: &TcpListener, count: usize) -> Result<()> {
    answer(upstream, "503 Told", count)
}

/// Answers so many connections with this status.
fn answer(upstream: &TcpListener, status: &str, count: usize) -> Result<()> {
    for _ in 0..count {
        let (mut served, _) = upstream.accept()?;
        served.set_read_timeout(Some(DEADLINE))?;
        ensure!(served.read(&mut [0; 1024])? > 0, "a request");
        write!(served, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    }
    Ok(())
}

fn until_open(state: &Path) -> Result<()> {
    let started = Instant::now();
    while !std::fs::read_to_string(state).is_ok_and(|text| text.contains(r#""state":"Open""#)) {
        ensure!(started.elapsed() < DEADLINE, "the open breaker is in the file");
        std::thread::yield_now();
    }
    Ok(())
}
