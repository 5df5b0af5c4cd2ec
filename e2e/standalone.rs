//! One proxy in front of one upstream, with neither operator nor policy.
//!
//! It must not send anything: what it is for, the bytes of protocols, is its users' to say.

use anyhow::Result;
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
        let (listener, admin) = (Port::reserve()?, Port::reserve()?);
        let mut proxy = ProcessBuilder::binary("fusebox-proxy")?
            .arg(format!("--outbound={}=shop/payments:80", listener.address()))
            .arg(format!("--upstream=shop/payments={}", upstream.address()))
            .arg(format!("--admin={}", admin.address()))
            .start()?;
        proxy.wait_for_http(admin.address(), "/health/ready", PATIENCE).await?;
        Ok(Self { proxy, listener })
    }
}
