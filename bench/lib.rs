//! For development only: our proxy beside Envoy, nginx and HAProxy, on one core each in turn.
//!
//! Owns the rounds, from fetched programs to the written table. No product crate may depend on it. Rounds are interleaved,
//! so that what the machine does meanwhile falls on all proxies alike.

mod contender;
mod figures;
mod load;
mod machine;
mod measure;
mod options;
mod picture;
mod process;
mod programs;
mod report;
mod scenario;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use contender::{Contender, Variant};
use figures::{Comparison, Direct, Sample};
use load::Engine;
use machine::{CoreTime, LOOK, Machine, QUIET_PERCENT};
use measure::Laboratory;
use options::{LEAST_ROUNDS, Options, Selection};
use programs::Programs;
use report::{Report, Version};
use scenario::Pacing;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let begin = Instant::now();
    let mut selection = Selection::of(&options.only);
    let programs = Programs::prepare(options, &selection)?;
    let complete = selection.is_everything() && !options.quick && options.rounds >= LEAST_ROUNDS;
    if selection.access_log && !programs.has_access_log()? {
        println!("our proxy has no --access-log: its cost is left out");
        selection.access_log = false;
    }
    let mut report = Report::new(Machine::read(), versions(&programs, &selection)?, &selection);
    println!("{}", report.machine);
    machine::pin_to_load_core()?;
    let pacing = if options.quick { Pacing::QUICK } else { Pacing::FULL };
    let mut laboratory = Laboratory { engine: Engine::new()?, programs, pacing };
    warn_if_busy(&mut laboratory.engine)?;
    let rounds = if options.quick { 1 } else { options.rounds };
    for round in 1..=rounds {
        println!("\nround {round} of {rounds}");
        run_round(&mut laboratory, &selection, round, &mut report)?;
    }
    println!("\n{}", report.tables());
    println!("no wrong answer in any run; {:.0} s", begin.elapsed().as_secs_f64());
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if complete {
        return report.write_into(&options.repository);
    }
    println!("docs/benchmarks.md is left as it is: only a full run of {LEAST_ROUNDS} rounds is written there");
    Ok(())
}

fn warn_if_busy(engine: &mut Engine) -> Result<()> {
    let before = CoreTime::read();
    engine.rest(LOOK)?;
    let busy = before.zip(CoreTime::read()).map(|(before, after)| after.busy_percent_since(&before));
    if let Some(busy) = busy.filter(|busy| *busy > QUIET_PERCENT) {
        println!("warning: other programs use {busy:.0} % of the machine; rates and latencies will be noisy");
    }
    Ok(())
}

fn versions(programs: &Programs, selection: &Selection) -> Result<Vec<Version>> {
    let named = |&contender: &Contender| Ok(Version { contender, version: programs.version(contender)? });
    selection.contenders.iter().map(named).collect()
}

/// Every second round goes the other way round.
fn run_round(laboratory: &mut Laboratory, selection: &Selection, round: usize, report: &mut Report) -> Result<()> {
    let mut order = selection.contenders.clone();
    if round.is_multiple_of(2) {
        order.reverse();
    }
    for &protocol in &selection.protocols {
        let latencies = laboratory.direct(protocol)?;
        let (name, p50, p99) = (protocol.label(), latencies.p50_us, latencies.p99_us);
        println!("  {name:<8} direct   p50 {p50:.0} µs, p99 {p99:.0} µs");
        report.direct.push(Direct { round, protocol, latencies });
        for &contender in &order {
            let figures = laboratory.visit(contender, protocol, &latencies)?;
            let sample = Sample { round, contender, protocol, figures };
            println!("  {}", report::progress(&sample));
            report.samples.push(sample);
        }
    }
    let wanted = [
        (selection.access_log, Variant::AccessLog),
        (selection.access_log, Variant::SampledAccessLog),
        (selection.breakers, Variant::ManyBreakers),
        (selection.shared_limit, Variant::SharedLimit),
    ];
    let ours = wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, variant)| (Contender::Fusebox, variant));
    let limited = order.iter().filter(|contender| selection.limit && Contender::LIMITED.contains(contender));
    let limited = limited.map(|contender| (*contender, Variant::RateLimit));
    for (contender, variant) in ours.chain(limited) {
        let comparison = laboratory.compare(contender, variant)?;
        println!("  {}", report::comparison_line(&comparison));
        add(&mut report.comparisons, comparison);
    }
    Ok(())
}

/// Rounds of one comparison become one.
fn add(comparisons: &mut Vec<Comparison>, fresh: Comparison) {
    match comparisons.iter_mut().find(|known| known.is_of(&fresh)) {
        Some(known) => {
            known.cpu_ratios.extend(fresh.cpu_ratios);
            known.cpu_seconds_per_100k.extend(fresh.cpu_seconds_per_100k);
            known.added.extend(fresh.added);
            known.answered += fresh.answered;
            known.lines += fresh.lines;
        }
        None => comparisons.push(fresh),
    }
}
