//! The sidecar's process: command line, log and signals, then the library.
//!
//! It holds no behaviour of its own, so that `fusebox run` embeds exactly the same proxy.

use std::process::ExitCode;

use clap::Parser;
use fusebox_proxy::{Options, init_logging, run, termination};

fn main() -> ExitCode {
    let options = Options::parse();
    init_logging(options.log_format);
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
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
