//! What the kernel says of this process, for the `process_*` metrics, and what it grants.
//!
//! Linux only, by reading `/proc`: what cannot be read is left out rather than reported as zero.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More files than the most connections that make sense need.
const ENOUGH_FILES: u64 = 1 << 20;

/// The kernel's unit of CPU time in `/proc`, fixed at 100 a second for all programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// One reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ProcessUse {
    /// User and system time, in seconds.
    pub(crate) cpu_seconds: Option<f64>,
    /// Memory in RAM, in bytes.
    pub(crate) resident_bytes: Option<f64>,
    /// Address space, in bytes.
    pub(crate) virtual_bytes: Option<f64>,
    /// Open file descriptors.
    pub(crate) open_fds: Option<f64>,
    /// Threads.
    pub(crate) threads: Option<f64>,
    /// When the process started, in seconds since the Unix epoch.
    pub(crate) start_seconds: Option<f64>,
}

impl ProcessUse {
    /// Reads it now.
    pub(crate) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self {
            cpu_seconds: stat_field(&stat, 14)
                .zip(stat_field(&stat, 15))
                .map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            resident_bytes: status_kib(&status, "VmRSS:"),
            virtual_bytes: status_kib(&status, "VmSize:"),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| count(entries.count())),
            threads: stat_field(&stat, 20),
            start_seconds: boot_time(&boot)
                .zip(stat_field(&stat, 22))
                .map(|(boot, ticks)| boot + ticks / TICKS_PER_SECOND),
        }
    }
}

/// Lets this process open as many files as it may at most. Each connection that passes needs two, and many container
/// runtimes begin with 1024.
pub fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(ENOUGH_FILES).min(ENOUGH_FILES);
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::warn!(%error, ?current, wanted, "the bound on open files stays as it is");
    }
}

/// Field `number` (from 1, as in proc(5)) of `/proc/self/stat`; the second one may hold spaces, so counting starts after it.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(number.checked_sub(3)?)?.trim().parse().ok()
}

fn status_kib(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024.0)
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_and_brackets_does_not_shift_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 3 0 900 0 0";
        assert_eq!(stat_field(stat, 14), Some(250.0));
        assert_eq!(stat_field(stat, 20), Some(3.0));
        assert_eq!(stat_field(stat, 22), Some(900.0));
        assert_eq!(stat_field("torn", 14), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_a_start() {
        let usage = ProcessUse::read();
        assert!(usage.resident_bytes.unwrap() > 1024.0);
        assert!(usage.threads.unwrap() >= 1.0);
        assert!(usage.start_seconds.unwrap() > 1.5e9);
    }
}
