//! One proxy in front of one upstream, with neither operator nor policy.
//!
//! It must not send anything: what it is for, the bytes of protocols, is its users' to say.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use fusebox_testkit::process::binary_path;
use fusebox_testkit::{FlakyUpstream, Port, Process, ProcessBuilder};

use crate::fleet::PATIENCE;

/// A running proxy whose listener speaks every protocol.
#[derive(Debug)]
pub struct Standalone {
    /// The process.
    pub proxy: Process,
    /// Where it listens.
    pub listener: Port,
}

impl Standalone {
    /// Starts it in front of `upstream`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start or get ready in time.
    pub async fn start(upstream: &FlakyUpstream) -> Result<Self> {
        Self::start_before(upstream.address(), None).await
    }

    /// The same before any server at `upstream`, on `core` alone where one is named.
    ///
    /// # Errors
    /// When it does not start or get ready in time.
    pub async fn start_before(upstream: SocketAddr, core: Option<&str>) -> Result<Self> {
        let (listener, admin) = (Port::reserve()?, Port::reserve()?);
        let builder = match core {
            None => ProcessBuilder::binary("fusebox-proxy")?,
            Some(core) => ProcessBuilder::program("fusebox-proxy", Path::new("taskset"))
                .args(["--cpu-list", core])
                .arg(binary_path("fusebox-proxy")?),
        };
        let mut proxy = builder
            .arg(format!("--outbound={}=shop/payments:80", listener.address()))
            .arg(format!("--upstream=shop/payments={upstream}"))
            .arg(format!("--admin={}", admin.address()))
            .start()?;
        proxy.wait_for_http(admin.address(), "/health/ready", PATIENCE).await?;
        Ok(Self { proxy, listener })
    }
}
