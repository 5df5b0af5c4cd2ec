//! Images of one static program each, built from the Go module e2e/programs.
//!
//! Owns which package becomes which image. It must not change the programs: but for `pause` they are other people's.

use std::fs;

use anyhow::{Context as _, Result};

use super::{ARCHIVE, Image, LAYER, tar, wrap};
use crate::binaries::{GoBuilder, hash_of, module_folder};

/// What holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "fusebox-test/pause:1";
/// CoreDNS.
pub(crate) const DNS_IMAGE: &str = "fusebox-test/coredns:1";
/// grpcurl, whose entrypoint is the program itself.
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
/// When neither Go nor Docker can build it.
pub fn grpc_client() -> Result<Image> {
    program("grpcurl", GRPC_CLIENT_IMAGE, "github.com/fullstorydev/grpcurl/cmd/grpcurl")
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
    let module = module_folder("programs");
    let hash = hash_of(&module, &["go.mod", "go.sum", "dns/main.go", "pause/main.go"])?;
    let entry = crate::cache::root()?.join("images").join(format!("{name}-{hash}"));
    crate::cache::make_once(&entry, |draft| {
        let root = draft.join("root");
        fs::create_dir_all(root.join("tmp")).context("cannot create the image's root")?;
        GoBuilder::find()?.build_static(&module, &root.join(name), package)?;
        tar(&root, &draft.join(LAYER), &["."])?;
        fs::remove_dir_all(&root).context("cannot remove the image's root")?;
        wrap(draft, image, &[&format!("/{name}")])
    })?;
    Ok(Image { name: image.to_owned(), archive: entry.join(ARCHIVE) })
}
