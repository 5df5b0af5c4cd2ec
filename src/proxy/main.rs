//! The sidecar's process: command line, log and signals, then the library.
//!
//! It holds no behaviour of its own, so that `fusebox run` embeds exactly the same proxy.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::Parser;
use fusebox_proxy::{Options, init_logging, run, termination};
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let options = Options::parse();
    init_logging(options.log_format);
    let result = runtime(options.thread_count())
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(async { run(options, termination()?).await.map_err(Into::into) }));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "proxy ended");
            ExitCode::FAILURE
        }
    }
}

/// One thread needs no scheduler for many, which would cost a wake between threads for much of what happens.
fn runtime(threads: NonZeroUsize) -> std::io::Result<Runtime> {
    match threads.get() {
        1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}
