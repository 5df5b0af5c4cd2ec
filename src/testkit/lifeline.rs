//! Ties everything a test process starts to that process's life: its children, and one scratch folder.
//!
//! Owns the scratch folder, the thread that spawns children, and the watchdog. It must not know what the children are.
//! Three nets, because each alone has a hole: a child dies with its parent by the kernel's parent-death signal (through
//! `setpriv`, where there is one); a watchdog shell, whose standard input ends when this process does, kills what is left
//! and removes the folder; and a later process sweeps the folders of owners that are gone, should the watchdog be killed too.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};

use anyhow::{Context as _, Result, anyhow};

use crate::identity::{self, Identity};

/// What the watchdog does once its standard input ends. Field 22 of stat is the start time; no child has a blank in its name.
const WATCHDOG: &str = r#"
cat >/dev/null
for record in "$1"/processes/*; do
  name=${record##*/}
  pid=${name%-*}
  [ "$(cut -d' ' -f22 "/proc/$pid/stat" 2>/dev/null)" = "${name#*-}" ] && kill -KILL "$pid"
done
for attempt in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" 2>/dev/null && exit 0; sleep 0.2; done
"#;

type SpawnRequest = (Command, Sender<io::Result<Child>>);

struct Lifeline {
    folder: PathBuf,
    spawner: Sender<SpawnRequest>,
    // Held open for the life of the process: its end is what the watchdog waits for.
    _watchdog: ChildStdin,
}

/// The scratch folder of this process, removed when the process ends, in whatever way it ends.
///
/// # Errors
/// When the temporary folder cannot be written.
pub fn scratch() -> Result<&'static Path> {
    Ok(&lifeline()?.folder)
}

/// The folder in which children are recorded for the watchdog.
pub(crate) fn records() -> Result<PathBuf> {
    Ok(scratch()?.join("processes"))
}

/// A command that dies with this process. To be started by [`spawn`].
pub(crate) fn command(program: &Path) -> Command {
    match setpriv() {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Starts a child from a thread that lives as long as the process.
///
/// The kernel's parent-death signal comes when the spawning *thread* ends, and a test's threads end before the process.
pub(crate) fn spawn(mut command: Command) -> Result<Child> {
    // A group of its own, so that Ctrl-C reaches the owner alone and the owner decides.
    command.process_group(0);
    let (answer, spawned) = mpsc::channel();
    lifeline()?.spawner.send((command, answer)).map_err(|_| anyhow!("the thread that spawns children is gone"))?;
    let child = spawned.recv().context("the thread that spawns children is gone")?;
    child.context("cannot start the process")
}

fn lifeline() -> Result<&'static Lifeline> {
    static LIFELINE: OnceLock<Result<Lifeline, String>> = OnceLock::new();
    let lifeline = LIFELINE.get_or_init(|| {
        sweep();
        start().map_err(|error| format!("{error:#}"))
    });
    lifeline.as_ref().map_err(|message| anyhow!("cannot prepare the test's scratch folder: {message}"))
}

fn start() -> Result<Lifeline> {
    let folder = std::env::temp_dir().join(format!("{}{}", prefix(), Identity::own()?.to_name()));
    fs::DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::create_dir(folder.join("processes")).context("cannot create the folder of process records")?;
    let mut watchdog = Command::new("sh")
        .args(["-c", WATCHDOG, "fusebox-watchdog"])
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()
        .context("cannot start the watchdog shell")?;
    let stdin = watchdog.stdin.take().context("the watchdog has no standard input")?;
    let (spawner, requests) = mpsc::channel::<SpawnRequest>();
    std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
        for (mut command, answer) in requests {
            answer.send(command.spawn()).ok();
        }
    })?;
    Ok(Lifeline { folder, spawner, _watchdog: stdin })
}

/// Ends what owners that no longer live have left behind, and removes their folders.
fn sweep() {
    let own_uid = rustix::process::getuid().as_raw();
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(|name| name.strip_prefix(&prefix())).and_then(Identity::parse) else {
            continue;
        };
        // Somebody else's folder with a name like ours is not ours to remove.
        let is_ours = entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own_uid);
        if is_ours && !owner.is_alive() {
            sweep_folder(&entry.path());
        }
    }
}

fn sweep_folder(folder: &Path) {
    for process in identity::recorded(&folder.join("processes")) {
        process.signal(rustix::process::Signal::KILL).ok();
    }
    // A folder that resists is tried again by the next process.
    fs::remove_dir_all(folder).ok();
}

fn prefix() -> String {
    format!("fusebox-{}-", rustix::process::getuid().as_raw())
}

fn setpriv() -> Option<&'static Path> {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    SETPRIV.get_or_init(find_setpriv).as_deref()
}

/// util-linux's setpriv; busybox has one of the same name without the option.
fn find_setpriv() -> Option<PathBuf> {
    let path = crate::binaries::in_path("setpriv")?;
    let help = Command::new(&path).arg("--help").output().ok()?;
    String::from_utf8_lossy(&help.stdout).contains("--pdeathsig").then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_owner_is_gone_is_swept_with_its_processes() -> Result<()> {
        let folder = tempfile::tempdir()?.keep();
        fs::create_dir(folder.join("processes"))?;
        let mut orphan = Command::new("sleep").arg("600").spawn()?;
        let identity = Identity::of(i32::try_from(orphan.id())?).context("the orphan runs")?;
        fs::write(folder.join("processes").join(identity.to_name()), "")?;
        sweep_folder(&folder);
        assert!(!orphan.wait()?.success(), "it was killed, or this would wait ten minutes");
        assert!(!folder.exists());
        Ok(())
    }
}
