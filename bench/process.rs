//! One running proxy: started on its core, watched until it listens, read from /proc, ended.
//!
//! It must not outlive the measurement: dropping it kills. What it printed is kept, because a proxy that does not start
//! says why nowhere else.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::machine::field;

/// A proxy and its children.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// What a proxy has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// User and system time since it started, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident memory, in KiB. Pages that several of its processes share count for each.
    pub(crate) rss_kib: f64,
}

/// /proc counts in hundredths of a second on every architecture that Linux calls Linux (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;
/// Fields of /proc/PID/stat after the program's name: the parent, user time, system time.
const PARENT: usize = 1;
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(3);
const LOG_LINES: usize = 12;
/// How often something that is awaited is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Process {
    /// Starts it. Its standard output and error go to `log`.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn();
        Ok(Self { child: child.context("cannot run taskset: install util-linux")?, log })
    }

    /// Waits until `address` accepts connections; `pause` is called between two looks.
    ///
    /// # Errors
    /// It ended, or does not listen in time: with the last lines of its log.
    pub(crate) fn await_listening(&mut self, address: SocketAddr, mut pause: impl FnMut() -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status} before it listened\n{}", self.log_tail());
            }
            if begin.elapsed() > START_LIMIT {
                bail!("it does not listen on {address} after {START_LIMIT:?}\n{}", self.log_tail());
            }
            pause()?;
        }
        Ok(())
    }

    /// CPU and memory of it and its children.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let family = family(self.child.id())?;
        let (mut cpu_seconds, mut rss_kib) = (0.0, 0.0);
        for id in family {
            cpu_seconds += cpu_seconds_of(&id.to_string())?;
            let status = fs::read_to_string(format!("/proc/{id}/status")).context("the proxy is gone")?;
            let resident = field(&status, "VmRSS:").and_then(|kib| kib.parse::<f64>().ok());
            rss_kib += resident.context("the proxy has ended")?;
        }
        Ok(Usage { cpu_seconds, rss_kib })
    }

    /// The last lines it printed, each marked as a quotation.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(64 << 10)..]).into_owned();
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        if last.is_empty() {
            return "  | it printed nothing".to_owned();
        }
        last.iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
    }

    /// Ends it, and its children with it; `pause` is called between two looks.
    pub(crate) fn stop(mut self, mut pause: impl FnMut() -> Result<()>) -> Result<()> {
        self.signal(Signal::TERM);
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begin.elapsed() > STOP_LIMIT {
                return Ok(());
            }
            pause()?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may have ended on its own, which is what is wanted.
            kill_process(id, signal).ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        for id in family(self.child.id()).unwrap_or_default() {
            if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
                kill_process(id, Signal::KILL).ok();
            }
        }
        self.child.wait().ok();
    }
}

/// User and system time of one process, such as `self`.
pub(crate) fn cpu_seconds_of(process: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("the proxy is gone")?;
    let fields = stat_fields(&stat);
    let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok());
    let used = ticks(USER_TIME).zip(ticks(SYSTEM_TIME)).context("/proc has no CPU times")?;
    Ok((used.0 + used.1) / TICKS_PER_SECOND)
}

/// A process and its children: nginx has a master and a worker.
fn family(parent: u32) -> Result<Vec<u32>> {
    let mut found = vec![parent];
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes come and go while they are listed.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if stat_fields(&stat).get(PARENT).and_then(|id| id.parse().ok()) == Some(parent) {
            found.push(id);
        }
    }
    Ok(found)
}

/// What follows the program's name, which may itself hold spaces and brackets.
fn stat_fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| rest.split_whitespace().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Result<()> {
        Ok(())
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let fields = stat_fields("42 (a b) c) S 7 42 42 0 -1 4194304 1 0 0 0 150 50 0 0");
        assert_eq!((fields[PARENT], fields[USER_TIME], fields[SYSTEM_TIME]), ("7", "150", "50"));
    }

    #[test]
    fn a_proxy_that_ends_at_once_is_told_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo unknown directive keepalived; exit 3"]);
        let mut process = Process::start(&mut command, folder.path().join("log")).unwrap();
        let error = process.await_listening(SocketAddr::from(([127, 0, 0, 1], 1)), nothing).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("| unknown directive keepalived"), "{text}");
    }

    #[test]
    fn usage_counts_children_and_stop_ends_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & wait"]);
        let process = Process::start(&mut command, folder.path().join("log")).unwrap();
        let id = process.child.id();
        while family(id).unwrap().len() < 2 {
            std::thread::yield_now();
        }
        assert!(process.usage().unwrap().rss_kib > 0.0);
        let child = family(id).unwrap()[1];
        process.stop(nothing).unwrap();
        assert!(!fs::exists(format!("/proc/{id}")).unwrap());
        kill_process(Pid::from_raw(i32::try_from(child).unwrap()).unwrap(), Signal::KILL).unwrap();
    }
}
