//! The `fusebox` binary, also as `kubectl-fusebox`. It only calls the library.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use fusebox_cli::{Exit, Terminal};

fn main() -> ExitCode {
    let mut terminal = Terminal {
        out: Box::new(anstream::stdout()),
        err: Box::new(anstream::stderr()),
        redraws: std::io::stdout().is_terminal(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.error(&format!("the runtime could not be started: {error}"));
            return Exit::Failed.into();
        }
    };
    runtime.block_on(fusebox_cli::execute(std::env::args_os(), &mut terminal)).into()
}
