//! One child process that is ended when its handle is dropped, panic or not.
//!
//! Owns the handle, its record for the watchdog and the signals sent to it. It must not know what the program does.
//! The record is a file, so that a process that was killed itself can still be cleaned up after.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::eventually::eventually;
use crate::identity::Identity;

const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A running child.
#[derive(Debug)]
pub(crate) struct KeptChild {
    child: Child,
    identity: Option<Identity>,
    record: Option<PathBuf>,
}

impl KeptChild {
    /// Takes charge of a child that was just started and records it in `records`.
    pub(crate) fn keep(child: Child, records: &Path) -> Result<Self> {
        let pid = i32::try_from(child.id()).context("a pid beyond 31 bits")?;
        // A child that has ended already has no identity and needs no record.
        let mut kept = Self { child, identity: Identity::of(pid), record: None };
        if let Some(identity) = kept.identity {
            let record = records.join(identity.to_name());
            fs::write(&record, "").with_context(|| format!("cannot record the process in {}", record.display()))?;
            kept.record = Some(record);
        }
        Ok(kept)
    }

    /// Starts a command made by [`crate::lifeline::command`]; the child dies with this process.
    pub(crate) fn spawn(command: Command) -> Result<Self> {
        let records = crate::lifeline::records()?;
        Self::keep(crate::lifeline::spawn(command)?, &records)
    }

    /// Starts a command that lives on when this process ends, recorded in `records` so that somebody can end it.
    pub(crate) fn spawn_standing(mut command: Command, records: &Path) -> Result<Self> {
        command.process_group(0);
        Self::keep(command.spawn().context("cannot start the process")?, records)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once it has ended.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot ask for the exit status")
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match self.identity {
            Some(identity) => {
                identity.signal(signal).with_context(|| format!("cannot signal process {}", identity.pid()))
            }
            None => Ok(()),
        }
    }

    /// Stops the child (SIGSTOP) and waits until each of its threads stands still, which on a busy machine takes a moment.
    pub(crate) async fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let identity = self.identity.context("the process has ended")?;
        eventually(STOP_DEADLINE, "the process stands still", async || {
            ensure!(identity.is_stopped(), "a thread of process {} still runs", identity.pid());
            Ok(())
        })
        .await
    }

    /// Leaves the child running after this process and forgets it; its record stays.
    pub(crate) fn leave_running(mut self) {
        self.identity = None;
        self.record = None;
    }

    /// Ends the child at once (SIGKILL also ends a stopped one) and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if self.identity.take().is_some() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        if let Some(record) = self.record.take() {
            fs::remove_file(record).ok();
        }
    }
}

impl Drop for KeptChild {
    fn drop(&mut self) {
        self.kill();
    }
}
