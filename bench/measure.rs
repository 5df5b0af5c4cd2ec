//! One visit to one proxy, and the comparison of two variants of ours.
//!
//! Owns the order in which things are measured. It must not average or print: each visit starts a fresh process and gives
//! plain figures, so that no round depends on the one before.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use tempfile::TempDir;

use crate::contender::{Contender, Site, Variant};
use crate::figures::{Comparison, Figures, Latencies};
use crate::load::{Engine, Shape};
use crate::process::{LOOK_EVERY, Process, Usage, cpu_seconds_of};
use crate::programs::Programs;
use crate::scenario::{FIXED_RATE, IDLE_CONNECTIONS, IDLE_RATE, Pacing, Protocol, SETTLE};

/// What all visits share.
#[derive(Debug)]
pub(crate) struct Laboratory {
    pub(crate) engine: Engine,
    pub(crate) programs: Programs,
    pub(crate) pacing: Pacing,
}

/// A proxy that runs.
#[derive(Debug)]
struct Guest {
    process: Process,
    /// Redis, where its variant has one.
    store: Option<Process>,
    site: Site,
    /// Holds its files until it has ended.
    folder: TempDir,
}

/// A stretch under full load.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    answered: f64,
    seconds: f64,
    proxy_cpu_seconds: f64,
    load_cpu_seconds: f64,
}

const NANOSECONDS_PER_MICROSECOND: f64 = 1_000.0;
const KIB_PER_MIB: f64 = 1024.0;
/// Before a stretch of a comparison counts: connections are opened, windows of the breaker exist already.
const TURN_WARM_UP: Duration = Duration::from_millis(300);
/// At the fixed rate a turn has few requests: for a p99 it lasts so many times as long.
const TURNS_FOR_LATENCIES: u32 = 3;

impl Laboratory {
    /// Everything about one proxy. `direct` is this round's run without any.
    ///
    /// # Errors
    /// It did not start, or gave a wrong answer: named, with the last lines of its log.
    pub(crate) fn visit(&mut self, contender: Contender, protocol: Protocol, direct: &Latencies) -> Result<Figures> {
        let guest = self.start(contender, protocol, Variant::Plain)?;
        let figures = self.figures(&guest, protocol, direct);
        let figures = figures.with_context(|| explain(contender, protocol, &guest.process));
        if figures.is_err() {
            self.engine.close().ok();
        }
        guest.end(&mut self.engine)?;
        figures
    }

    /// The load straight at the upstream, at the fixed rate.
    pub(crate) fn direct(&mut self, protocol: Protocol) -> Result<Latencies> {
        let upstream = self.engine.upstream(protocol)?;
        self.latencies(upstream, protocol).context("the run without a proxy failed")
    }

    /// `variant` beside what it is compared with, of the same make, turn by turn in alternating order.
    pub(crate) fn compare(&mut self, contender: Contender, variant: Variant) -> Result<Comparison> {
        let plain = self.start(contender, Protocol::Http1, variant.baseline())?;
        let changed = self.start(contender, Protocol::Http1, variant)?;
        let (mut cpu_ratios, mut cpu_seconds_per_100k, mut answered) = (Vec::new(), Vec::new(), 0.0);
        let mut added = Vec::new();
        for turn in 0..self.pacing.turns {
            let (first, second) = if turn % 2 == 0 { (&plain, &changed) } else { (&changed, &plain) };
            let costs = self.turn(first).and_then(|first| Ok((first, self.turn(second)?)));
            let costs = costs.with_context(|| explain(contender, Protocol::Http1, &changed.process))?;
            let (plain, changed) = if turn % 2 == 0 { costs } else { (costs.1, costs.0) };
            cpu_ratios.push(changed.cpu_per_100k() / plain.cpu_per_100k());
            cpu_seconds_per_100k.push(changed.cpu_per_100k());
            answered += changed.answered;
            if variant == Variant::SharedLimit {
                let (first, second) = (self.waits(first)?, self.waits(second)?);
                added.push(if turn % 2 == 0 { first.added(&second) } else { second.added(&first) });
            }
        }
        plain.end(&mut self.engine)?;
        let lines = changed.end(&mut self.engine)?;
        Ok(Comparison { contender, variant, cpu_ratios, cpu_seconds_per_100k, added, answered, lines })
    }

    /// How long answers of one of two that are compared take.
    fn waits(&mut self, guest: &Guest) -> Result<Latencies> {
        let times = (TURN_WARM_UP, TURNS_FOR_LATENCIES * self.pacing.turn);
        let latencies = self.latencies_in(times, guest.site.listen, Protocol::Http1);
        latencies.with_context(|| explain(Contender::Fusebox, Protocol::Http1, &guest.process))
    }

    fn start(&mut self, contender: Contender, protocol: Protocol, variant: Variant) -> Result<Guest> {
        let folder = tempfile::tempdir()?;
        let site = Site::new(self.engine.upstream(protocol)?, folder.path())?;
        let store = if variant == Variant::SharedLimit { Some(self.start_store(&site)?) } else { None };
        let mut command = contender.command(protocol, variant, &site, &self.programs)?;
        let mut process = Process::start(&mut command, log_in(folder.path()))?;
        let engine = &mut self.engine;
        let begun = process.await_listening(site.listen, || engine.rest(LOOK_EVERY));
        begun.with_context(|| {
            format!(
                "{} did not start; {} says how it is run",
                contender.label(),
                self.programs.configurations.display()
            )
        })?;
        Ok(Guest { process, store, site, folder })
    }

