//! Running this machine's own commands.
//!
//! Owns how a failed command is told. It must not decide which commands are run.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Runs a command and returns its standard output.
pub(super) fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let words: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed ({}): {}", words.join(" "), output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
