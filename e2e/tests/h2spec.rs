//! The proxy's listener under the whole of h2spec, case by case against the committed summary.
//!
//! A case that fails and is not listed here with its reason fails the test; `make h2spec` writes the summary anew.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::standalone::Standalone;
use fusebox_testkit::{FlakyUpstream, h2spec};

/// Set by `make h2spec`: the summary is written and not compared.
const WRITE: &str = "FUSEBOX_WRITE_H2SPEC";

/// Cases that may fail, each with why.
const KNOWN: [(&str, &str); 1] = [(
    "http2/3.5/2 ",
    "one port speaks every protocol: what does not begin with HTTP/2's preface is no broken HTTP/2, and goes on as other TCP",
)];

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_passes_h2spec_but_for_what_is_listed() -> Result<()> {
    let upstream = FlakyUpstream::start().await?;
    // Some cases need a body that does not fit into one window.
    upstream.set_body("x".repeat(1 << 10));
    let Standalone { proxy: _proxy, listener } = Standalone::start(&upstream).await?;
    let port = listener.number();
    let cases = tokio::task::spawn_blocking(move || h2spec::run(port)).await??;

    let mut summary = String::new();
    let count = |verdict: &str| cases.iter().filter(|case| case.verdict == verdict).count();
    writeln!(summary, "h2spec 2.2.1 --strict against the proxy's listener; `make h2spec` writes this anew.")?;
    writeln!(
        summary,
        "{} cases: {} passed, {} skipped, {} failed\n",
        cases.len(),
        count("passed"),
        count("skipped"),
        count("failed")
    )?;
    for case in &cases {
        writeln!(summary, "{:<8}{}", case.verdict, case.name)?;
    }
    let unexpected: Vec<String> = cases
        .iter()
        .filter(|case| case.verdict == "failed" && !KNOWN.iter().any(|(known, _why)| case.name.starts_with(known)))
        .map(|case| format!("{}: {}", case.name, case.detail))
        .collect();
    ensure!(unexpected.is_empty(), "h2spec found:\n{}", unexpected.join("\n"));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/h2spec.txt");
    if std::env::var_os(WRITE).is_some() {
        return std::fs::write(&path, summary).with_context(|| format!("cannot write {}", path.display()));
    }
    let committed = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(committed == summary, "docs/h2spec.txt is not what h2spec says now: run `make h2spec`\n{summary}");
    Ok(())
}
