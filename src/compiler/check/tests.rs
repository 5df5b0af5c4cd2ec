//! Tests of the offline check, driven by `cases.yaml` and by texts whose places matter.

use super::cases::{self, Verdict};
use super::*;
use crate::kind::Kind;

fn findings(text: &str) -> Vec<Finding> {
    check(&[File { name: "policy.yaml", text }])
}

#[test]
fn every_case_has_its_verdict_and_field() {
    let mut wrong = Vec::new();
    for case in cases::all().unwrap() {
        let found = findings(&case.manifest());
        let refused = found.iter().any(|finding| finding.severity == Severity::Error);
        let named = found.iter().any(|it| it.field == case.field && case.layer.is_none_or(|layer| layer == it.layer));
        let as_told = match case.verdict {
            Verdict::Accepted => !refused,
            Verdict::Refused => refused && named,
        };
        if !as_told {
            let said: Vec<String> = found.iter().map(|it| format!("{it} [{:?}]", it.layer)).collect();
            wrong.push(format!("{}: wanted {:?} {}, found {said:?}", case.name, case.verdict, case.field));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_names_of_cases_are_unique() {
    let mut names: Vec<String> = cases::all().unwrap().into_iter().map(|case| case.name).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn a_finding_names_file_line_field_and_fix() {
    let text = "# a comment\napiVersion: fusebox.dev/v1alpha1\nkind: CircuitBreakerPolicy\nmetadata:\n  name: a\nspec:\n  targetRefs:\n  - name: pay\n  trip:\n    failureRat:\n      percent: 50\n";
    let said: Vec<String> = findings(text).iter().map(ToString::to_string).collect();
    assert_eq!(said[0], "policy.yaml:10:5: error: spec.trip.failureRat: unknown field; did you mean failureRate?");
}

#[test]
fn refused_values_come_with_one_that_would_do() {
    let said = |field: &str| {
        let head = "apiVersion: fusebox.dev/v1alpha1\nkind: CircuitBreakerPolicy\nmetadata: {name: a}\nspec:\n  targetRefs: [{name: pay}]\n";
        let found = findings(&format!("{head}  {field}\n"));
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert!(
        said("timeout: 5").ends_with("spec.timeout: 5 is no duration; write it like 5s, 250ms or 1m30s"),
        "{}",
        said("timeout: 5")
    );
    assert!(
        said("timeout: 5d").ends_with("\"5d\" is no duration; write it like 5s, 250ms or 1m30s"),
        "{}",
        said("timeout: 5d")
    );
    assert!(said("trip: {consecutiveFailures: 0}").ends_with("0 is too small: set 1 at least"));
    assert!(said("override: {state: ForcedOpen, until: \"2026-03-01T12:00:00Z\", reason: 5}").contains("wrong type"));
}

#[test]
fn documents_of_others_pass_and_each_of_ours_is_checked() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: pay}\n---\napiVersion: fusebox.dev/v1alpha1\nkind: CircuitBreaker\n---\napiVersion: fusebox.dev/v1alpha1\nkind: CircuitBreakerPolicy\nmetadata: {name: a}\nspec: {targetRefs: []}\n";
    let places: Vec<(usize, String)> = findings(text).into_iter().map(|it| (it.place.line, it.field)).collect();
    assert_eq!(places, [(6, "kind".to_owned()), (11, "spec.targetRefs".to_owned())]);
}

#[test]
fn words_that_yaml_1_1_takes_for_booleans_are_told() {
    let text = "apiVersion: fusebox.dev/v1alpha1\nkind: CircuitBreakerPolicy\nmetadata: {name: a}\nspec:\n  targetRefs: [{name: pay}]\n  mode: off\n  on: x\n";
    let said: Vec<(Severity, String)> = findings(text).into_iter().map(|it| (it.severity, it.field)).collect();
    assert!(said.contains(&(Severity::Warning, "spec.mode".to_owned())), "{said:?}");
    assert!(said.contains(&(Severity::Error, "spec.mode".to_owned())), "{said:?}");
    assert!(said.contains(&(Severity::Error, "spec.true".to_owned())), "{said:?}");
}

#[test]
fn text_that_is_no_yaml_is_one_finding() {
    let found = findings("spec: [1, 2\n");
    assert_eq!((found.len(), found[0].layer), (1, Layer::Syntax));
}

#[test]
fn samples_are_accepted_and_compile() {
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/samples");
    let mut seen = 0;
    for entry in std::fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let files = [File { name: "sample.yaml", text: &text }];
        let said: Vec<String> = check(&files).iter().map(ToString::to_string).collect();
        assert!(said.is_empty(), "{}: {said:?}", path.display());
        let snapshot = crate::manifest::load(&files, "2026-03-01T12:00:00Z".parse().unwrap()).unwrap();
        assert!(!(snapshot.circuit_breakers.is_empty() && snapshot.rate_limits.is_empty()), "{}", path.display());
        let refused = |verdict: &crate::plan::Verdict| match verdict {
            crate::plan::Verdict::Accepted => false,
            // A sample may leave its Service to the demo or to the reader.
            crate::plan::Verdict::Refused(refusal) => !snapshot.services.is_empty() || !refusal.is_unresolved(),
        };
        for policy in crate::compile(&snapshot).policies.values() {
            let first = policy.targets.iter().find(|target| refused(&target.verdict));
            assert_eq!(first, None, "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen > 0);
}

/// The whole manifests among the blocks of YAML in a document.
fn manifests_in(text: &str) -> Vec<&str> {
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter(|block| Kind::ALL.iter().any(|kind| block.contains(&format!("kind: {}\n", kind.as_str())))).collect()
}

#[test]
fn every_manifest_of_the_guide_is_accepted() {
    let guide = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let manifests = manifests_in(&guide);
    assert!(manifests.len() >= 6, "{}", manifests.len());
    for manifest in manifests {
        let said: Vec<String> = findings(manifest).iter().map(ToString::to_string).collect();
        assert!(said.is_empty(), "{manifest}\n{said:?}");
        let files = [File { name: "guide.yaml", text: manifest }];
        assert!(crate::manifest::load(&files, "2026-03-01T12:00:00Z".parse().unwrap()).is_ok(), "{manifest}");
    }
}
