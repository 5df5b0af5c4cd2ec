//! One of our own binaries under test.
//!
//! Owns finding it, its log file, its signals, and waiting until it is up. It must not build it: cargo is running already.
//! The binaries are tested as processes because freezing, killing and restarting them is what the tests are about.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use crate::child::KeptChild;
use crate::eventually::eventually;
use crate::http::Client;
use crate::ports::random;

/// How much of a log is shown in an error, and of each process in a failed test's output.
const SHOWN_LOG_LINES: usize = 60;
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a process is to be started.
#[derive(Debug)]
pub struct ProcessBuilder {
    name: String,
    command: std::process::Command,
}

/// A running process. Dropping it kills it; in a test its log goes to the test's output, which is shown when the test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: KeptChild,
    log: PathBuf,
}

impl ProcessBuilder {
    /// A binary of this workspace, found beside the running test or program.
    ///
    /// # Errors
    /// When it has not been built; the message says how.
    pub fn binary(name: &str) -> Result<Self> {
        Ok(Self::program(name, &binary_path(name)?))
    }

    /// Any program, under the name used for its log.
    #[must_use]
    pub fn program(name: &str, path: &Path) -> Self {
        Self { name: name.to_owned(), command: crate::lifeline::command(path) }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it, with both output streams going to the log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self) -> Result<Process> {
        let Self { name, mut command } = self;
        let log = crate::lifeline::scratch()?.join(format!("{name}-{:08x}.log", random() & 0xffff_ffff));
        let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone().context("cannot share the log")?).stderr(file);
        let child = KeptChild::spawn(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Process { name, child, log })
    }
}

impl Process {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// All it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of the log that contains `text`, and returns the line.
    ///
    /// # Errors
    /// After `deadline`, or when the process ends first; with the end of the log.
    pub async fn wait_for_line(&mut self, text: &str, deadline: Duration) -> Result<String> {
        let log = self.log.clone();
        self.wait_until(&format!("a line with {text:?}"), deadline, async || {
            let content = fs::read_to_string(&log)?;
            let line = content.lines().find(|line| line.contains(text));
            line.map(str::to_owned).context("no such line")
        })
        .await
    }

    /// Waits until GET of `path` at `address` answers 2xx.
    ///
    /// # Errors
    /// After `deadline`, or when the process ends first; with the end of the log.
    pub async fn wait_for_http(&mut self, address: SocketAddr, path: &str, deadline: Duration) -> Result<()> {
        let client = Client::new(address).with_timeout(PROBE_TIMEOUT);
        self.wait_until(&format!("http://{address}{path} answers"), deadline, async || {
            let response = client.get(path).await?;
            ensure!(response.status.is_success(), "{}: {}", response.status, response.text());
            Ok(())
        })
        .await
    }

    /// Waits until the process has ended by itself or by a signal sent before.
    ///
    /// # Errors
    /// After `deadline`, with the end of the log.
    pub async fn wait_for_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        let child = &mut self.child;
        let ended = eventually(deadline, &what, async || child.exited()?.context("still running")).await;
        ended.with_context(|| log_end(&self.name, &self.log))
    }

    /// Freezes it (SIGSTOP); when this returns, none of its threads runs any more.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub async fn pause(&self) -> Result<()> {
        self.child.pause().await
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn resume(&self) -> Result<()> {
        self.child.signal(Signal::CONT)
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn terminate(&self) -> Result<()> {
        self.child.signal(Signal::TERM)
    }

    /// Ends it at once (SIGKILL), as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    async fn wait_until<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let what = format!("{}: {what}", self.name);
        let child = &mut self.child;
        let waited = eventually(deadline, &what, async || match condition().await {
            Ok(value) => Ok(Ok(value)),
            Err(seen) => match child.exited()? {
                Some(status) => Ok(Err(seen.context(format!("it ended with {status}")))),
                None => Err(seen),
            },
        })
        .await;
        waited.flatten().with_context(|| log_end(&self.name, &self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill();
        if std::thread::panicking() || is_test() {
            // Captured by the test harness, and shown for failed tests alone.
            println!("{}", log_end(&self.name, &self.log));
        }
        fs::remove_file(&self.log).ok();
    }
}

/// The path of a binary of this workspace, built with the same profile as this program.
///
/// # Errors
/// When it has not been built; the message says how.
pub fn binary_path(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    // A test lies in target/debug/deps, a program in target/debug.
    for folder in own.ancestors().skip(1).take(2) {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("the binary {name} is not built beside {}: run `cargo build --workspace --bins` first", own.display())
}

fn is_test() -> bool {
    let own = std::env::current_exe().ok();
    own.and_then(|path| Some(path.parent()?.file_name()? == "deps")).unwrap_or(false)
}

fn log_end(name: &str, log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(SHOWN_LOG_LINES);
    format!("--- end of the log of {name} ---\n{}\n---", lines[first..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> ProcessBuilder {
        ProcessBuilder::program("shell", Path::new("/bin/sh")).args(["-c", script])
    }

    #[tokio::test]
    async fn a_line_is_awaited_and_sigterm_ends_it() -> Result<()> {
        let mut process = shell("echo state: $STATE; exec sleep 600").env("STATE", "ready").start()?;
        assert_eq!(process.wait_for_line("state:", DEADLINE).await?, "state: ready");
        process.pause().await?;
        process.resume()?;
        process.terminate()?;
        assert!(!process.wait_for_exit(DEADLINE).await?.success());
        Ok(())
    }

    #[tokio::test]
    async fn a_process_that_ends_early_is_reported_with_its_log_at_once() -> Result<()> {
        let mut process = shell("echo port 80 is taken >&2; exit 3").start()?;
        let started = std::time::Instant::now();
        let failed = process.wait_for_line("ready", DEADLINE).await.map_err(|error| format!("{error:#}"));
        let text = failed.unwrap_err();
        assert!(text.contains("exit status: 3") && text.contains("port 80 is taken"), "{text}");
        assert!(started.elapsed() < DEADLINE);
        Ok(())
    }

    #[test]
    fn a_binary_that_is_not_built_is_named_with_the_command_that_builds_it() {
        let text = binary_path("fusebox-nothing").unwrap_err().to_string();
        assert!(text.contains("fusebox-nothing") && text.contains("cargo build"), "{text}");
    }

    #[tokio::test]
    async fn dropping_kills_even_a_frozen_process() -> Result<()> {
        let process = shell("exec sleep 600").start()?;
        process.pause().await?;
        let pid = i32::try_from(process.pid())?;
        drop(process);
        assert!(crate::identity::Identity::of(pid).is_none());
        Ok(())
    }
}
