//! One operator process.
//!
//! Owns its flags and its life. It must not be configured in any way a user could not.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fusebox_testkit::Port;
use fusebox_testkit::process::{Process, ProcessBuilder};

use crate::fleet::{PATIENCE, SYSTEM_NAMESPACE};

/// What may differ between tests.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// Lease duration, renew interval and renew deadline, as flags take them.
    pub lease: (&'static str, &'static str, &'static str),
    /// Other flags, as they are.
    pub flags: Vec<&'static str>,
    /// Where spans go.
    pub otlp_endpoint: Option<String>,
    /// Another build of the operator, such as the version before; this workspace's when absent.
    pub program: Option<PathBuf>,
}

/// A running `fusebox-operator`.
pub struct OperatorProcess {
    /// The process, to be stopped, frozen or killed.
    pub process: Process,
    identity: String,
    control: Port,
    admin: Port,
    operations: Port,
}

impl Default for OperatorOptions {
    fn default() -> Self {
        Self { lease: ("15s", "5s", "10s"), flags: Vec::new(), otlp_endpoint: None, program: None }
    }
}

impl OperatorOptions {
    /// A lease short enough for a test to wait for its end.
    #[must_use]
    pub fn short_lease() -> Self {
        Self { lease: ("4s", "1s", "3s"), ..Self::default() }
    }
}

impl OperatorProcess {
    /// Starts an operator and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it isn't in time.
    pub async fn start(identity: &str, kubeconfig: &Path, options: &OperatorOptions) -> Result<Self> {
        let (control, admin, ops) = (Port::reserve()?, Port::reserve()?, Port::reserve()?);
        let (duration, interval, deadline) = options.lease;
        let mut arguments: Vec<String> = [
            ("--namespace", SYSTEM_NAMESPACE),
            ("--identity", identity),
            ("--control-listen", &control.address().to_string()),
            ("--admin-listen", &admin.address().to_string()),
            ("--advertise", &control.address().to_string()),
            ("--san", "127.0.0.1"),
            ("--lease-duration", duration),
            ("--renew-interval", interval),
            ("--renew-deadline", deadline),
        ]
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect();
        // The version before has no such ports, and refuses flags that it does not know.
        if options.program.is_none() {
            let listen = ["--webhook-listen", "127.0.0.1:0", "--ops-listen", &format!("0.0.0.0:{}", ops.number())];
            arguments.extend(listen.map(str::to_owned));
        }
        arguments.extend(options.flags.iter().map(|&flag| flag.to_owned()));
        if let Some(endpoint) = &options.otlp_endpoint {
            arguments.extend(["--otlp-endpoint".to_owned(), endpoint.clone()]);
        }
        let builder = match &options.program {
            None => ProcessBuilder::binary("fusebox-operator")?,
            Some(path) => ProcessBuilder::program("fusebox-operator", path),
        };
        let process = builder
            .args(&arguments)
            .env("KUBECONFIG", kubeconfig)
            .start()
            .with_context(|| format!("cannot start operator {identity}"))?;
        let mut operator = Self { process, identity: identity.to_owned(), control, admin, operations: ops };
        operator.ready().await?;
        Ok(operator)
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it doesn't within [`PATIENCE`].
    pub async fn ready(&mut self) -> Result<()> {
        self.process.wait_for_http(self.admin.address(), "/health/ready", PATIENCE).await
    }

    /// Its name in the lease, and the user it is to the API server.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Where proxies connect.
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("https://{}", self.control.address())
    }
    /// The port of its operations API, on all addresses of this machine.
    #[must_use]
    pub fn operations_port(&self) -> u16 {
        self.operations.number()
    }
}
