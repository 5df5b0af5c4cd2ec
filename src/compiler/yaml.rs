//! YAML as kubectl reads it, with the place of every value.
//!
//! kubectl follows YAML 1.1 where a plain word may be a boolean, so `on: x` becomes `"true": x`.
//! This reader must come to the same values, or the offline check would accept what the API
//! server refuses; and it is bounded, because files may be wrong or hostile.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

/// The largest file that is read, in bytes: what the API server takes as one request.
pub const MAX_FILE_BYTES: usize = 3 << 20;

/// The most values in one file, repeated anchors included.
pub const MAX_NODES: usize = 1 << 18;

/// The deepest nesting.
pub const MAX_DEPTH: usize = 64;

/// A line and a column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub content: Content,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A scalar; `word` is set where YAML 1.1 reads a plain word as a boolean.
    Scalar {
        /// Its value.
        value: Value,
        /// The word that was read as a boolean.
        word: Option<String>,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the file.
    Mapping(Vec<(Key, Node)>),
}

/// A mapping's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As kubectl reads it.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// The word that was read as a boolean.
    pub word: Option<String>,
}

/// Why a file can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct YamlError {
    /// Where reading ended.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
}

/// One step down from a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// To a mapping's value.
    Key(&'a str),
    /// To a list's item.
    Index(usize),
}

/// A collection being read.
enum Open {
    List(Place, usize, Vec<Node>),
    Mapping(Place, usize, Vec<(Key, Node)>, Option<Key>),
}

/// The reader's state.
#[derive(Default)]
struct Reader {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

/// Reads every document of a file; empty documents are left out.
///
/// # Errors
/// [`YamlError`] with its place where the text is no YAML, or is larger than the bounds.
pub fn read(text: &str) -> Result<Vec<Node>, YamlError> {
    if text.len() > MAX_FILE_BYTES {
        let problem = format!("the file is {} bytes long; {MAX_FILE_BYTES} are allowed: split it", text.len());
        return Err(YamlError { place: Place { line: 1, column: 1 }, problem });
    }
    let mut reader = Reader::default();
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| YamlError {
            place: Place { line: error.marker().line(), column: error.marker().col() + 1 },
            problem: format!("not valid YAML: {}", error.info()),
        })?;
        reader.take(event, span)?;
    }
    Ok(reader.documents)
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let place = Place { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let (value, word) = if plain { resolve(&text) } else { (Value::String(text.into_owned()), None) };
                self.add(Node { place, content: Content::Scalar { value, word } }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.push(Open::List(place, anchor, Vec::new()), place),
            Event::MappingStart(_, anchor, _) => self.push(Open::Mapping(place, anchor, Vec::new(), None), place),
            Event::SequenceEnd | Event::MappingEnd => self.close(place),
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    return Err(YamlError { place, problem: "an alias names no anchor".to_owned() });
                };
                self.nodes += size;
                self.add(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, open: Open, place: Place) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(YamlError { place, problem: format!("nested deeper than {MAX_DEPTH}") });
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self, place: Place) -> Result<(), YamlError> {
        match self.open.pop() {
            Some(Open::List(start, anchor, items)) => {
                self.add(Node { place: start, content: Content::List(items) }, anchor)
            }
            Some(Open::Mapping(start, anchor, entries, _)) => {
                self.add(Node { place: start, content: Content::Mapping(entries) }, anchor)
            }
            None => Err(YamlError { place, problem: "a collection ends that never began".to_owned() }),
        }
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), YamlError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(YamlError {
                place: node.place,
                problem: format!("more than {MAX_NODES} values: split the file"),
            });
        }
        if anchor > 0 {
            let size = node.size();
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut() {
            None => {
                if node.to_value() != Value::Null {
                    self.documents.push(node);
                }
            }
            Some(Open::List(_, _, items)) => items.push(node),
            Some(Open::Mapping(_, _, entries, key)) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(key_of(node)?),
            },
        }
        Ok(())
    }
}

impl Node {
    /// The value as kubectl sends it. Of equal keys the last one counts.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar { value, .. } => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Content::Mapping(entries) => {
                let pairs = entries.iter().map(|(key, node)| (key.name.clone(), node.to_value()));
                Value::Object(pairs.collect::<Map<String, Value>>())
            }
        }
    }

    /// The place of what the steps lead to, or of the last value on the way that exists.
    #[must_use]
    pub fn place_of(&self, steps: &[Step<'_>]) -> Place {
        let Some((step, rest)) = steps.split_first() else { return self.place };
        match (&self.content, step) {
            (Content::Mapping(entries), Step::Key(wanted)) => match entries.iter().find(|(key, _)| key.name == *wanted)
            {
                Some((key, _)) if rest.is_empty() => key.place,
                Some((_, node)) => node.place_of(rest),
                None => self.place,
            },
            (Content::List(items), Step::Index(index)) => {
                items.get(*index).map_or(self.place, |node| node.place_of(rest))
            }
            _ => self.place,
        }
    }

    fn size(&self) -> usize {
        match &self.content {
            Content::Scalar { .. } => 1,
            Content::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Content::Mapping(entries) => 1 + entries.iter().map(|(_, node)| node.size()).sum::<usize>(),
        }
    }
}

fn key_of(node: Node) -> Result<Key, YamlError> {
    let place = node.place;
    let (name, word) = match node.content {
        Content::Scalar { value: Value::String(name), word } => (name, word),
        Content::Scalar { value, word } => (value.to_string(), word),
        Content::List(_) | Content::Mapping(_) => {
            return Err(YamlError { place, problem: "a key must be a word".to_owned() });
        }
    };
    Ok(Key { name, place, word })
}

/// A plain scalar by the rules of YAML 1.1 as far as kubectl follows them.
fn resolve(text: &str) -> (Value, Option<String>) {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => (Value::Null, None),
        "true" | "True" | "TRUE" => (Value::Bool(true), None),
        "false" | "False" | "FALSE" => (Value::Bool(false), None),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => (Value::Bool(true), Some(text.to_owned())),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => (Value::Bool(false), Some(text.to_owned())),
        _ => (number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number), None),
    }
}

fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(Number::from);
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Ok(whole) = text.parse::<i64>() {
        return Some(Number::from(whole));
    }
    if let Ok(whole) = text.parse::<u64>() {
        return Some(Number::from(whole));
    }
    let looks_like_float = text.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if looks_like_float { text.parse::<f64>().ok().and_then(Number::from_f64) } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_read_as_kubectl_reads_them() {
        let documents = read("on: yes\nname: \"no\"\ncount: 5\nshare: 0.5\nempty:\n---\n---\n[a, 10s, 5xx]\n").unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(
            documents[0].to_value(),
            json!({"true": true, "name": "no", "count": 5, "share": 0.5, "empty": null})
        );
        assert_eq!(documents[1].to_value(), json!(["a", "10s", "5xx"]));
    }

    #[test]
    fn every_value_knows_its_place() {
        let documents = read("spec:\n  rules:\n  - name: a\n  - name: b\n").unwrap();
        let steps = [Step::Key("spec"), Step::Key("rules"), Step::Index(1), Step::Key("name")];
        assert_eq!(documents[0].place_of(&steps), Place { line: 4, column: 5 });
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let alias = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
        }
        assert!(read(&text).unwrap_err().problem.contains("more than"));
    }

    #[test]
    fn broken_yaml_names_its_line() {
        assert_eq!(read("a: 1\nb: [1, 2\n").unwrap_err().place.line, 2);
    }
}
