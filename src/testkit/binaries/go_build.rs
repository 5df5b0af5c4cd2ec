//! Builds a Go module of ours, with the Go that is installed or with Docker's golang image.
//!
//! Owns the commands and the progress shown. It must not decide where the result is kept.
//! Go's module proxy is reachable where image registries and release pages are not, and its sums are checked by go.sum.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::progress::Progress;

const GOLANG_IMAGE: &str = "golang:1.26";
/// How much of a failed build is shown.
const KEPT_LINES: usize = 30;

/// What can compile Go here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GoBuilder {
    /// An installed toolchain.
    Go(PathBuf),
    /// The golang image; module and build caches are kept in the given folder.
    Docker {
        /// The docker command.
        docker: PathBuf,
        /// Mounted as the container's home.
        home: PathBuf,
    },
}

impl GoBuilder {
    /// Go if it is installed, else Docker if its daemon answers.
    pub(crate) fn find() -> Result<Self> {
        if let Some(go) = super::in_path("go") {
            return Ok(Self::Go(go));
        }
        let advice = "install Go 1.25 or newer (https://go.dev/dl), or start Docker, \
             or set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl of v1.35";
        let Some(docker) = super::in_path("docker") else {
            bail!("neither go nor docker is installed, so the test cluster can't be built: {advice}");
        };
        let answers = Command::new(&docker).args(["version", "--format", "{{.Server.Version}}"]).output();
        ensure!(
            answers.is_ok_and(|output| output.status.success()),
            "go is not installed and docker's daemon does not answer, so the test cluster can't be built: {advice}"
        );
        let home = crate::cache::root()?.join("golang");
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        Ok(Self::Docker { docker, home })
    }

    /// Compiles the module's main package into `output`.
    pub(crate) fn build(&self, module: &Path, output: &Path, linker_flags: &str) -> Result<()> {
        self.build_package(module, output, linker_flags, ".")
    }

    /// Compiles a package of the module, or of one that it names as a tool, so that it runs in an empty image.
    pub(crate) fn build_static(&self, module: &Path, output: &Path, package: &str) -> Result<()> {
        let mut command = self.command(module, output, &arguments(output, "-s -w", package)?)?;
        command.env("CGO_ENABLED", "0");
        self.compile(module, output, command)
    }

    /// Compiles a main package that the module names, such as one of its tools, into `output`.
    pub(crate) fn build_package(&self, module: &Path, output: &Path, linker_flags: &str, package: &str) -> Result<()> {
        self.compile(module, output, self.command(module, output, &arguments(output, linker_flags, package)?)?)
    }

    fn compile(&self, module: &Path, output: &Path, command: Command) -> Result<()> {
        let name = output.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let progress = Progress::start(&format!("building {name} (once, kept in the cache)"));
        progress.phase("downloading modules");
        run(self.command(module, output, &["mod", "download"])?, |_| {})?;
        progress.phase("compiling");
        let mut compiled = 0;
        run(command, |_| {
            compiled += 1;
            progress.phase(format!("compiling, {compiled} packages so far"));
        })
    }

    /// Downloads one module and returns the folder it was unpacked to, readable from here.
    pub(crate) fn download(&self, module: &str) -> Result<PathBuf> {
        let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut command =
            self.command(scratch.path(), &scratch.path().join("none"), &["mod", "download", "-json", module])?;
        let output = command.stdin(Stdio::null()).output().context("cannot run go mod download")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "go mod download {module} failed: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let answer: serde_json::Value = serde_json::from_str(&text).context("go mod download answered no JSON")?;
        let folder = answer["Dir"].as_str().context("go mod download named no folder")?;
        Ok(PathBuf::from(folder))
    }

    /// The go command with these arguments, in the module's folder. Paths are the same inside a container as outside.
    fn command(&self, module: &Path, output: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = match self {
            Self::Go(go) => Command::new(go),
            Self::Docker { docker, home } => {
                let mut command = Command::new(docker);
                command.args(docker_arguments(module, output, home)?);
                command
            }
        };
        command.args(arguments).current_dir(module);
        Ok(command)
    }
}

