//! Images of one static program each, built from the Go module e2e/programs.
//!
//! Owns which package becomes which image. It must not change the programs: but for `pause` they are other people's.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{ARCHIVE, Image, LAYER, tar, wrap};
use crate::binaries::{GoBuilder, hash_of, module_folder};

/// The Go module, under e2e/.
const MODULE: &str = "programs";
const PROGRAM_LAYER: &str = "program.tar";

/// What holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "fusebox-test/pause:1";
/// CoreDNS.
pub(crate) const DNS_IMAGE: &str = "fusebox-test/coredns:1";
/// Debian, for its shell, with grpcurl.
pub const GRPC_CLIENT_IMAGE: &str = "fusebox-test/grpcurl:1";
/// gRPC's own interoperability server; a caller says in its request which status it wants.
pub const GRPC_SERVER_IMAGE: &str = "fusebox-test/grpc-interop-server:1";

pub(crate) fn pause() -> Result<Image> {
    program("pause", PAUSE_IMAGE, "./pause")
}

pub(crate) fn dns() -> Result<Image> {
    program("coredns", DNS_IMAGE, "./dns")
}

/// The image of grpcurl. Blocks while it is built, once.
///
/// # Errors
/// When neither Go nor Docker can build it, or Debian's image can't be made.
pub fn grpc_client() -> Result<Image> {
    let entry = entry("grpcurl-in-debian")?;
    crate::cache::make_once(&entry, |draft| {
        let root = draft.join("root");
        let programs = root.join("usr/local/bin");
        fs::create_dir_all(&programs).context("cannot create the image's root")?;
        let package = "github.com/fullstorydev/grpcurl/cmd/grpcurl";
        GoBuilder::find()?.build_static(&module_folder(MODULE), &programs.join("grpcurl"), package)?;
        tar(&root, &draft.join(PROGRAM_LAYER), &["usr"])?;
        fs::remove_dir_all(&root).context("cannot remove the image's root")?;
        super::debian::unpack_layer(draft)?;
        wrap(draft, GRPC_CLIENT_IMAGE, (&[LAYER, PROGRAM_LAYER], &["/bin/sh"]))
    })?;
    Ok(Image { name: GRPC_CLIENT_IMAGE.to_owned(), archive: entry.join(ARCHIVE) })
}

/// The image of the gRPC interoperability server. Blocks while it is built, once.
///
/// # Errors
/// When neither Go nor Docker can build it.
pub fn grpc_server() -> Result<Image> {
    program("grpc-interop-server", GRPC_SERVER_IMAGE, "google.golang.org/grpc/interop/server")
}

/// The image `image` with one file `/name` and an empty /tmp.
fn program(name: &str, image: &str, package: &str) -> Result<Image> {
    let entry = entry(name)?;
    crate::cache::make_once(&entry, |draft| {
        let root = draft.join("root");
        fs::create_dir_all(root.join("tmp")).context("cannot create the image's root")?;
        GoBuilder::find()?.build_static(&module_folder(MODULE), &root.join(name), package)?;
        tar(&root, &draft.join(LAYER), &["."])?;
        fs::remove_dir_all(&root).context("cannot remove the image's root")?;
        wrap(draft, image, (&[LAYER], &[&format!("/{name}")]))
    })?;
    Ok(Image { name: image.to_owned(), archive: entry.join(ARCHIVE) })
}

/// Where an image of this module's programs is kept.
fn entry(name: &str) -> Result<PathBuf> {
    let hash = hash_of(&module_folder(MODULE), &["go.mod", "go.sum", "dns/main.go", "pause/main.go"])?;
    Ok(crate::cache::root()?.join("images").join(format!("{name}-{hash}")))
}
