//! A wall clock that a test can set, for one process.
//!
//! Owns where libfaketime comes from: the cache, else Debian's package, unpacked. It must not touch monotonic time, nor the clock
//! of the machine: other tests run on it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::debian::Debian;
use crate::ports::random;
use crate::progress::Progress;

const LIBRARY: &str = "libfaketimeMT.so.1";

/// The clock of the processes that are started with [`WallClock::environment`].
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    offset: PathBuf,
}

impl WallClock {
    /// A clock that is right. Blocks while the library is downloaded, once.
    ///
    /// # Errors
    /// When this is not a Debian, or a file can't be written.
    pub fn new() -> Result<Self> {
        let library = library()?;
        let offset = crate::lifeline::scratch()?.join(format!("clock-{:08x}", random() & 0xffff_ffff));
        let clock = Self { library, offset };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Sets it so far from the right time, as in `+5m` or `-300s`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn set(&self, offset: &str) -> Result<()> {
        let next = self.offset.with_added_extension("next");
        fs::write(&next, offset).context("cannot write the clock's file")?;
        fs::rename(&next, &self.offset).context("cannot write the clock's file")
    }

    /// What a process needs in its environment to have this clock.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

/// The path of the library. Blocks while it is downloaded, once.
///
/// # Errors
/// When this is not a Debian.
pub fn library() -> Result<PathBuf> {
    let entry = crate::cache::root()?.join("faketime");
    crate::cache::make_once(&entry, |draft| {
        let progress = Progress::start("libfaketime (once, kept in the cache)");
        progress.phase("downloading Debian's package");
        Debian::fetch_lists()?.unpack(&["libfaketime"], draft)
    })?;
    find(&entry.join("usr/lib")).with_context(|| format!("{} is incomplete: remove it", entry.display()))
}

/// Its folder is named after the machine's architecture.
fn find(libraries: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(libraries).ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime").join(LIBRARY)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_the_clock_that_was_set() -> Result<()> {
        let clock = WallClock::new()?;
        let now = || -> Result<i64> {
            let mut command = std::process::Command::new("date");
            let output = command.arg("+%s").envs(clock.environment()).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
        };
        let before = now()?;
        clock.set("-300s")?;
        let after = now()?;
        assert!((-302..=-295).contains(&(after - before)), "{before} {after}");
        Ok(())
    }
}
