//! `fusebox check`: mistakes in files, without a cluster.
//!
//! It must print the compiler's findings and no others: they are the API server's own verdicts.

use std::io::Write as _;

use anyhow::Result;
use fusebox_compiler::check::{File, Finding, Severity};
use serde_json::{Value, json};

use crate::arguments::{CheckArguments, Output};
use crate::manifests::{self, Source};
use crate::terminal::{Exit, GOOD, Styled, Terminal};

/// Checks the files; ends with 1 where there are errors, with 2 where they can't be read.
pub(crate) fn check(arguments: &CheckArguments, terminal: &mut Terminal) -> Result<Exit> {
    let sources = match manifests::read(&arguments.filenames) {
        Ok(sources) => sources,
        Err(error) => {
            terminal.error(&format!("{error:#}"));
            return Ok(Exit::Usage);
        }
    };
    let files: Vec<File<'_>> = sources.iter().map(Source::file).collect();
    let findings = manifests::findings(&files);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    match arguments.output {
        Output::Json => {
            let findings: Vec<Value> = findings.iter().map(as_json).collect();
            serde_json::to_writer_pretty(
                &mut terminal.out,
                &json!({ "files": files.len(), "errors": errors, "findings": findings }),
            )?;
            writeln!(terminal.out)?;
        }
        Output::Table => {
            manifests::print(&findings, &mut *terminal.out)?;
            if findings.is_empty() {
                writeln!(terminal.err, "{} in {} files", Styled(GOOD, "nothing wrong"), files.len())?;
            }
        }
    }
    Ok(if errors == 0 { Exit::Done } else { Exit::Failed })
}

fn as_json(finding: &Finding) -> Value {
    let Finding { severity, layer, file, place, field, message, fix } = finding;
    json!({
        "severity": format!("{severity:?}"),
        "layer": format!("{layer:?}"),
        "file": file,
        "line": place.line,
        "column": place.column,
        "field": field,
        "message": message,
        "fix": fix,
    })
}
