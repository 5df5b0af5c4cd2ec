//! The offline check: what the API server and the compiler would say of a manifest.
//!
//! It must come to the API server's own verdicts (same schema, same rules, same reading of
//! YAML), because a check that is laxer than the cluster is worth nothing, and a stricter one lies.

pub mod cases;
mod doubts;
mod fields;
mod resource;
mod schema;

use std::fmt;

use serde_json::Value;

use crate::yaml::{self, Node, Place, Step};

pub use doubts::doubts;

/// At most this many findings of one document are told.
pub const MAX_FINDINGS: usize = 64;

/// What is said of a field that the schema does not have.
const UNKNOWN_FIELD: &str = "unknown field";

/// Something that is wrong, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Who found it.
    pub layer: Layer,
    /// The file's name, as it was given.
    pub file: String,
    /// Where in the file.
    pub place: Place,
    /// The field, such as `spec.trip.failureRate.percent`; empty for the document as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do, where that is not in the message.
    pub fix: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, and may not mean what was meant.
    Warning,
    /// It would be refused.
    Error,
}

/// Which check found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum Layer {
    /// The text is no YAML, or no manifest.
    Syntax,
    /// The schema: types, bounds, patterns, unknown fields.
    Schema,
    /// The schema's rules over several fields.
    Rule,
    /// The compiler alone; the API server accepts it, and condition Accepted says it.
    Compiler,
}

/// A text to check.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its name, for findings.
    pub name: &'a str,
    /// What it holds: one or more YAML documents.
    pub text: &'a str,
}

/// A path of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Field(String),
    Index(usize),
}

/// A finding without file and place.
pub(crate) struct Found {
    severity: Severity,
    layer: Layer,
    path: Path,
    message: String,
    fix: String,
}

/// Checks every document of every file.
#[must_use]
pub fn check(files: &[File<'_>]) -> Vec<Finding> {
    files.iter().flat_map(check_file).collect()
}

/// Checks one object as the API server has it, defaults filled in or not. Findings have no file and no place.
#[must_use]
pub fn check_object(object: &Value) -> Vec<Finding> {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        // Written by the API server and the operator alone.
        fields.remove("status");
    }
    let found = resource::check(&object).into_iter().take(MAX_FINDINGS);
    found.map(|found| found.told("", Place { line: 0, column: 0 })).collect()
}

fn check_file(file: &File<'_>) -> Vec<Finding> {
    match yaml::read(file.text) {
        Ok(documents) => documents.iter().flat_map(|document| check_document(file, document)).collect(),
        Err(error) => vec![Finding {
            severity: Severity::Error,
            layer: Layer::Syntax,
            file: file.name.to_owned(),
            place: error.place,
            field: String::new(),
            message: error.problem,
            fix: String::new(),
        }],
    }
}

fn check_document(file: &File<'_>, document: &Node) -> Vec<Finding> {
    let mut found = fields::words(document);
    found.extend(resource::check(&document.to_value()));
    found.truncate(MAX_FINDINGS);
    let told = |found: Found| {
        let place = document.place_of(&found.path.steps());
        found.told(file.name, place)
    };
    found.into_iter().map(told).collect()
}

impl Finding {
    /// Whether it is about a field that this build does not know, which a newer API may.
    #[must_use]
    pub fn is_unknown_field(&self) -> bool {
        self.layer == Layer::Schema && self.message == UNKNOWN_FIELD
    }
}

impl Found {
    pub(crate) fn new(layer: Layer, path: Path, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, layer, path, message: message.into(), fix: String::new() }
    }

    fn told(self, file: &str, place: Place) -> Finding {
        Finding {
            severity: self.severity,
            layer: self.layer,
            file: file.to_owned(),
            place,
            field: self.path.to_string(),
            message: self.message,
            fix: self.fix,
        }
    }

    pub(crate) fn into_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    pub(crate) fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

impl Path {
    pub(crate) fn field(&self, name: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(Part::Field(name.to_owned()));
        Self(parts)
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        let mut parts = self.0.clone();
        parts.push(Part::Index(index));
        Self(parts)
    }

    /// Reads `spec.rules[0].name`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut path = Self::default();
        for part in text.split(['.', '[']).filter(|part| !part.is_empty()) {
            path = match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
                Some(index) => path.index(index),
                None => path.field(part),
            };
        }
        path
    }

    fn steps(&self) -> Vec<Step<'_>> {
        let step = |part| match part {
            &Part::Index(index) => Step::Index(index),
            Part::Field(name) => Step::Key(name),
        };
        self.0.iter().map(step).collect()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, part) in self.0.iter().enumerate() {
            match part {
                Part::Field(name) if position == 0 => formatter.write_str(name)?,
                Part::Field(name) => write!(formatter, ".{name}")?,
                Part::Index(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, layer: _, file, place, field, message, fix } = self;
        let severity = match severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(formatter, "{file}:{}:{}: {severity}: ", place.line, place.column)?;
        if !field.is_empty() {
            write!(formatter, "{field}: ")?;
        }
        formatter.write_str(message)?;
        if fix.is_empty() { Ok(()) } else { write!(formatter, "; {fix}") }
    }
}

#[cfg(test)]
mod tests;
