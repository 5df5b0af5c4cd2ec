//! The command line: subcommands, options and their help.
//!
//! It must not do anything: what can be wrong about an argument is said here, by its name, before a command starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use fusebox_api::Duration;
use fusebox_proxy::{OutboundSpec, UpstreamSpec};

const EXIT_CODES: &str =
    "Exit codes: 0 done; 1 failed, or mistakes were found; 2 the command line or a file can't be used;
3 asked for, but not confirmed in time.";

const RUN_EXAMPLES: &str = "Examples:
  Guard calls to a Service that listens on port 9000 of this machine:
    fusebox run -f policies/ --listen 127.0.0.1:8080 --upstream shop/payments=127.0.0.1:9000
    curl http://127.0.0.1:8080/

  Two Services behind one listener; the Host header chooses:
    fusebox run -f policies/ --listen 127.0.0.1:8080 \\
      --upstream shop/payments=127.0.0.1:9000 --upstream shop/ledger=127.0.0.1:9001
    curl -H 'Host: ledger.shop' http://127.0.0.1:8080/

Breakers' changes are printed as they come; RUST_LOG=info adds the proxy's own log. Ctrl-C drains.";

const RENDER_EXAMPLES: &str = "Examples:
  fusebox render -f policies/ -f deployments/
  kubectl get deploy,svc,ns,cb -A -o yaml | fusebox render -f - --status";

const CHECK_EXAMPLES: &str = "Examples:
  fusebox check -f policies/
  fusebox check -f policies/ -o json | jq -r '.findings[].message'
  helm template . | fusebox check -f -";

const STATUS_EXAMPLES: &str = "Examples:
  fusebox status
  fusebox status -n shop --watch
  fusebox status payments -n shop
  fusebox status -o wide -n shop
  fusebox status -o json | jq -r '.items[].status.state'
  fusebox status -o json | jq -r '.items[].live.pods[] | select(.connected | not).name'";

const TRIP_EXAMPLES: &str = "Examples:
  fusebox trip payments --for 30m --reason INC-42
  fusebox trip payments --for 10m --reason 'breaker is wrong' --state ForcedClosed
  fusebox release payments";

const RELEASE_EXAMPLES: &str = "Examples:
  fusebox release payments
  fusebox release payments -n shop --no-wait";

const EXPLAIN_EXAMPLES: &str = "Examples:
  fusebox explain pod/web-6d5f7c9b8-x2x7k
  fusebox explain pod/web-0 -n shop -o json";

const LIMITS_EXAMPLES: &str = "Examples:
  fusebox limits
  fusebox limits checkout -n shop
  fusebox limits checkout -o json | jq -r '.[].pods[].limits[].keys[]?.digest'
  fusebox limits unblock checkout --key alice --reason INC-42
  fusebox limits unblock checkout --digest 2bd806c97f0e00af --reason INC-42";

const QUOTA_EXAMPLES: &str = "Examples:
  fusebox quota alice=600/1m bob=60/1m:10 > quotas.yaml
  fusebox quota --from-file keys.txt > quotas.yaml      # a line for each key: KEY=REQUESTS/PER[:BURST]
  kubectl create configmap quotas --from-file=quotas.yaml --dry-run=client -o yaml | kubectl apply -f -";

/// Resilience for Kubernetes workloads: see, check, try and override circuit breakers and rate limits.
#[derive(Debug, Parser)]
#[command(name = "fusebox", version, about, after_help = EXIT_CODES, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enforce policies from files on this machine, without a cluster.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArguments),
    /// Print what the operator would apply for these files.
    #[command(after_help = RENDER_EXAMPLES)]
    Render(RenderArguments),
    /// Look for mistakes in files, without a cluster.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArguments),
    /// Show the breakers and rate limits of a cluster.
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArguments),
    /// Force every breaker of a policy open (or closed), on all pods, until a time.
    #[command(after_help = TRIP_EXAMPLES)]
    Trip(TripArguments),
    /// End what `trip` began: breakers decide by themselves again.
    #[command(after_help = RELEASE_EXAMPLES)]
    Release(ReleaseArguments),
    /// Show who is limited, as the sidecars say now, or let a client go.
    #[command(after_help = LIMITS_EXAMPLES)]
    Limits(LimitsArguments),
    /// Make a file of quotas from plain keys, without a cluster.
    #[command(after_help = QUOTA_EXAMPLES)]
    Quota(QuotaArguments),
    /// Say which policies apply to a pod, which do not, and why.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArguments),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
}

/// How a status is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StatusOutput {
    /// For people.
    #[default]
    Table,
    /// For people, with the breakers of each pod.
    Wide,
    /// For scripts.
    Json,
}

/// What `run` is told.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Manifests: a file, a folder, or - for standard input. Repeatable.
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub filenames: Vec<PathBuf>,
    /// Where to listen; port 0 takes any free one. With several Services the Host header chooses, unless one is named.
    #[arg(long, value_name = "ADDR[=NAMESPACE/SERVICE:PORT]", required = true)]
    pub listen: Vec<OutboundSpec>,
    /// Where a Service really is. It need not be in the files. Repeatable: several for one Service are tried in order, or
    /// are its endpoints where a policy has scope Endpoint.
    #[arg(long, value_name = "NAMESPACE/SERVICE[:PORT]=ADDR", required = true)]
    pub upstream: Vec<UpstreamSpec>,
    /// Whose calls these are: policies of this namespace apply. Default: the namespace of the upstreams.
    #[arg(long, value_name = "NAMESPACE")]
    pub caller: Option<String>,
    /// Where /metrics, /health and /state answer.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15020")]
    pub admin: SocketAddr,
}

