//! Ending the node: processes, containers, mounts, addresses, rules, groups and files, in an order that leaves nothing.
//!
//! It must not end or remove what the node has not made: each thing is known by the node's own folder, socket, group or
//! name. It works from what is there, not from memory, so that it also clears up after a node whose machine lost its power.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::agents::CGROUP;
use super::host::run;
use super::machine::STATE;
use super::network;
use super::runtime::Runtime;
use crate::eventually::eventually;
use crate::identity::{self, Identity};

const CGROUPS: &str = "/sys/fs/cgroup";
/// Where the CNI library keeps results, and the kubelet links to logs; both are fixed in their programs.
const CNI_RESULTS: &str = "/var/lib/cni/results";
const LOG_LINKS: &str = "/var/log/containers";
const END_WITHIN: Duration = Duration::from_secs(20);
/// The one process that must live while containers are ended.
const CONTAINERD: &str = "containerd";

/// Ends everything of the node in `folder` and removes the folder.
pub(super) async fn end(folder: &Path) -> Result<()> {
    let (containerd, others) = recorded(folder);
    kill(&others).await?;
    let runtime = Runtime::of(folder);
    let containers = runtime.containers();
    if !containerd.is_empty() {
        // What is left is ended by force below.
        runtime.end_tasks().ok();
    }
    kill(&containerd).await?;
    kill(&shims()).await?;
    kill(&in_cgroups()).await?;
    unmount_below(&[folder, Path::new(STATE)])?;
    network::down(folder);
    remove_results(&containers);
    remove_log_links(folder);
    remove_cgroups();
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Makes the group below which the kubelet puts its pods, in each hierarchy there is.
pub(super) fn create_cgroups() -> Result<()> {
    for group in cgroups() {
        fs::create_dir_all(&group).with_context(|| format!("cannot create the group {}", group.display()))?;
    }
    Ok(())
}

/// containerd, and the node's other processes.
fn recorded(folder: &Path) -> (Vec<Identity>, Vec<Identity>) {
    let all = identity::recorded(&folder.join("processes")).into_iter().filter(|process| process.is_alive());
    all.partition(|process| {
        fs::read_to_string(format!("/proc/{}/comm", process.pid())).is_ok_and(|name| name.trim() == CONTAINERD)
    })
}

/// Sends SIGKILL and waits until they are gone.
async fn kill(processes: &[Identity]) -> Result<()> {
    for process in processes {
        process.signal(Signal::KILL).with_context(|| format!("cannot end process {}", process.pid()))?;
    }
    eventually(END_WITHIN, "the node's processes end", async || {
        let left: Vec<i32> = processes.iter().filter(|one| one.is_alive()).map(|one| one.pid()).collect();
        ensure!(left.is_empty(), "still running: {left:?}");
        Ok(())
    })
    .await
}

/// containerd's shims, known by the socket they report to.
fn shims() -> Vec<Identity> {
    let socket = Runtime::socket();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = pids.filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        let program = words.next().unwrap_or_default();
        program.windows(SHIM.len()).any(|part| part == SHIM)
            && words.any(|word| word == socket.as_os_str().as_encoded_bytes())
    });
    ours.filter_map(Identity::of).collect()
}

const SHIM: &[u8] = b"containerd-shim";

/// Processes of pods.
fn in_cgroups() -> Vec<Identity> {
    let mut pids = Vec::new();
    for group in cgroups().iter().flat_map(|group| tree(group)) {
        let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter_map(Identity::of).collect()
}

/// The node's group in each hierarchy: one with cgroup v2, one for each controller with v1.
fn cgroups() -> Vec<PathBuf> {
    if Path::new(CGROUPS).join("cgroup.controllers").exists() {
        return vec![Path::new(CGROUPS).join(CGROUP)];
    }
    let Ok(entries) = fs::read_dir(CGROUPS) else { return Vec::new() };
    let hierarchies = entries.flatten().map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists());
    hierarchies.map(|path| path.join(CGROUP)).collect()
}

/// A folder and all below it, the deepest first.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let folders = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found: Vec<PathBuf> = folders.flat_map(|entry| tree(&entry.path())).collect();
    found.push(folder.to_owned());
    found
}

fn remove_cgroups() {
    for group in cgroups().iter().flat_map(|group| tree(group)) {
        fs::remove_dir(group).ok();
    }
}

/// Unmounts all that is mounted below these folders, the last first.
fn unmount_below(folders: &[&Path]) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut ours: Vec<PathBuf> =
        points.filter(|point| folders.iter().any(|folder| point.starts_with(folder))).collect();
    ours.reverse();
    ours.iter().try_for_each(|point| run("umount", &[Path::new("--lazy"), point]).map(drop))
}

fn remove_results(containers: &[String]) {
    let Ok(entries) = fs::read_dir(CNI_RESULTS) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with(network::NETWORK) || containers.iter().any(|id| name.contains(id.as_str()));
        if ours {
            fs::remove_file(entry.path()).ok();
        }
    }
}

fn remove_log_links(folder: &Path) {
    let Ok(entries) = fs::read_dir(LOG_LINKS) else { return };
    for entry in entries.flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(folder)) {
            fs::remove_file(entry.path()).ok();
        }
    }
}
