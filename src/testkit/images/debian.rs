//! One image of Debian with the packages that tests take their unmodified programs from.
//!
//! Owns the list of packages. It must not add a file of ours: what a pod needs besides comes from a ConfigMap.
//! One image for client and server, because unpacking Debian takes longer than all else that a test does.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::{ARCHIVE, Image, LAYER, hex, wrap};
use crate::progress::Progress;

/// Debian with curl (the client), nginx (the server) and a shell.
pub const DEBIAN_IMAGE: &str = "fusebox-test/debian:1";

const SUITE: &str = "bookworm";
/// From Debian as they are. procps and iproute2 are for people who look into a pod.
const PACKAGES: [&str; 4] = ["curl", "nginx-light", "iproute2", "procps"];
const KEPT_LINES: usize = 15;

/// The image. Blocks while it is made, once: about a minute.
///
/// # Errors
/// When mmdebstrap is missing or fails; it needs root.
pub fn debian() -> Result<Image> {
    let recipe = format!("{SUITE} {}", PACKAGES.join(","));
    let key = hex(&Sha256::digest(&recipe)[..8]);
    let entry = crate::cache::root()?.join("images").join(format!("debian-{key}"));
    crate::cache::make_once(&entry, |draft| {
        let progress = Progress::start("image of Debian (once, kept in the cache)");
        progress.phase(format!("mmdebstrap with {}", PACKAGES.join(", ")));
        bootstrap(&draft.join(LAYER))?;
        wrap(draft, DEBIAN_IMAGE, (&[LAYER], &["/bin/sh"]))
    })?;
    fs::metadata(entry.join(ARCHIVE)).with_context(|| format!("{} is incomplete: remove it", entry.display()))?;
    Ok(Image { name: DEBIAN_IMAGE.to_owned(), archive: entry.join(ARCHIVE) })
}

/// Puts the image's layer into `folder`, for an image on top of it.
pub(super) fn unpack_layer(folder: &Path) -> Result<()> {
    let archive = debian()?.archive;
    let mut command = Command::new("tar");
    command.args(["--extract", "--file"]).arg(archive).arg("--directory").arg(folder).arg(LAYER);
    let output = command.stdin(Stdio::null()).output().context("cannot run tar")?;
    ensure!(output.status.success(), "tar failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn bootstrap(layer: &Path) -> Result<()> {
    let output = Command::new("mmdebstrap")
        .args(["--variant=essential", &format!("--include={}", PACKAGES.join(","))])
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", "--aptopt=APT::Install-Recommends false"])
        .arg(SUITE)
        .arg(layer)
        .stdin(Stdio::null())
        .output()
        .context("cannot run mmdebstrap: apt-get install mmdebstrap")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n");
    ensure!(output.status.success(), "mmdebstrap failed ({}):\n{end}", output.status);
    Ok(())
}
