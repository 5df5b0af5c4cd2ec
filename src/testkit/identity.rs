//! Which process is meant: a pid together with the moment it started.
//!
//! Owns the check that a recorded pid is still the same process. It must not signal by pid alone, because pids are
//! reused and another program would be hit.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Position of the start time in /proc/PID/stat, counted after the closing bracket of the program's name.
const START_TIME_AFTER_NAME: usize = 19;

/// A process that can be told from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pid: i32,
    start_ticks: u64,
}

impl Identity {
    /// The living process `pid`, or nothing when there is none (a zombie counts as none).
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        if matches!(fields.first(), Some(&"Z" | &"X")) {
            return None;
        }
        let start_ticks = fields.get(START_TIME_AFTER_NAME)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// This very process.
    pub(crate) fn own() -> io::Result<Self> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self::of(pid).ok_or_else(|| io::Error::other("cannot read /proc/self/stat: the testkit needs Linux with /proc"))
    }

    pub(crate) fn pid(self) -> i32 {
        self.pid
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Whether every thread is stopped by a signal.
    pub(crate) fn is_stopped(self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else { return false };
        threads.flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('T'))
        })
    }

    /// Sends `signal` if the process is still the one meant; a pid that was reused is left alone.
    pub(crate) fn signal(self, signal: Signal) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        // The descriptor is taken first and the start time compared after it: what it holds can't be swapped any more.
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(&process, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The name under which [`Identity::parse`] finds it again.
    pub(crate) fn to_name(self) -> String {
        format!("{}-{}", self.pid, self.start_ticks)
    }

    /// The reverse of [`Identity::to_name`].
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (pid, start_ticks) = name.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? })
    }
}

/// The processes recorded in a folder: one empty file each, named by the identity.
pub(crate) fn recorded(folder: &Path) -> Vec<Identity> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| Identity::parse(entry.file_name().to_str()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_the_same_process() -> io::Result<()> {
        let own = Identity::own()?;
        assert_eq!(Identity::parse(&own.to_name()), Some(own));
        assert!(own.is_alive());
        Ok(())
    }

    #[test]
    fn a_reused_pid_is_never_signalled() -> io::Result<()> {
        let own = Identity::own()?;
        let earlier = Identity { start_ticks: own.start_ticks - 1, ..own };
        assert!(!earlier.is_alive());
        // Were the start time not compared, this would end the test itself.
        earlier.signal(Signal::KILL)
    }

    #[test]
    fn names_of_other_shapes_are_refused() {
        for name in ["", "12", "12-", "-5", "12-x", "pid-12"] {
            assert_eq!(Identity::parse(name), None, "{name}");
        }
    }
}
