//! What the node needs of this machine's distribution.
//!
//! Owns the list, and installing what is missing where that can be done without asking (root, with apt). It must not
//! configure any of it: the node brings its own settings.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::binaries::in_path;
use crate::progress::Progress;

/// What CNI plugins lie in: Debian's place, then that of their own releases.
const PLUGIN_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
const PLUGIN: &str = "ptp";

/// A program, and Debian's package of it.
const PROGRAMS: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("umount", "mount"),
    ("mmdebstrap", "mmdebstrap"),
];

/// The folder of the CNI plugins.
pub(super) fn plugins() -> Option<&'static str> {
    PLUGIN_FOLDERS.into_iter().find(|folder| Path::new(folder).join(PLUGIN).is_file())
}

/// Installs what is missing with apt, or says what it is. Blocks.
pub(super) fn ensure_installed() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let Some(apt) = in_path("apt-get") else { bail!("the node needs these packages: {list}") };
    let progress = Progress::start("packages");
    progress.phase(format!("installing {list}"));
    let run = |arguments: &[&str]| {
        let output = Command::new(&apt)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments)
            .args(&missing)
            .stdin(Stdio::null())
            .output()
            .context("cannot run apt-get")?;
        ensure!(output.status.success(), "apt-get failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
    // The lists may be missing or old: they are fetched only then.
    run(&install)
        .or_else(|_| update(&apt).and_then(|()| run(&install)))
        .with_context(|| format!("install them by hand: {list}"))?;
    ensure!(self::missing().is_empty(), "still missing after the installation: {}", self::missing().join(" "));
    Ok(())
}

fn update(apt: &Path) -> Result<()> {
    let status = Command::new(apt).args(["update", "--quiet"]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    ensure!(status.context("cannot run apt-get")?.success(), "apt-get update failed");
    Ok(())
}

fn missing() -> Vec<&'static str> {
    let programs = PROGRAMS.into_iter().filter(|(program, _)| in_path(program).is_none()).map(|(_, package)| package);
    let plugins = plugins().is_none().then_some("containernetworking-plugins");
    programs.chain(plugins).collect()
}
