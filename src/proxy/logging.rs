//! Where log lines go and what they look like.
//!
//! It must be called once, by a process's `main`: a library that sets the log up by itself would
//! take it from whoever embeds it.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::options::LogFormat;

/// h2 warns of what clients do wrong, frame by frame, which would let them fill the log.
const DEFAULT_FILTER: &str = "info,h2=error";

/// Writes log lines to standard error from now on; `RUST_LOG` says which, `info` by default.
pub fn init_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call finds the log set up already, which is what it asked for.
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.try_init(),
    };
}
