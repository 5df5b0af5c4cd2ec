//! What is wrong with a document's words, before it is known what the document is.
//!
//! It must only look at keys and scalars: YAML 1.1's booleans and keys that stand twice.

use std::collections::BTreeSet;

use super::{Found, Layer, Path};
use crate::yaml::{Content, Node};

/// Findings about keys and words.
pub(super) fn words(document: &Node) -> Vec<Found> {
    let mut found = Vec::new();
    visit(document, &Path::default(), &mut found);
    found
}

fn visit(node: &Node, path: &Path, found: &mut Vec<Found>) {
    match &node.content {
        Content::Scalar { value, word } => {
            if let Some(word) = word {
                let message = format!("the word {word} is a boolean in YAML 1.1, so kubectl sends {value}");
                let fix = format!("write \"{word}\" in quotes, or {value}");
                found.push(Found::new(Layer::Syntax, path.clone(), message).into_warning().with_fix(fix));
            }
        }
        Content::List(items) => {
            for (index, item) in items.iter().enumerate() {
                visit(item, &path.index(index), found);
            }
        }
        Content::Mapping(entries) => {
            let mut seen = BTreeSet::new();
            for (key, value) in entries {
                let path = path.field(&key.name);
                if let Some(word) = &key.word {
                    let message = format!("the key {word} is a boolean in YAML 1.1, so kubectl sends {:?}", key.name);
                    found.push(
                        Found::new(Layer::Syntax, path.clone(), message)
                            .with_fix(format!("write \"{word}\" in quotes")),
                    );
                }
                if !seen.insert(key.name.as_str()) {
                    let found_twice = Found::new(Layer::Syntax, path.clone(), "the field stands twice");
                    found.push(found_twice.with_fix("remove one of the two"));
                }
                visit(value, &path, found);
            }
        }
    }
}

/// The known name nearest to a wrong one, if one is near.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const MAX_NAME: usize = 64;
    if wrong.len() > MAX_NAME {
        return None;
    }
    let limit = (wrong.len() / 3).max(1);
    let ranked = known.map(|name| (distance(&wrong.to_lowercase(), &name.to_lowercase()), name));
    ranked.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, letter) in left.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(letter != *other);
            current.push(replaced.min(previous[column + 1] + 1).min(current[column] + 1));
        }
        previous = current;
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let known = ["failureRate", "failures", "consecutiveFailures"];
        assert_eq!(nearest("failureRat", known.into_iter()), Some("failureRate"));
        assert_eq!(nearest("failurerate", known.into_iter()), Some("failureRate"));
        assert_eq!(nearest("colour", known.into_iter()), None);
    }
}
