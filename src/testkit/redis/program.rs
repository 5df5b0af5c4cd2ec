//! redis-server and redis-cli: PATH, else the cache, else unpacked from Debian's packages into the cache.
//!
//! It must not install anything into the system: a package that is installed starts a service.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Environment, Process, ProcessBuilder, Role};
use crate::binaries::in_path;
use crate::debian::{self, Debian};
use crate::progress::Progress;

/// The file in a server's folder that it is started with. A Sentinel writes to it.
pub(super) const CONFIGURATION: &str = "redis.conf";

const PACKAGES: [&str; 2] = ["redis-server", "redis-tools"];
const ADVICE: &str = "install redis-server and redis-cli (https://redis.io) into PATH; its service may stay stopped";

/// Where the programs are, and the libraries that came with them.
struct Programs {
    server: PathBuf,
    cli: PathBuf,
    libraries: OsString,
}

/// The path of redis-server. Blocks while it is downloaded, once.
///
/// # Errors
/// When it is nowhere and this is not a Debian; the message says what to install.
pub fn server_program() -> Result<PathBuf> {
    Ok(programs()?.server.clone())
}

/// Starts a server or Sentinel with the configuration in its folder.
pub(super) fn start(folder: &Path, role: Role, environment: &Environment) -> Result<Process> {
    let programs = programs()?;
    let name = if role == Role::Sentinel { "redis-sentinel" } else { "redis" };
    let mut builder = ProcessBuilder::program(name, &programs.server).arg(folder.join(CONFIGURATION));
    if role == Role::Sentinel {
        builder = builder.arg("--sentinel");
    }
    for (name, value) in environment {
        builder = builder.env(name, value);
    }
    builder.env("LD_LIBRARY_PATH", &programs.libraries).start()
}

/// A redis-cli.
pub(super) fn cli() -> Result<Command> {
    let programs = programs()?;
    let mut command = Command::new(&programs.cli);
    command.env("LD_LIBRARY_PATH", &programs.libraries);
    Ok(command)
}

fn programs() -> Result<&'static Programs> {
    static PROGRAMS: OnceLock<Result<Programs, String>> = OnceLock::new();
    let programs = PROGRAMS.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    programs.as_ref().map_err(|message| anyhow!("{message}"))
}

fn find() -> Result<Programs> {
    if let (Some(server), Some(cli)) = (in_path("redis-server"), in_path("redis-cli")) {
        return Ok(Programs { server, cli, libraries: OsString::new() });
    }
    let entry = crate::cache::root()?.join("redis");
    crate::cache::make_once(&entry, |draft| {
        let progress = Progress::start("Redis (once, kept in the cache)");
        progress.phase("downloading Debian's packages");
        unpack(draft).context(ADVICE)
    })?;
    let [server, cli] = ["redis-server", "redis-cli"].map(|name| entry.join("usr/bin").join(name));
    ensure!(server.is_file() && cli.is_file(), "{} is incomplete: remove it and try again", entry.display());
    Ok(Programs { server, cli, libraries: std::env::join_paths(library_folders(&entry))? })
}

fn unpack(draft: &Path) -> Result<()> {
    let debian = Debian::fetch_lists()?;
    let mut packages = debian.with_needed(&PACKAGES)?;
    // What is installed already is in no plan; a program without the other is taken all the same.
    packages.extend(PACKAGES.map(str::to_owned));
    packages.sort();
    packages.dedup();
    debian.unpack(&packages.iter().map(String::as_str).collect::<Vec<_>>(), draft)?;
    let mut version = Command::new(draft.join("usr/bin/redis-server"));
    debian::run(version.arg("--version").env("LD_LIBRARY_PATH", std::env::join_paths(library_folders(draft))?))?;
    Ok(())
}

fn library_folders(root: &Path) -> Vec<PathBuf> {
    let bases = ["usr/lib", "lib"].map(|base| root.join(base));
    let nested = bases.iter().filter_map(|base| fs::read_dir(base).ok()).flatten().flatten();
    nested.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
