//! Things measured side by side: each round measures all of them, and what counts is the median of the rounds.
//!
//! It must not judge. Rounds are interleaved, because a machine's speed drifts and would otherwise favour whoever ran at the
//! right moment.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// How often each contender is measured.
pub(crate) const ROUNDS: usize = 201;

/// Requests in one measurement, by each thread: about a millisecond, so that on a busy machine most
/// measurements end before the scheduler takes the thread off its processor.
pub(crate) const REQUESTS: u32 = 20_000;

/// One thing measured.
pub(crate) struct Contender {
    name: &'static str,
    threads: u32,
    /// Runs [`REQUESTS`] requests on one thread.
    run: Box<dyn Fn() + Sync>,
    /// Nanoseconds a request, one for each round.
    rounds: Vec<f64>,
}

impl Contender {
    pub(crate) fn new(name: &'static str, threads: u32, run: impl Fn() + Sync + 'static) -> Self {
        Self { name, threads, run: Box::new(run), rounds: Vec::new() }
    }

    /// The time from the first thread's first request to the last one's last, over the requests of one thread:
    /// threads that the scheduler lets run one after the other do not pass for threads that never met.
    pub(crate) fn measure(&mut self) {
        let took = if self.threads == 1 { self.measure_alone() } else { self.measure_together() };
        self.rounds.push(took.as_secs_f64() * 1e9 / f64::from(REQUESTS));
    }

    fn measure_alone(&self) -> Duration {
        let began = Instant::now();
        (self.run)();
        began.elapsed()
    }

    fn measure_together(&self) -> Duration {
        let together = Barrier::new(self.threads as usize);
        let (run, together) = (&self.run, &together);
        let times: Vec<(Instant, Instant)> = thread::scope(|scope| {
            let measured = || {
                together.wait();
                let began = Instant::now();
                run();
                (began, Instant::now())
            };
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(measured)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let first = times.iter().map(|(began, _)| *began).min().unwrap();
        let last = times.iter().map(|(_, ended)| *ended).max().unwrap();
        last - first
    }

    pub(crate) fn median(&self) -> f64 {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2]
    }

    pub(crate) fn fastest(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// Measures each of them in every round.
pub(crate) fn measured(mut contenders: Vec<Contender>) -> Vec<Contender> {
    for _ in 0..ROUNDS {
        contenders.iter_mut().for_each(Contender::measure);
    }
    contenders
}

/// Prints medians, and their ratio to the first.
pub(crate) fn print(what: &str, contenders: &[Contender]) {
    println!("{what}, {ROUNDS} interleaved rounds of {REQUESTS} requests a thread\n");
    println!("{:<46} {:>7} {:>10} {:>10} {:>9}", "contender", "threads", "median ns", "fastest ns", "x first");
    let first = contenders.first().map_or(1.0, Contender::median);
    for contender in contenders {
        let (median, fastest) = (contender.median(), contender.fastest());
        println!(
            "{:<46} {:>7} {median:>10.1} {fastest:>10.1} {:>9.2}",
            contender.name,
            contender.threads,
            median / first
        );
    }
}
