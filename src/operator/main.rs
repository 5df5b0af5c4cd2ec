//! The `fusebox-operator` program: reads its settings and runs the library.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use fusebox_operator::cleanup::Cleanup;
use fusebox_operator::health::Health;
use fusebox_operator::metrics::Metrics;
use fusebox_operator::probe::Probe;
use fusebox_operator::run::{Operator, components};
use fusebox_operator::settings::Settings;
use fusebox_operator::telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long the last spans may take.
const FLUSH: Duration = Duration::from_secs(1);

/// The Fusebox operator: turns resilience policies into sidecar configurations, and what the
/// sidecars see into the policies' status. The cluster is that of KUBECONFIG, or the one it runs in.
#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    tool: Option<Tool>,
}

/// What the program can do besides being the operator.
#[derive(Debug, Subcommand)]
enum Tool {
    /// Ask an operator how it is, until it is well; exit code 0 only then.
    Probe(Probe),
    /// Remove what the operator made, after it was uninstalled.
    Cleanup(Cleanup),
}

#[tokio::main]
async fn main() -> ExitCode {
    let CommandLine { settings, tool } = CommandLine::parse();
    let outcome = match tool {
        None => run(settings).await,
        Some(Tool::Probe(probe)) => probe.run().await.map(|answer| println!("{answer}")).map_err(Into::into),
        Some(Tool::Cleanup(cleanup)) => clean_up(&cleanup, &settings.namespace).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fusebox-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    settings.check()?;
    let (health, metrics) = (Health::starting(components()), Metrics::new()?);
    let telemetry = telemetry::start(&settings, &health, &metrics)?;
    let config = kube::Config::infer().await.context("no cluster: set KUBECONFIG, or run inside a cluster")?;
    let operator = Operator::new(settings, config, health, metrics).await?;
    let outcome = operator.run(on_signal()?).await;
    tokio::task::spawn_blocking(move || telemetry.finish(FLUSH)).await?;
    outcome
}

async fn clean_up(cleanup: &Cleanup, own: &str) -> anyhow::Result<()> {
    let client = kube::Client::try_default().await.context("no cluster: set KUBECONFIG, or run inside a cluster")?;
    println!("{}", cleanup.run(client, own).await?);
    Ok(())
}

/// Cancelled by SIGTERM or SIGINT.
fn on_signal() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}