/// What `render` is told.
#[derive(Debug, Args)]
pub struct RenderArguments {
    /// Manifests: a file, a folder, or - for standard input. Repeatable.
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub filenames: Vec<PathBuf>,
    /// Print the policies with the status they would have before any proxy reports.
    #[arg(long)]
    pub status: bool,
}

/// What `check` is told.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Manifests: a file, a folder, or - for standard input. Repeatable.
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub filenames: Vec<PathBuf>,
    /// How findings are printed.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Which cluster, and whose eyes.
#[derive(Debug, Args)]
pub struct ClusterArguments {
    /// The kubeconfig. Default: KUBECONFIG, else ~/.kube/config, else the pod's own service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Default: its current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// What `status` is told.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// One policy, with its targets. Default: all policies of all namespaces, or of the one given.
    pub name: Option<String>,
    /// Go on showing it as it changes, until Ctrl-C.
    #[arg(short, long)]
    pub watch: bool,
    /// How it is printed: wide shows the breakers of each pod, json has them under `live` of each policy.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: StatusOutput,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// The states that a person can force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Forced {
    /// Refuse everything.
    #[default]
    ForcedOpen,
    /// Let everything pass.
    ForcedClosed,
}

/// What `trip` is told.
#[derive(Debug, Args)]
pub struct TripArguments {
    /// The policy.
    pub name: String,
    /// For how long, such as 30m; at most 24h.
    #[arg(long = "for", value_name = "DURATION", value_parser = trip_duration)]
    pub duration: Duration,
    /// Why, for those who see it.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// What the breakers are forced to.
    #[arg(long, value_enum, default_value_t)]
    pub state: Forced,
    /// Take the override over from whoever else manages it.
    #[arg(long)]
    pub take_over: bool,
    /// How it is waited for.
    #[command(flatten)]
    pub wait: WaitArguments,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// What `release` is told.
#[derive(Debug, Args)]
pub struct ReleaseArguments {
    /// The policy.
    pub name: String,
    /// How it is waited for.
    #[command(flatten)]
    pub wait: WaitArguments,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// How the fleet is waited for.
#[derive(Debug, Args)]
pub struct WaitArguments {
    /// Do not wait until every pod enforces it.
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for every pod.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub timeout: Duration,
}

/// What `explain` is told.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The pod, as pod/NAME.
    #[arg(value_name = "pod/NAME", value_parser = pod_name)]
    pub pod: String,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// What `limits` is told.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LimitsArguments {
    /// What to do. Default: show.
    #[command(subcommand)]
    pub command: Option<LimitsCommand>,
    /// What to show.
    #[command(flatten)]
    pub show: ShowLimitsArguments,
}

/// What to do about limits.
#[derive(Debug, Subcommand)]
pub enum LimitsCommand {
    /// Let a client go at once, with full buckets, on all pods.
    Unblock(UnblockArguments),
}

/// Which limits are shown.
#[derive(Debug, Args)]
pub struct ShowLimitsArguments {
    /// One RateLimit, with the keys that its pods refused most. Default: all of all namespaces, or of the one given.
    pub name: Option<String>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// What `limits unblock` is told.
#[derive(Debug, Args)]
#[group(id = "client", required = true, multiple = false, args = ["key", "digest"])]
pub struct UnblockArguments {
    /// The RateLimit.
    pub name: String,
    /// The client's key itself, which is made a digest here and sent nowhere. Repeatable: the parts of a key, in the policy's order.
    #[arg(long, value_name = "VALUE")]
    pub key: Vec<String>,
    /// The first 16 or more hexadecimal digits of the SHA-256 of the key, as `fusebox limits` shows them.
    #[arg(long, value_name = "HEX")]
    pub digest: Option<String>,
    /// Why, for those who see it.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// What `quota` is told.
#[derive(Debug, Args)]
pub struct QuotaArguments {
    /// Keys with their rates: REQUESTS/PER, and how many may come at once. Shells remember what is typed: prefer --from-file.
    #[arg(value_name = "KEY=REQUESTS/PER[:BURST]")]
    pub entries: Vec<String>,
    /// A file of such lines, or - for standard input. Empty lines and those that begin with # are passed over.
    #[arg(short = 'f', long, value_name = "FILE|-")]
    pub from_file: Option<PathBuf>,
}

const MAX_TRIP: Duration = Duration::from_secs(24 * 3_600);

fn trip_duration(text: &str) -> Result<Duration, String> {
    let duration: Duration = text.parse().map_err(|error| format!("{error}"))?;
    if duration == Duration::default() || duration > MAX_TRIP {
        return Err("must be more than 0s and at most 24h; set it again later if it has to last longer".to_owned());
    }
    Ok(duration)
}

fn pod_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some(("pod" | "pods" | "po", name)) if !name.is_empty() => Ok(name.to_owned()),
        Some(_) => Err(format!("{text:?} is not a pod; write pod/NAME (only pods have sidecars)")),
        None => Err(format!("write pod/{text}")),
    }
}