    fn start_store(&mut self, site: &Site) -> Result<Process> {
        let mut store = Process::start(&mut self.programs.store(site), site.folder.join("store.log"))?;
        let engine = &mut self.engine;
        store.await_listening(site.store, || engine.rest(LOOK_EVERY)).context("Redis did not start")?;
        Ok(store)
    }

    fn figures(&mut self, guest: &Guest, protocol: Protocol, direct: &Latencies) -> Result<Figures> {
        self.engine.rest(SETTLE)?;
        let idle = guest.process.usage()?;
        let holding = self.idle_connections(guest, protocol).context("while it held idle connections")?;
        let full = self.saturation(guest, protocol).context("at saturation")?;
        let through = self.latencies(guest.site.listen, protocol);
        let added = direct.added(&through.with_context(|| format!("at {FIXED_RATE} requests a second"))?);
        Ok(Figures {
            requests_per_second: full.answered / full.seconds,
            cpu_seconds_per_100k: full.cpu_per_100k(),
            proxy_core_percent: 100.0 * full.proxy_cpu_seconds / full.seconds,
            load_core_percent: 100.0 * full.load_cpu_seconds / full.seconds,
            added_p50_us: added.p50_us,
            added_p99_us: added.p99_us,
            added_p999_us: added.p999_us,
            rss_idle_mib: idle.rss_kib / KIB_PER_MIB,
            rss_per_connection_kib: (holding.rss_kib - idle.rss_kib) / IDLE_CONNECTIONS as f64,
        })
    }

    /// Each connection has had one request.
    fn idle_connections(&mut self, guest: &Guest, protocol: Protocol) -> Result<Usage> {
        let shape = Shape { connections: IDLE_CONNECTIONS, streams: 1 };
        self.engine.open(guest.site.listen, protocol, shape)?;
        let once = Duration::from_secs_f64(IDLE_CONNECTIONS as f64 / f64::from(IDLE_RATE));
        self.engine.constant_rate(IDLE_RATE, once)?;
        self.engine.rest(SETTLE)?;
        let usage = guest.process.usage()?;
        self.engine.close()?;
        Ok(usage)
    }

    fn saturation(&mut self, guest: &Guest, protocol: Protocol) -> Result<Stretch> {
        self.engine.open(guest.site.listen, protocol, protocol.shape())?;
        self.engine.saturate(self.pacing.warm_up)?;
        let stretch = self.stretch(guest, self.pacing.saturation)?;
        self.engine.close()?;
        Ok(stretch)
    }

    fn stretch(&mut self, guest: &Guest, duration: Duration) -> Result<Stretch> {
        let (proxy, load) = (guest.process.usage()?, cpu_seconds_of("self")?);
        let begin = Instant::now();
        let answered = self.engine.saturate(duration)?;
        let seconds = begin.elapsed().as_secs_f64();
        let (proxy_then, load_then) = (guest.process.usage()?, cpu_seconds_of("self")?);
        Ok(Stretch {
            answered: answered as f64,
            seconds,
            proxy_cpu_seconds: proxy_then.cpu_seconds - proxy.cpu_seconds,
            load_cpu_seconds: load_then - load,
        })
    }

    fn turn(&mut self, guest: &Guest) -> Result<Stretch> {
        self.engine.open(guest.site.listen, Protocol::Http1, Protocol::Http1.shape())?;
        self.engine.saturate(TURN_WARM_UP)?;
        let stretch = self.stretch(guest, self.pacing.turn)?;
        self.engine.close()?;
        Ok(stretch)
    }

    fn latencies(&mut self, target: std::net::SocketAddr, protocol: Protocol) -> Result<Latencies> {
        self.latencies_in((self.pacing.warm_up, self.pacing.fixed_rate), target, protocol)
    }

    /// At the fixed rate, after a time that does not count.
    fn latencies_in(
        &mut self,
        (warm_up, counted): (Duration, Duration),
        target: std::net::SocketAddr,
        protocol: Protocol,
    ) -> Result<Latencies> {
        self.engine.open(target, protocol, protocol.open_shape())?;
        self.engine.constant_rate(FIXED_RATE, warm_up)?;
        let histogram = self.engine.constant_rate(FIXED_RATE, counted)?;
        self.engine.close()?;
        Ok(Latencies::from(&histogram))
    }
}

impl Guest {
    /// Ends it, and counts the lines it printed.
    fn end(self, engine: &mut Engine) -> Result<usize> {
        self.process.stop(|| engine.rest(LOOK_EVERY))?;
        if let Some(store) = self.store {
            store.stop(|| engine.rest(LOOK_EVERY))?;
        }
        let printed = BufReader::new(File::open(log_in(self.folder.path()))?);
        Ok(printed.split(b'\n').map_while(Result::ok).count())
    }
}

impl Stretch {
    fn cpu_per_100k(&self) -> f64 {
        self.proxy_cpu_seconds * 100_000.0 / self.answered
    }
}

impl From<&Histogram<u64>> for Latencies {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / NANOSECONDS_PER_MICROSECOND;
        Self { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999) }
    }
}

fn log_in(folder: &Path) -> std::path::PathBuf {
    folder.join("output.log")
}

fn explain(contender: Contender, protocol: Protocol, process: &Process) -> String {
    format!("{} failed on {}; its last words:\n{}", contender.label(), protocol.label(), process.log_tail())
}