fn arguments<'a>(output: &'a Path, linker_flags: &'a str, package: &'a str) -> Result<[&'a str; 9]> {
    let result = output.to_str().context("the cache folder's path is not UTF-8")?;
    Ok(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", linker_flags, "-o", result, package])
}

fn docker_arguments(module: &Path, output: &Path, home: &Path) -> Result<Vec<String>> {
    let text = |path: &Path| Ok::<_, anyhow::Error>(path.to_str().context("a path is not UTF-8")?.to_owned());
    let user = format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let (module, home) = (text(module)?, text(home)?);
    let mut arguments = vec!["run".to_owned(), "--rm".to_owned(), "--user".to_owned(), user];
    arguments.extend(["--workdir".to_owned(), module.clone(), "--volume".to_owned(), format!("{module}:{module}")]);
    arguments.extend(["--volume".to_owned(), format!("{home}:{home}")]);
    if let Some(folder) = output.parent().filter(|folder| folder.is_dir()) {
        let folder = text(folder)?;
        arguments.extend(["--volume".to_owned(), format!("{folder}:{folder}")]);
    }
    // No C library: the binary must run on the host, whatever the host's is.
    for (name, value) in [("HOME", home.as_str()), ("GOPATH", &home), ("CGO_ENABLED", "0")] {
        arguments.extend(["--env".to_owned(), format!("{name}={value}")]);
    }
    for name in ["GOPROXY", "GOSUMDB", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        arguments.extend(["--env".to_owned(), name.to_owned()]);
    }
    arguments.extend([GOLANG_IMAGE.to_owned(), "go".to_owned()]);
    Ok(arguments)
}

/// Runs a command, calls `on_line` for each line on its standard error, and fails with the last of them.
fn run(mut command: Command, mut on_line: impl FnMut(&str)) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let stderr = child.stderr.take().context("the build has no standard error")?;
    let mut kept: Vec<String> = Vec::new();
    for line in BufReader::new(stderr.take(u64::MAX)).lines().map_while(Result::ok) {
        on_line(&line);
        if kept.len() == KEPT_LINES {
            kept.remove(0);
        }
        kept.push(line);
    }
    let status = child.wait().context("cannot wait for the build")?;
    ensure!(status.success(), "go failed ({status}):\n{}", kept.join("\n"));
    Ok(())
}

/// The folder of one of our Go modules under e2e/.
pub(crate) fn module_folder(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).join("e2e").join(name)
}

/// A short hash over the named files of a module: the cache key of what is built from it.
pub(crate) fn hash_of(module: &Path, files: &[&str]) -> Result<String> {
    let mut hasher = Sha256::new();
    for name in files {
        let path = module.join(name);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hasher.update((content.len() as u64).to_le_bytes());
        hasher.update(&content);
    }
    Ok(hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_of_ours_is_built_with_installed_go() -> Result<()> {
        let Some(go) = crate::binaries::in_path("go") else { return Ok(()) };
        let module = tempfile::tempdir()?;
        fs::write(module.path().join("go.mod"), "module hello\ngo 1.21\n")?;
        fs::write(module.path().join("main.go"), "package main\nvar word = \"\"\nfunc main() { print(word) }\n")?;
        let output = module.path().join("hello");
        GoBuilder::Go(go).build(module.path(), &output, "-X main.word=linked")?;
        let said = Command::new(&output).output()?;
        assert_eq!(String::from_utf8_lossy(&said.stderr), "linked");
        Ok(())
    }

    #[test]
    fn a_failing_build_shows_the_compilers_words() -> Result<()> {
        let Some(go) = crate::binaries::in_path("go") else { return Ok(()) };
        let module = tempfile::tempdir()?;
        fs::write(module.path().join("go.mod"), "module broken\ngo 1.21\n")?;
        fs::write(module.path().join("main.go"), "package main\nfunc main() { missing() }\n")?;
        let failed = GoBuilder::Go(go).build(module.path(), &module.path().join("broken"), "");
        assert!(failed.is_err_and(|error| error.to_string().contains("undefined: missing")));
        Ok(())
    }

    #[test]
    fn docker_mounts_module_and_output_at_their_own_paths() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let arguments =
            docker_arguments(Path::new("/module"), &folder.path().join("cluster"), Path::new("/home"))?.join(" ");
        let output = folder.path().display();
        for part in
            ["--workdir /module", "--volume /module:/module", &format!("--volume {output}:{output}"), "CGO_ENABLED=0"]
        {
            assert!(arguments.contains(part), "{part} is missing in {arguments}");
        }
        assert!(arguments.ends_with("golang:1.26 go"));
        Ok(())
    }

    #[test]
    fn a_changed_file_changes_the_hash() -> Result<()> {
        let module = tempfile::tempdir()?;
        fs::write(module.path().join("main.go"), "one")?;
        let before = hash_of(module.path(), &["main.go"])?;
        fs::write(module.path().join("main.go"), "two")?;
        assert_ne!(hash_of(module.path(), &["main.go"])?, before);
        Ok(())
    }
}
