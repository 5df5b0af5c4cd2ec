//! `make hostile`: what hostile input costs those who mean well.
//!
//! It must compare like with like: the same good traffic goes through the same proxy first without hostility, then with it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::attack;
use fusebox_e2e::standalone::Standalone;
use fusebox_testkit::FlakyUpstream;
use fusebox_testkit::load::Load;

/// Good requests a second.
const RATE: u32 = 500;
/// How often memory is read.
const EVERY: Duration = Duration::from_secs(10);
/// Memory that may come on top of what the first minute or so of hostility took.
const MAX_GROWTH_KIB: u64 = 8 << 10;
const DEFAULT_SECONDS: u64 = 300;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(DEFAULT_SECONDS), |text| text.parse());
    let period = Duration::from_secs(seconds.context("the only argument is a number of seconds")?);
    let upstream = FlakyUpstream::start().await?;
    let Standalone { proxy, listener } = Standalone::start(&upstream).await?;

    let calm = Load::new(listener.address(), RATE, period.min(Duration::from_secs(30))).run().await?;
    let attackers = attack::begin(listener.address());
    let load = tokio::spawn(Load::new(listener.address(), RATE, period).run());
    let begun = Instant::now();
    let mut memory = Vec::new();
    println!("| seconds | RSS, KiB |\n|---|---|");
    while !load.is_finished() {
        tokio::time::sleep(EVERY.min(period / 4)).await;
        memory.push(resident_kib(proxy.pid())?);
        println!("| {} | {} |", begun.elapsed().as_secs(), memory.last().copied().unwrap_or_default());
    }
    let storm = load.await.context("the load ended early")??;
    drop(attackers);

    let p99 = |latencies: &[Duration]| latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
    let (quiet, loud) = (p99(&calm.latencies), p99(&storm.latencies));
    println!("\n| | requests | not answered 200 | p99 |\n|---|---|---|---|");
    for (name, report, p99) in [("calm", &calm, quiet), ("under attack", &storm, loud)] {
        let well = report.statuses.get(&200).copied().unwrap_or_default();
        println!("| {name} | {} | {} | {p99:.2?} |", report.sent, report.sent - well);
    }
    let settled = memory.get(memory.len() / 4).copied().unwrap_or_default();
    let last = memory.last().copied().unwrap_or_default();
    ensure!(last <= settled + MAX_GROWTH_KIB, "memory grew from {settled} to {last} KiB");
    ensure!(storm.errors == 0 && storm.statuses.len() == 1, "good requests failed: {:?}", storm.statuses);
    ensure!(loud <= quiet * 2 || loud < Duration::from_millis(5), "p99 went from {quiet:?} to {loud:?}");
    Ok(())
}

fn resident_kib(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the proxy has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")
}
