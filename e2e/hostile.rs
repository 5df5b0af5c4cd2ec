//! `make hostile`: what hostile input costs those who mean well.
//!
//! It must compare like with like: the same good traffic goes through the same proxy first without hostility, then with
//! it. The proxy has a core to itself, and the attackers are a process of their own that only gets time which nobody else
//! wants: what is measured is what reaches the proxy, not what it costs to send it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::attack;
use fusebox_e2e::standalone::Standalone;
use fusebox_testkit::load::{Load, LoadReport};
use fusebox_testkit::{FlakyUpstream, Process, ProcessBuilder};

/// Good requests a second.
const RATE: u32 = 500;
/// How often a line is printed.
const EVERY: Duration = Duration::from_secs(10);
/// How often memory is read, and attackers say what they did.
const LOOK: Duration = Duration::from_secs(1);
/// The longest part without attacks.
const MAX_CALM: Duration = Duration::from_secs(30);
/// What memory may grow by from the time when a quarter of the attacks is over, along the line that fits it best.
const MAX_GROWTH_KIB: f64 = (4 << 10) as f64;
/// How many times as long good requests may take.
const MAX_SLOWER: u32 = 2;
const DEFAULT_SECONDS: u64 = 300;

/// The core of the proxy, and that of everything else.
const CORES: [&str; 2] = ["0", "1"];

/// What a part of the run was like.
#[derive(Default)]
struct Part {
    latencies: Vec<Duration>,
    sent: u64,
    failed: u64,
    first_failure: Option<String>,
    memory: Vec<Sample>,
}

/// Memory at one moment.
#[derive(Clone, Copy)]
struct Sample {
    seconds: f64,
    kib: f64,
}

