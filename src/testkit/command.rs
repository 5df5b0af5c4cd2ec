//! The `fusebox-testkit` command, for `make cluster`, `make node-up` and looking around in those clusters by hand.
//!
//! Owns arguments and what is printed. It must not do the work itself, so that tests and people use the same code.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::binaries::ControlPlane;
use crate::cluster::standing::{StandingCluster, Status};
use crate::helm;
use crate::images;
use crate::node::{self, StandingNode};
use crate::release::{self, Packing};

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
    /// A real node on this machine: the control plane, and containerd with all that pods need. Needs root.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make the images of the tests on real pods, and print the paths of their archives.
    TestImages,
    /// Get all that the tests start: the control plane, the Prometheus CRDs, promtool, Redis. Prints where they are.
    Fetch,
    /// Pack the operator and the proxy into images, and give them to Docker if its daemon answers.
    Pack(PackArguments),
    /// Run the helm that the tests use.
    Helm {
        /// Handed to helm.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct PackArguments {
    /// The folder with the built programs.
    #[arg(long)]
    programs: PathBuf,
    /// Where the archives go. Default: `images` in the cache folder.
    #[arg(long)]
    output: Option<PathBuf>,
    /// The images' tag.
    #[arg(long, default_value = release::VERSION)]
    tag: String,
    /// The commit they were built from.
    #[arg(long)]
    revision: Option<String>,
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

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Start it, or do nothing if it is up.
    Up {
        /// Where everything of the node lies; by default in the cache.
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// End it, its pods too, and remove its data.
    Down,
    /// Say whether it is up; the exit code is 0 only then.
    Status,
    /// Print the path of the kubeconfig with full rights.
    Kubeconfig,
    /// Run kubectl against it.
    Kubectl {
        /// Handed to kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Give images to it; pods use them with `imagePullPolicy: Never`.
    Import {
        /// Archives as `docker save` writes them, or OCI archives. Without any: the images of the tests on real pods.
        archives: Vec<PathBuf>,
    },
}

/// Runs the command line of this process.
///
/// # Errors
/// When the command fails; the message says what to do.
pub async fn run() -> Result<()> {
    match Arguments::parse().tool {
        Tool::Cluster(command) => run_cluster(command).await,
        Tool::Node(command) => run_node(command).await,
        Tool::TestImages => tokio::task::spawn_blocking(test_images).await?,
        Tool::Fetch => tokio::task::spawn_blocking(fetch).await?,
        Tool::Pack(arguments) => tokio::task::spawn_blocking(move || pack(&arguments)).await?,
        Tool::Helm { arguments } => {
            let program = tokio::task::spawn_blocking(helm::helm).await??;
            Err(Command::new(program).args(arguments).exec().into())
        }
    }
}

fn test_images() -> Result<()> {
    for image in images::of_tests()? {
        println!("{}", image.archive.display());
    }
    Ok(())
}

fn fetch() -> Result<()> {
    let plane = ControlPlane::find_or_build()?;
    let places = [
        ("kube-apiserver", plane.kube_apiserver),
        ("prometheus CRDs", crate::prometheus::crds()?),
        ("promtool", crate::prometheus::promtool()?),
        ("libfaketime", crate::faketime::library()?),
        ("redis-server", crate::redis::server_program()?),
        ("h2spec", crate::h2spec::program()?),
        ("image packer", release::packer()?),
        ("helm", helm::helm()?),
        ("kubeconform", helm::kubeconform()?),
        ("schemas", helm::schemas()?),
        ("cert-manager CRDs", helm::cert_manager_crds()?),
    ];
    for (name, path) in places {
        println!("{name:<16} {}", path.display());
    }
    Ok(())
}

fn pack(arguments: &PackArguments) -> Result<()> {
    let output = match &arguments.output {
        Some(folder) => folder.clone(),
        None => release::folder()?,
    };
    let packing = Packing {
        programs: &arguments.programs,
        output: &output,
        tag: &arguments.tag,
        revision: arguments.revision.as_deref(),
    };
    let packed = release::pack(&packing)?;
    for image in &packed {
        println!("{}", image.report);
    }
    let loaded = release::load_into_docker(&packed)?;
    println!(
        "{}",
        if loaded { "Docker has them." } else { "No Docker daemon answers; the archives are what there is." }
    );
    Ok(())
}

async fn run_cluster(command: ClusterCommand) -> Result<()> {
    let cluster = StandingCluster::default_one()?;
    match command {
        ClusterCommand::Up => {
            let started = cluster.up().await?;
            let first = if started { "The cluster is up." } else { "The cluster was up already." };
            println!("{}", usage(first, &cluster.kubeconfig_path(), "make cluster-down"));
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
    println!("{}", usage("The cluster is up.", &cluster.kubeconfig_path(), "make cluster-down"));
    Ok(())
}

async fn run_node(command: NodeCommand) -> Result<()> {
    let node = StandingNode::of_this_machine()?;
    match command {
        NodeCommand::Up { folder } => {
            let node = folder.map_or(Ok(node), |folder| std::path::absolute(folder).map(StandingNode::at))?;
            let started = node.up().await?;
            let first = if started { "The node is up." } else { "The node was up already." };
            println!("{}", usage(first, &node.kubeconfig_path(), "make node-down"));
        }
        NodeCommand::Down => {
            let ended = node.down().await?;
            println!("{}", if ended { "The node is down, its data is removed." } else { "There was no node." });
        }
        NodeCommand::Status => {
            node_is_up(&node).await?;
            println!("{}", usage("The node is up.", &node.kubeconfig_path(), "make node-down"));
        }
        NodeCommand::Kubeconfig => println!("{}", node.kubeconfig_path().display()),
        NodeCommand::Kubectl { arguments } => {
            node_is_up(&node).await?;
            become_kubectl(&node.kubeconfig_path(), &arguments).await?;
        }
        NodeCommand::Import { archives } => tokio::task::spawn_blocking(move || import(&node, &archives)).await??,
    }
    Ok(())
}

async fn node_is_up(node: &StandingNode) -> Result<()> {
    let status = node.status().await;
    ensure!(status != node::Status::Down, "there is no node: start it with `make node-up`");
    ensure!(status == node::Status::Up, "the node is broken: `make node-up` replaces it, `make node-down` removes it");
    Ok(())
}

fn import(node: &StandingNode, archives: &[PathBuf]) -> Result<()> {
    if !archives.is_empty() {
        return node.import(archives);
    }
    for image in images::of_tests()? {
        node.import(std::slice::from_ref(&image.archive))?;
        println!("{}", image.name);
    }
    Ok(())
}

async fn kubectl(cluster: &StandingCluster, arguments: &[String]) -> Result<()> {
    ensure!(cluster.status().await == Status::Up, "the cluster is not up: start it with `make cluster`");
    become_kubectl(&cluster.kubeconfig_path(), arguments).await
}

/// Becomes kubectl, so that its exit code, terminal and signals are kubectl's own.
async fn become_kubectl(kubeconfig: &Path, arguments: &[String]) -> Result<()> {
    let plane = tokio::task::spawn_blocking(ControlPlane::find_or_build).await??;
    Err(Command::new(plane.kubectl).args(arguments).env("KUBECONFIG", kubeconfig).exec().into())
}

fn usage(first: &str, kubeconfig: &Path, end: &str) -> String {
    format!("{first}\n\n  export KUBECONFIG={}\n\nEnd it with `{end}`.", kubeconfig.display())
}
