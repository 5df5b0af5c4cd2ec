//! The machine: its description, and which core does what.
//!
//! It must not decide what is measured. Figures without the machine they hold for mislead.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

/// The core that belongs to the proxy under test.
pub(crate) const PROXY_CORE: &str = "0";
/// The core of the load generator and the upstream.
pub(crate) const LOAD_CORE: &str = "1";

/// Up to this, what other programs use does not show in the figures.
pub(crate) const QUIET_PERCENT: f64 = 5.0;
/// How long the machine is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(500);
/// Words of the first line of /proc/stat: idle time, and time spent waiting for input and output.
const IDLE: [usize; 2] = [4, 5];

/// What all cores together have done, in ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CoreTime {
    busy: f64,
    all: f64,
}

/// What the figures hold for.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) system: String,
}

impl Machine {
    /// Reads it from /proc and /etc.
    pub(crate) fn read() -> Self {
        let processors = text("/proc/cpuinfo");
        let memory_kib: u64 = field(&text("/proc/meminfo"), "MemTotal:").and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let system = text("/etc/os-release");
        let named = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Self {
            processor: model.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.to_owned()),
            cores: processors.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: memory_kib.div_ceil(1024 * 1024),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: named.unwrap_or("Linux").trim_matches('"').to_owned(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processor, cores, memory_gib, kernel, system } = self;
        write!(formatter, "{cores} cores of {processor}, {memory_gib} GiB, {system}, Linux {kernel}")
    }
}

/// Moves this process to the load's core; what it starts is moved to another by its command.
pub(crate) fn pin_to_load_core() -> Result<()> {
    ensure!(Path::new("/proc/self/stat").exists(), "this needs Linux: it reads CPU and memory from /proc");
    let pinned = Command::new("taskset")
        .args(["--cpu-list", "--pid", LOAD_CORE, &std::process::id().to_string()])
        .output()
        .context("cannot run taskset: install util-linux")?;
    ensure!(
        pinned.status.success(),
        "cannot use core {LOAD_CORE}; the proxies need core {PROXY_CORE} and the load one of its own: {}",
        String::from_utf8_lossy(&pinned.stderr).trim()
    );
    Ok(())
}

impl CoreTime {
    /// Since the machine started; `None` where /proc does not say.
    pub(crate) fn read() -> Option<Self> {
        Self::parse(&text("/proc/stat"))
    }

    /// How much of all cores was in use since `earlier`.
    pub(crate) fn busy_percent_since(&self, earlier: &Self) -> f64 {
        100.0 * (self.busy - earlier.busy) / (self.all - earlier.all).max(1.0)
    }

    fn parse(stat: &str) -> Option<Self> {
        let words = stat.lines().next()?.split_whitespace().map(|word| word.parse().unwrap_or(0.0));
        let words: Vec<f64> = words.collect();
        let idle = IDLE.iter().map(|&position| words.get(position)).sum::<Option<f64>>()?;
        let all: f64 = words.iter().sum();
        Some(Self { busy: all - idle, all })
    }
}

/// The first word after `name` in a file such as /proc/meminfo.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
}

/// A file's content; empty where there is none.
fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described_in_one_line() {
        let machine = Machine::read();
        assert!(machine.cores > 0 && machine.memory_gib > 0);
        assert!(!machine.to_string().contains('\n') && machine.to_string().contains("GiB"));
    }

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let before = CoreTime::parse("cpu  10 5 20 100 40 0 5 0 0 0\ncpu0 1 1 1").unwrap();
        assert_eq!(before, CoreTime { busy: 40.0, all: 180.0 });
        let after = CoreTime { busy: 50.0, all: 280.0 };
        assert_eq!(after.busy_percent_since(&before), 10.0);
        assert_eq!(CoreTime::parse("cpu 1"), None);
    }

    #[test]
    fn a_field_is_the_first_word_after_its_name() {
        assert_eq!(field("VmPeak:\t  9 kB\nVmRSS:\t  5120 kB\n", "VmRSS:"), Some("5120"));
        assert_eq!(field("", "VmRSS:"), None);
    }
}
