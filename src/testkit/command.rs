//! The `fusebox-testkit` command, for `make cluster` and for looking around in that cluster by hand.
//!
//! Owns arguments and what is printed. It must not do the work itself, so that tests and people use the same code.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::binaries::ControlPlane;
use crate::cluster::standing::{StandingCluster, Status};

/// Tools for developing Fusebox.
#[derive(Debug, Parser)]
#[command(name = "fusebox-testkit", version)]
struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// A local control plane: etcd, kube-apiserver and kube-controller-manager.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Get all that the tests start: the control plane, the Prometheus CRDs and promtool. Prints where they are.
    Fetch,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Start it, or do nothing if it is up.
    Up,
    /// End it and remove its data.
    Down,
    /// Say whether it is up; the exit code is 0 only then.
    Status,
    /// Run kubectl against it.
    Kubectl {
        /// Handed to kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Runs the command line of this process.
///
/// # Errors
/// When the command fails; the message says what to do.
pub async fn run() -> Result<()> {
    match Arguments::parse().tool {
        Tool::Cluster(command) => run_cluster(command).await,
        Tool::Fetch => tokio::task::spawn_blocking(fetch).await?,
    }
}

fn fetch() -> Result<()> {
    let plane = ControlPlane::find_or_build()?;
    let places = [
        ("kube-apiserver", plane.kube_apiserver),
        ("prometheus CRDs", crate::prometheus::crds()?),
        ("promtool", crate::prometheus::promtool()?),
        ("h2spec", crate::h2spec::program()?),
    ];
    for (name, path) in places {
        println!("{name:<16} {}", path.display());
    }
    Ok(())
}

async fn run_cluster(command: ClusterCommand) -> Result<()> {
    let cluster = StandingCluster::default_one()?;
    match command {
        ClusterCommand::Up => {
            let started = cluster.up().await?;
            println!("{}", usage(&cluster, if started { "The cluster is up." } else { "The cluster was up already." }));
        }
        ClusterCommand::Down => {
            let ended = cluster.down().await?;
            println!("{}", if ended { "The cluster is down, its data is removed." } else { "There was no cluster." });
        }
        ClusterCommand::Status => status(&cluster).await?,
        ClusterCommand::Kubectl { arguments } => kubectl(&cluster, &arguments).await?,
    }
    Ok(())
}

async fn status(cluster: &StandingCluster) -> Result<()> {
    let status = cluster.status().await;
    ensure!(status != Status::Down, "the cluster is down: start it with `make cluster`");
    ensure!(status == Status::Up, "the cluster is broken: `make cluster` replaces it, `make cluster-down` removes it");
    println!("{}", usage(cluster, "The cluster is up."));
    Ok(())
}

/// Becomes kubectl, so that its exit code, terminal and signals are kubectl's own.
async fn kubectl(cluster: &StandingCluster, arguments: &[String]) -> Result<()> {
    ensure!(cluster.status().await == Status::Up, "the cluster is not up: start it with `make cluster`");
    let plane = tokio::task::spawn_blocking(ControlPlane::find_or_build).await??;
    let error = Command::new(plane.kubectl).args(arguments).env("KUBECONFIG", cluster.kubeconfig_path()).exec();
    Err(error.into())
}

fn usage(cluster: &StandingCluster, first: &str) -> String {
    let kubeconfig = cluster.kubeconfig_path();
    format!("{first}\n\n  export KUBECONFIG={}\n\nEnd it with `make cluster-down`.", kubeconfig.display())
}
