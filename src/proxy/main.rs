//! The sidecar's process: command line, log and signals, then the library.
//!
//! It holds no behaviour of its own, so that `fusebox run` embeds exactly the same proxy.

use std::io::Write;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fusebox_proxy::{Options, Redirect, Wait, init_logging, raise_file_limit, run, termination};
use tokio::runtime::{Builder, Runtime};

/// The sidecar that enforces Fusebox policies on traffic.
#[derive(Debug, Parser)]
#[command(name = "fusebox-proxy", version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let the kernel lead this network namespace's TCP traffic to a sidecar, with nftables. Needs NET_ADMIN. May be
    /// repeated: the rules of an earlier run are replaced.
    Redirect(Redirect),
    /// Wait until the sidecar beside this process is ready.
    Wait(Wait),
}

fn main() -> ExitCode {
    let CommandLine { command, options } = CommandLine::parse();
    init_logging(options.log_format);
    let result = match command {
        Some(Command::Redirect(redirect)) => install(&redirect),
        Some(Command::Wait(wait)) => wait.until_ready().map_err(Into::into),
        None => serve(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "proxy ended");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: Options) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = runtime(options.thread_count())?;
    runtime.block_on(async { run(options, termination()?).await.map_err(Into::into) })
}

fn install(redirect: &Redirect) -> anyhow::Result<()> {
    let table = redirect.table()?;
    if redirect.dry_run {
        write!(std::io::stdout(), "{table}")?;
        return Ok(());
    }
    redirect.install()?;
    tracing::info!(uid = redirect.proxy_uid, "traffic is redirected");
    Ok(())
}

/// One thread needs no scheduler for many, which would cost a wake between threads for much of what happens.
fn runtime(threads: NonZeroUsize) -> std::io::Result<Runtime> {
    match threads.get() {
        1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}
