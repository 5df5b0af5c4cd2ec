//! Kubeconfig files, by client certificate or by token.
//!
//! Owns the file's form. It must not talk to the API server.
//! Credentials are inline, so that one file is all a process under test needs.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::certificates::Signed;

/// Who the file lets one be.
pub(crate) enum Credential<'a> {
    Certificate(&'a Signed),
    Token(&'a str),
}

/// Writes a kubeconfig for the API server at `url`, readable by the owner alone.
pub(crate) fn write(path: &Path, url: &str, authority: &str, credential: &Credential<'_>) -> Result<()> {
    let text =
        serde_yaml::to_string(&content(url, authority, credential)).context("cannot serialize the kubeconfig")?;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    std::io::Write::write_all(&mut file.with_context(|| format!("cannot create {}", path.display()))?, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The kube configuration in a kubeconfig file.
pub(crate) async fn read(path: &Path) -> Result<kube::Config> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.with_context(|| format!("{} is not usable", path.display()))
}

fn content(url: &str, authority: &str, credential: &Credential<'_>) -> Value {
    let user = match credential {
        Credential::Certificate(signed) => json!({
            "client-certificate-data": STANDARD.encode(&signed.certificate),
            "client-key-data": STANDARD.encode(&signed.key),
        }),
        Credential::Token(token) => json!({ "token": token }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fusebox", "cluster": {"server": url, "certificate-authority-data": STANDARD.encode(authority)}}],
        "users": [{"name": "fusebox", "user": user}],
        "contexts": [{"name": "fusebox", "context": {"cluster": "fusebox", "user": "fusebox"}}],
        "current-context": "fusebox",
    })
}
