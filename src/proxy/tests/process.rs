//! The binary itself: signals and exit codes, which no embedder sees.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How long any read in this test may take.
const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn a_request_in_flight_survives_sigterm_and_the_exit_code_is_zero() -> Result<()> {
    let upstream = TcpListener::bind("127.0.0.1:0")?;
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_fusebox-proxy"))
        .args(["--admin", "127.0.0.1:0", "--outbound", "127.0.0.1:0=shop/payments:80"])
        .args(["--upstream", &format!("shop/payments={}", upstream.local_addr()?)])
        .stderr(Stdio::piped())
        .spawn()?;
    let log = BufReader::new(proxy.stderr.take().context("the log")?);
    let mut lines = log.lines();
    let address = loop {
        let line: serde_json::Value = serde_json::from_str(&lines.next().context("a listening line")??)?;
        if line["message"] == "listening" && line["kind"] == "outbound" {
            break line["address"].as_str().context("an address")?.to_owned();
        }
    };

    let mut client = TcpStream::connect(&address)?;
    client.set_read_timeout(Some(DEADLINE))?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")?;
    let (mut served, _) = upstream.accept()?;
    served.set_read_timeout(Some(DEADLINE))?;
    ensure!(served.read(&mut [0; 1024])? > 0, "the upstream got the request");

    let terminated = Command::new("kill").args(["-TERM", &proxy.id().to_string()]).status()?;
    ensure!(terminated.success(), "the signal was sent");
    while TcpStream::connect(&address).is_ok() {}
    served.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
    ensure!(proxy.wait()?.code() == Some(0), "the exit code is 0");
    Ok(())
}
