//! Manifests from files, folders and standard input, checked.
//!
//! It must only read: what they mean is the compiler's word. What is read is bounded, because a folder may be anything.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use fusebox_compiler::check::{self, File, Finding, Severity};
use fusebox_compiler::{Snapshot, manifest};
use jiff::Timestamp;

use crate::terminal::{BAD, CARE, STRONG, Styled, Terminal};

/// The most files that one command reads.
const MAX_FILES: usize = 10_000;

/// The deepest folder that is looked into.
const MAX_DEPTH: usize = 16;

/// The longest input that is read, in bytes; the check says what is allowed.
const MAX_INPUT: u64 = 64 << 20;

/// One text and its name.
pub(crate) struct Source {
    name: String,
    text: String,
}

/// The texts of all manifests, folders in the order of their names.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for path in paths {
        ensure!(path.as_os_str() == "-" || path.exists(), "{} does not exist", path.display());
        collect(path, path.is_file() || path.as_os_str() == "-", MAX_DEPTH, &mut files)?;
    }
    ensure!(!files.is_empty(), "no .yaml, .yml or .json file in {}", paths[0].display());
    files.into_iter().map(|path| read_one(&path)).collect()
}

/// Checks what was read and prints what is wrong; none when something is.
pub(crate) fn load_read(sources: &[Source], terminal: &mut Terminal) -> Result<Option<Snapshot>> {
    let files: Vec<File<'_>> = sources.iter().map(Source::file).collect();
    let findings = findings(&files);
    print(&findings, &mut *terminal.err)?;
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Ok(None);
    }
    Ok(Some(manifest::load(&files, Timestamp::now())?))
}

/// What is wrong, in the order of the files and their lines.
pub(crate) fn findings(files: &[File<'_>]) -> Vec<Finding> {
    let check_one = |file: &File<'_>| {
        let mut findings = check::check(std::slice::from_ref(file));
        findings.sort_by_key(|finding| finding.place);
        findings
    };
    files.iter().flat_map(check_one).collect()
}

/// Prints findings, one a line: `file:line:column: error: field: message; fix`.
pub(crate) fn print(findings: &[Finding], out: &mut dyn std::io::Write) -> Result<()> {
    for Finding { severity, layer: _, file, place, field, message, fix } in findings {
        let (style, word) = match severity {
            Severity::Error => (BAD, "error"),
            Severity::Warning => (CARE, "warning"),
        };
        write!(out, "{file}:{}:{}: {}: ", place.line, place.column, Styled(style, word))?;
        if !field.is_empty() {
            write!(out, "{}: ", Styled(STRONG, field))?;
        }
        write!(out, "{message}")?;
        if !fix.is_empty() {
            write!(out, " ({fix})")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

impl Source {
    /// A text with a name, for tests.
    #[cfg(test)]
    pub(crate) fn named(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned() }
    }

    /// The text as the compiler takes it.
    pub(crate) fn file(&self) -> File<'_> {
        File { name: &self.name, text: &self.text }
    }
}

fn collect(path: &Path, named: bool, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    ensure!(files.len() < MAX_FILES, "more than {MAX_FILES} files: name folders further down");
    if !path.is_dir() {
        let manifest =
            path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|it| extension == *it));
        if named || manifest {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    ensure!(depth > 0, "{} is nested too deep: name folders further down", path.display());
    let entries = fs::read_dir(path).with_context(|| format!("folder {} can't be read", path.display()))?;
    let mut entries = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| collect(entry, false, depth - 1, files))
}

fn read_one(path: &Path) -> Result<Source> {
    let mut text = String::new();
    let (name, read) = if path.as_os_str() == "-" {
        ("-".to_owned(), std::io::stdin().take(MAX_INPUT).read_to_string(&mut text))
    } else {
        let name = path.display().to_string();
        let file = fs::File::open(path).with_context(|| format!("{name} can't be opened"))?;
        (name, file.take(MAX_INPUT).read_to_string(&mut text))
    };
    read.with_context(|| format!("{name} can't be read as text"))?;
    Ok(Source { name, text })
}
