//! Container images without a container builder: a root file system, a little JSON, and `tar` around them.
//!
//! Owns the archive's form (what `docker save` writes and `ctr images import` reads) and the images of the tests' own node.
//! It must not start containers. Pods of tests run programs as they are published: a Debian package, or a Go module's command.

mod debian;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

pub use debian::{DEBIAN_IMAGE, debian};
pub(crate) use programs::{DNS_IMAGE, PAUSE_IMAGE, dns, pause};
pub use programs::{GRPC_CLIENT_IMAGE, GRPC_SERVER_IMAGE, grpc_client, grpc_server};

/// The archive's name in its cache entry.
const ARCHIVE: &str = "image.tar";
const LAYER: &str = "layer.tar";

/// An image as `docker save` would write it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name with tag, as a pod names it. Use `imagePullPolicy: Never`.
    pub name: String,
    /// The archive.
    pub archive: PathBuf,
}

/// The archives of all that tests on real pods run, made where they are missing. Blocks, for minutes the first time.
///
/// # Errors
/// When Go, Docker or mmdebstrap can't make one.
pub fn of_tests() -> Result<Vec<Image>> {
    Ok(vec![debian()?, grpc_client()?, grpc_server()?])
}

/// Wraps layers in `folder` into an archive beside them, and removes the layers.
fn wrap(folder: &Path, name: &str, (layers, entrypoint): (&[&str], &[&str])) -> Result<()> {
    let hashes = layers.iter().map(|layer| hash_of_layer(&folder.join(layer))).collect::<Result<Vec<String>>>()?;
    let configuration = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": hashes},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]);
    fs::write(folder.join("config.json"), configuration.to_string()).context("cannot write the image's settings")?;
    fs::write(folder.join("manifest.json"), manifest.to_string()).context("cannot write the image's manifest")?;
    let mut files = vec!["manifest.json", "config.json"];
    files.extend(layers);
    tar(folder, &folder.join(ARCHIVE), &files)?;
    layers.iter().try_for_each(|layer| fs::remove_file(folder.join(layer))).context("cannot remove the image's layers")
}

fn hash_of_layer(layer: &Path) -> Result<String> {
    let content = fs::read(layer).with_context(|| format!("cannot read the layer {}", layer.display()))?;
    Ok(format!("sha256:{}", hex(&Sha256::digest(&content))))
}

/// Packs files of `folder` with a fixed owner and time, so that equal content gives an equal archive.
fn tar(folder: &Path, archive: &Path, files: &[&str]) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
    command.arg("--file").arg(archive).arg("--directory").arg(folder).args(files);
    let output = command.stdin(Stdio::null()).output().context("cannot run tar")?;
    ensure!(output.status.success(), "tar failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The name that images give to this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_layer_by_the_hash_of_its_content() -> Result<()> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("program"), "content")?;
        tar(folder.path(), &folder.path().join(LAYER), &["program"])?;
        let layer = hex(&Sha256::digest(fs::read(folder.path().join(LAYER))?));
        wrap(folder.path(), "fusebox/test:1", (&[LAYER], &["/program"]))?;
        let listed = Command::new("tar").arg("--list").arg("--file").arg(folder.path().join(ARCHIVE)).output()?;
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "manifest.json\nconfig.json\nlayer.tar\n");
        let configuration = fs::read_to_string(folder.path().join("config.json"))?;
        assert!(configuration.contains(&layer) && configuration.contains("/program"), "{configuration}");
        assert!(!folder.path().join(LAYER).exists(), "the layer is in the archive already");
        Ok(())
    }
}
