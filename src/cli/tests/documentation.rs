//! What the documents promise, held to the sources.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every `path.rs::test_name` in backquotes.
fn named_tests(text: &str) -> Vec<(String, String)> {
    let words = text.split('`').skip(1).step_by(2);
    words.filter_map(|word| word.split_once("::")).map(|(file, test)| (file.to_owned(), test.to_owned())).collect()
}

/// Whether `text` has a test of this name: its attribute at most three lines above.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let declares = |line: &str| line.trim_start().trim_start_matches("async ").starts_with(&format!("fn {name}("));
    lines.iter().enumerate().any(|(index, line)| {
        let above = &lines[index.saturating_sub(3)..index];
        declares(line)
            && (above.iter().any(|it| it.contains("test]") || it.contains("test(")) || text.contains("proptest!"))
    })
}

#[test]
fn every_test_that_the_feature_table_names_exists() {
    let table = fs::read_to_string(root().join("docs/features.md")).unwrap();
    let tests = named_tests(&table);
    assert!(!tests.is_empty());
    for (file, test) in tests {
        let text = fs::read_to_string(root().join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(has_test(&text, &test), "{file} has no test {test}");
    }
}

#[test]
fn every_row_of_the_feature_table_names_a_test() {
    let table = fs::read_to_string(root().join("docs/features.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #"));
    for row in rows {
        assert!(!named_tests(row).is_empty(), "{row}");
    }
}

#[test]
fn a_test_that_does_not_exist_is_noticed() {
    assert_eq!(named_tests("| A4 | breaker | `src/a.rs::b`, `c` |"), [("src/a.rs".to_owned(), "b".to_owned())]);
    assert!(has_test("#[test]\nfn b() {}", "b"));
    assert!(!has_test("fn b() {}", "b"));
    assert!(!has_test("#[test]\nfn bb() {}", "b"));
}

#[test]
fn the_readme_names_no_target_that_make_does_not_have() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let named = readme
        .split("make ")
        .skip(1)
        .filter_map(|rest| rest.split(|letter| !matches!(letter, 'a'..='z' | '0'..='9' | '-')).next());
    for target in named.filter(|target| !target.is_empty()) {
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
    }
}
