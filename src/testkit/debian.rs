//! Programs from Debian's packages, unpacked and not installed.
//!
//! Owns asking apt for packages and what they need. It must not change the system: package lists are its own, nothing is
//! configured, and no service starts, so that neither root nor a fresh `apt-get update` is needed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::binaries::in_path;

/// Debian's packages, with lists as of now.
pub(crate) struct Debian {
    scratch: tempfile::TempDir,
}

impl Debian {
    /// Fetches the lists. Blocks.
    pub(crate) fn fetch_lists() -> Result<Self> {
        let (Some(_), Some(_)) = (in_path("apt-get"), in_path("dpkg-deb")) else {
            bail!("this is no Debian to take packages from");
        };
        let debian = Self { scratch: tempfile::tempdir().context("cannot create a temporary folder")? };
        fs::create_dir_all(debian.scratch.path().join("lists/partial"))
            .context("cannot create a folder for package lists")?;
        debian.apt(&["update"], debian.scratch.path())?;
        Ok(debian)
    }

    /// These packages, and what they need that is not installed. Blocks.
    pub(crate) fn with_needed(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut arguments = vec!["install", "--dry-run", "--no-install-recommends"];
        arguments.extend(packages);
        let plan = self.apt(&arguments, self.scratch.path())?;
        Ok(planned(&plan))
    }

    /// Unpacks exactly these packages into `target`. Blocks.
    pub(crate) fn unpack(&self, packages: &[&str], target: &Path) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut arguments = vec!["download"];
        arguments.extend(packages);
        self.apt(&arguments, folder.path())?;
        for package in fs::read_dir(folder.path())?.flatten().map(|entry| entry.path()) {
            run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(target))?;
        }
        Ok(())
    }

    fn apt(&self, arguments: &[&str], folder: &Path) -> Result<String> {
        let scratch = self.scratch.path().display();
        let lists = format!("Dir::State::Lists={scratch}/lists");
        let caches = format!("Dir::Cache={scratch}");
        let mut command = Command::new("apt-get");
        command.args(["-q", "-o", &lists, "-o", &caches, "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=true"]);
        run(command.args(arguments).current_dir(folder))
    }
}

/// The packages in lines such as `Inst redis-tools (5:7.0.15-1 Debian:12 [amd64])`.
fn planned(plan: &str) -> Vec<String> {
    let words = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next());
    words.map(str::to_owned).collect()
}

/// Runs it to its end, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let program = command.get_program().display();
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_apt_would_install_is_fetched() {
        let plan =
            "Reading package lists...\nInst liblzf1 (3.6 Debian [amd64])\nInst redis-tools (7.0)\nConf liblzf1 (3.6)";
        assert_eq!(planned(plan), ["liblzf1", "redis-tools"]);
    }
}
