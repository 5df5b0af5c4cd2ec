//! Container images of the programs that are released, as archives that Docker, kind and containerd take.
//!
//! Owns where the archives lie and how they are named; the packing is a small Go program around a library, built once. No
//! daemon takes part, so that an image is the same bytes wherever it is made.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::binaries::{GoBuilder, hash_of, in_path, module_folder};

/// The version of this build, which is the images' tag unless another is asked for.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The image's name, the program in it, and what it is.
const IMAGES: [(&str, &str, &str); 2] = [
    ("fusebox/operator", "fusebox-operator", "The Fusebox operator: circuit breakers for Kubernetes"),
    ("fusebox/proxy", "fusebox-proxy", "The Fusebox sidecar proxy"),
];

/// What is packed.
#[derive(Debug, Clone)]
pub struct Packing<'a> {
    /// The folder with the programs.
    pub programs: &'a Path,
    /// Where the archives go.
    pub output: &'a Path,
    /// The images' tag.
    pub tag: &'a str,
    /// The commit they were built from, if known.
    pub revision: Option<&'a str>,
}

/// One packed image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name and tag, such as `fusebox/operator:0.1.0`.
    pub name: String,
    /// The archive.
    pub archive: PathBuf,
    /// What the packer says: sizes and digest.
    pub report: String,
}

/// The folder of the archives that `make images` leaves.
///
/// # Errors
/// When there is no cache folder.
pub fn folder() -> Result<PathBuf> {
    Ok(crate::cache::root()?.join("images"))
}

/// Packs the operator and the proxy. Blocks; a second or two once the packer is built.
///
/// # Errors
/// When a program is missing, or the packer can't be built or fails.
pub fn pack(packing: &Packing<'_>) -> Result<Vec<Image>> {
    let packer = packer()?;
    fs::create_dir_all(packing.output).with_context(|| format!("cannot create {}", packing.output.display()))?;
    IMAGES.into_iter().map(|image| pack_one(&packer, packing, image)).collect()
}

/// Gives the images to Docker, if its daemon answers; says whether it did.
///
/// # Errors
/// When the daemon answers and refuses an image.
pub fn load_into_docker(images: &[Image]) -> Result<bool> {
    let Some(docker) = in_path("docker") else { return Ok(false) };
    let asked = Command::new(&docker).args(["version", "--format", "{{.Server.Version}}"]).output();
    if !asked.is_ok_and(|output| output.status.success()) {
        return Ok(false);
    }
    for image in images {
        run(Command::new(&docker).args(["load", "--input"]).arg(&image.archive))?;
    }
    Ok(true)
}

/// The program that packs, built once.
pub(crate) fn packer() -> Result<PathBuf> {
    let module = module_folder("images");
    let entry = crate::cache::root()?.join("image-packer").join(hash_of(&module, &["main.go", "go.mod", "go.sum"])?);
    crate::cache::make_once(&entry, |draft| GoBuilder::find()?.build(&module, &draft.join("images"), "-s -w"))?;
    Ok(entry.join("images"))
}

fn pack_one(packer: &Path, packing: &Packing<'_>, image: (&str, &str, &str)) -> Result<Image> {
    let (repository, program, title) = image;
    let path = packing.programs.join(program);
    ensure!(path.is_file(), "{} is missing: `make images` builds it", path.display());
    let name = format!("{repository}:{}", packing.tag);
    let archive = packing.output.join(format!("{program}-{}.tar", packing.tag));
    let labels = [
        ("title", repository),
        ("description", title),
        ("version", packing.tag),
        ("licenses", "Apache-2.0"),
        ("revision", packing.revision.unwrap_or_default()),
    ];
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
    let labels = labels.map(|(key, value)| format!("org.opencontainers.image.{key}={value}"));
    let mut arguments: Vec<OsString> = vec!["-program".into(), path.into(), "-tag".into(), name.clone().into()];
    arguments.extend(["-output".into(), archive.clone().into()]);
    arguments.extend(labels.flat_map(|label| ["-label".into(), label.into()]));
    let report = run(Command::new(packer).args(arguments))?;
    Ok(Image { name, archive, report })
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed ({}): {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two programs that are certainly there: this test itself, twice.
    fn programs() -> Result<tempfile::TempDir> {
        let folder = tempfile::tempdir()?;
        for (_, program, _) in IMAGES {
            fs::copy(packer()?, folder.path().join(program))?;
        }
        Ok(folder)
    }

    #[test]
    fn the_same_programs_give_the_same_archives() -> Result<()> {
        let (programs, outputs) = (programs()?, [tempfile::tempdir()?, tempfile::tempdir()?]);
        let [first, second] = outputs.each_ref().map(|output| {
            pack(&Packing { programs: programs.path(), output: output.path(), tag: "1.2.3", revision: None })
        });
        let (first, second) = (first?, second?);
        assert_eq!(
            first.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(),
            ["fusebox/operator:1.2.3", "fusebox/proxy:1.2.3"]
        );
        for (one, other) in first.iter().zip(&second) {
            assert!(fs::read(&one.archive)? == fs::read(&other.archive)?, "{} differs", one.name);
        }
        Ok(())
    }

    #[test]
    fn a_missing_program_is_named() -> Result<()> {
        let (empty, output) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let packed = pack(&Packing { programs: empty.path(), output: output.path(), tag: "1.2.3", revision: None });
        assert!(packed.is_err_and(|error| error.to_string().contains("fusebox-operator is missing")));
        Ok(())
    }
}