/// Where good traffic goes, and whose memory is read.
struct Scene {
    address: SocketAddr,
    proxy: u32,
    begun: Instant,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("no runtime").and_then(|runtime| match &arguments[..] {
        [word, address] if word == "attack" => runtime.block_on(attack_until_killed(address)),
        [seconds] => runtime.block_on(run(seconds)),
        _ => runtime.block_on(run(&DEFAULT_SECONDS.to_string())),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(seconds: &str) -> Result<()> {
    let seconds: u64 = seconds.parse().context("the only argument is a number of seconds")?;
    let period = Duration::from_secs(seconds.max(4));
    let pinned = pin_to(CORES[1]);
    let upstream = FlakyUpstream::start().await?;
    let Standalone { proxy, listener } =
        Standalone::start_before(upstream.address(), pinned.then_some(CORES[0])).await?;
    println!("{}\n", if pinned { "The proxy has core 0 to itself." } else { "Nothing is pinned to a core." });
    let scene = Scene { address: listener.address(), proxy: proxy.pid(), begun: Instant::now() };

    println!("| | seconds | p99 | failed | RSS, KiB |\n|---|---|---|---|---|");
    // What the first requests of all cost, connections and lazy memory, belongs to neither part.
    scene.part("first", LOOK * 2).await?;
    let calm = scene.part("calm", period.min(MAX_CALM)).await?;
    let attackers = attackers(listener.address(), pinned)?;
    let storm = scene.part("under attack", period).await?;
    let attacks = told_by(&attackers)?;
    drop(attackers);
    print_summary(&calm, &storm, &attacks);
    judge(&calm, &storm, &attacks)
}

/// The attackers' own process: it tells every second what it has done so far.
async fn attack_until_killed(address: &str) -> Result<()> {
    let attackers = attack::begin(address.parse().context("no address to attack")?);
    loop {
        tokio::time::sleep(LOOK).await;
        println!("{}", serde_json::to_string(&attackers.counts())?);
    }
}

fn attackers(address: SocketAddr, pinned: bool) -> Result<Process> {
    let own = std::env::current_exe().context("this program has no path")?;
    let builder = if pinned {
        // They share a core with the good traffic, but only take what that leaves.
        let idle = ProcessBuilder::program("attackers", Path::new("taskset"));
        idle.args(["--cpu-list", CORES[1], "chrt", "--idle", "0"]).arg(own)
    } else {
        ProcessBuilder::program("attackers", &own)
    };
    builder.args(["attack".to_owned(), address.to_string()]).start()
}

fn told_by(attackers: &Process) -> Result<BTreeMap<String, u64>> {
    let log = attackers.log();
    let last = log.lines().last().context("the attackers said nothing")?;
    serde_json::from_str(last).with_context(|| format!("the attackers said: {last}"))
}

/// Moves this process to `core`; false where there is none to spare, or no way to say so.
fn pin_to(core: &str) -> bool {
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", core, &std::process::id().to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

impl Scene {
    /// Good traffic for `period`, with a line of progress now and then.
    async fn part(&self, name: &str, period: Duration) -> Result<Part> {
        let mut part = Part::default();
        let until = Instant::now() + period;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| *left > LOOK / 2) {
            let load = tokio::spawn(Load::new(self.address, RATE, left.min(EVERY)).run());
            while !load.is_finished() {
                part.memory
                    .push(Sample { seconds: self.begun.elapsed().as_secs_f64(), kib: resident_kib(self.proxy)? });
                tokio::time::sleep(LOOK.min(left / 4)).await;
            }
            let report = load.await.context("the load ended early")??;
            let memory = part.memory.last().map_or(0.0, |sample| sample.kib);
            let (at, p99, failed) = (self.begun.elapsed().as_secs(), report.percentile(99.0), failed(&report));
            println!("| {name} | {at} | {p99:.2?} | {failed} | {memory} |");
            part.add(report);
        }
        part.latencies.sort_unstable();
        Ok(part)
    }
}

/// Requests that were due and did not get what they asked for.
fn failed(report: &LoadReport) -> u64 {
    report.sent + report.not_sent - report.count_of(200)
}

impl Part {
    fn add(&mut self, report: LoadReport) {
        self.sent += report.sent + report.not_sent;
        let failures = failed(&report);
        if failures > 0 && self.first_failure.is_none() {
            self.first_failure = Some(report.first_error.unwrap_or_else(|| format!("answers: {:?}", report.statuses)));
        }
        self.failed += failures;
        self.latencies.extend(report.latencies);
    }

    fn p99(&self) -> Duration {
        self.latencies.get(self.latencies.len() * 99 / 100).copied().unwrap_or_default()
    }

    /// What memory was once it had time to settle.
    fn settled(&self) -> &[Sample] {
        &self.memory[self.memory.len() / 4..]
    }

    /// KiB a second, by least squares.
    fn slope(&self) -> f64 {
        let samples = self.settled();
        let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / samples.len() as f64;
        let (time, memory) = (mean(|sample| sample.seconds), mean(|sample| sample.kib));
        let rise: f64 = samples.iter().map(|sample| (sample.seconds - time) * (sample.kib - memory)).sum();
        let run: f64 = samples.iter().map(|sample| (sample.seconds - time).powi(2)).sum();
        if run > 0.0 { rise / run } else { 0.0 }
    }

    fn seconds(&self) -> f64 {
        let samples = self.settled();
        let ends = samples.first().zip(samples.last());
        ends.map_or(0.0, |(first, last)| last.seconds - first.seconds)
    }
}

fn print_summary(calm: &Part, storm: &Part, attacks: &BTreeMap<String, u64>) {
    println!("\n| | before | under attack |\n|---|---|---|");
    println!("| good requests | {} | {} |", calm.sent, storm.sent);
    println!("| failed | {} | {} |", calm.failed, storm.failed);
    println!("| p99 | {:.2?} | {:.2?} |", calm.p99(), storm.p99());
    let ends = |part: &Part| {
        let memory = part.memory.iter().map(|sample| sample.kib);
        (memory.clone().fold(f64::INFINITY, f64::min), memory.fold(0.0, f64::max))
    };
    let ((least_before, most_before), (least, most)) = (ends(calm), ends(storm));
    println!("| RSS, KiB, least to greatest | {least_before}\u{2013}{most_before} | {least}\u{2013}{most} |");
    println!("| RSS, KiB a minute | {:.0} | {:.0} |", calm.slope() * 60.0, storm.slope() * 60.0);
    println!("\n| attack | connections |\n|---|---|");
    for (name, count) in attacks {
        println!("| {name} | {count} |");
    }
}

fn judge(calm: &Part, storm: &Part, attacks: &BTreeMap<String, u64>) -> Result<()> {
    let (before, during) = (calm.p99(), storm.p99());
    let growth = storm.slope() * storm.seconds();
    let never: Vec<_> = attacks.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name).collect();
    ensure!(never.is_empty(), "these attacks were never made: {never:?}");
    ensure!(calm.failed == 0, "good requests failed without any attack: {:?}", calm.first_failure);
    ensure!(storm.failed == 0, "{} good requests failed, the first: {:?}", storm.failed, storm.first_failure);
    ensure!(growth <= MAX_GROWTH_KIB, "memory is not flat: it grew by {growth:.0} KiB");
    ensure!(during <= before * MAX_SLOWER, "p99 went from {before:.2?} to {during:.2?}");
    Ok(())
}

fn resident_kib(process: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the proxy has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")
}
