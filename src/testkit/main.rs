//! The `fusebox-testkit` binary. It only calls the library.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    fusebox_testkit::command::run().await
}
