//! The `fusebox` command: standalone runs, offline checks, and a look at a cluster's breakers and rate limits.
//!
//! Each command is one module, and all decisions are the compiler's and the engine's: the command must only read, ask
//! and print, so that what it says is what the operator would do.

mod arguments;
mod check;
mod cluster;
mod conditions;
mod explain;
mod limits;
mod manifests;
mod operations;
mod pods;
mod quota;
mod rate_limits;
mod refusal;
mod render;
mod run;
mod sidecars;
mod status;
mod table;
mod terminal;
mod trip;
mod values;

#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::Parser as _;

pub use arguments::{Arguments, Command, Output};
pub use terminal::{Exit, Terminal};

/// Runs one command line and returns how it ended.
pub async fn execute(arguments: impl IntoIterator<Item = OsString>, terminal: &mut Terminal) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return terminal.usage(&error),
    };
    let done = match arguments.command {
        Command::Run(arguments) => run::run(&arguments, terminal).await,
        Command::Render(arguments) => render::render(&arguments, terminal),
        Command::Check(arguments) => check::check(&arguments, terminal),
        Command::Status(arguments) => status::status(&arguments, terminal).await,
        Command::Trip(arguments) => trip::trip(&arguments, terminal).await,
        Command::Release(arguments) => trip::release(&arguments, terminal).await,
        Command::Limits(arguments) => limits::limits(&arguments, terminal).await,
        Command::Quota(arguments) => quota::quota(&arguments, terminal),
        Command::Explain(arguments) => explain::explain(&arguments, terminal).await,
    };
    done.unwrap_or_else(|error| {
        terminal.error(&format!("{error:#}"));
        Exit::Failed
    })
}
