//! The `fusebox-testkit` binary. It only calls the library.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match fusebox_testkit::command::run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
