//! One node for each machine: who starts or ends it holds a lock, and where it lies is written down.
//!
//! It must not start or end anything. Two nodes would share the firewall's table and the range of addresses.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Sockets and mounts of the node; gone after a reboot, as the node then is.
pub(super) const STATE: &str = "/run/fusebox-node";
const RECORD: &str = "folder";
const LOCK: &str = "/run/fusebox-node.lock";

/// This machine, held by this process alone.
pub(super) struct Machine {
    _lock: File,
}

impl Machine {
    /// Waits until nobody else starts or ends the machine's node.
    pub(super) fn lock() -> Result<Self> {
        let root = rustix::process::geteuid().is_root();
        ensure!(root, "a node on this machine needs root: use sudo, or kind, or a KUBECONFIG of your own");
        let lock = File::create(LOCK).with_context(|| format!("cannot create {LOCK}"))?;
        lock.lock().with_context(|| format!("cannot lock {LOCK}"))?;
        Ok(Self { _lock: lock })
    }

    /// Fails when the machine's node lies in another folder.
    pub(super) fn belongs_to(&self, folder: &Path) -> Result<()> {
        match recorded_folder() {
            Some(other) if other != folder => {
                anyhow::bail!("this machine's node lies in {}: end that one first", other.display())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn record(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(STATE).with_context(|| format!("cannot create {STATE}"))?;
        let path = Path::new(STATE).join(RECORD);
        fs::write(&path, folder.as_os_str().as_encoded_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn forget(&self) -> Result<()> {
        match fs::remove_dir_all(STATE) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {STATE}"))
            }
            _ => Ok(()),
        }
    }
}

/// The folder of the node that is up, or was when its machine lost power.
pub(super) fn recorded_folder() -> Option<PathBuf> {
    let text = fs::read_to_string(Path::new(STATE).join(RECORD)).ok()?;
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}
