//! The HTTP/2 conformance suite h2spec, built from our Go module around it.
//!
//! Owns where the program comes from and how its lines are read. It must not judge a verdict: which cases may fail is for
//! the test that runs it to say.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::binaries::{GoBuilder, hash_of, module_folder};

/// One case of the suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// `passed`, `failed` or `skipped`.
    pub verdict: String,
    /// Such as `http2/6.5.3/2`, with what is tested.
    pub name: String,
    /// What was expected and seen, where it failed.
    pub detail: String,
}

/// The path of the program. Blocks while it is built, once.
///
/// # Errors
/// When neither Go nor Docker can build it.
pub fn program() -> Result<PathBuf> {
    let module = module_folder("h2spec");
    let entry = crate::cache::root()?.join("h2spec").join(hash_of(&module, &["main.go", "go.mod", "go.sum"])?);
    crate::cache::make_once(&entry, |draft| GoBuilder::find()?.build(&module, &draft.join("h2spec"), "-s -w"))?;
    Ok(entry.join("h2spec"))
}

/// Runs the whole suite against the server on `port` of 127.0.0.1. Blocks for some seconds.
///
/// # Errors
/// When it can't be run, or did not come to its end.
pub fn run(port: u16) -> Result<Vec<Case>> {
    let output = Command::new(program()?)
        .args(["-port", &port.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("cannot run h2spec")?;
    ensure!(output.status.success(), "h2spec ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(case).collect())
}

fn case(line: &str) -> Option<Case> {
    let (verdict, rest) = line.split_once(' ')?;
    let (name, detail) = rest.split_once(" | ").unwrap_or((rest, ""));
    Some(Case { verdict: verdict.to_owned(), name: name.to_owned(), detail: detail.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_verdict_a_name_and_perhaps_a_detail() {
        let read = case("failed http2/5.1/1 idle: Sends a DATA frame | Timeout").unwrap();
        assert_eq!((read.verdict.as_str(), read.detail.as_str()), ("failed", "Timeout"));
        assert_eq!(case("passed hpack/2.3/1 a").unwrap().name, "hpack/2.3/1 a");
        assert_eq!(case(""), None);
    }
}
