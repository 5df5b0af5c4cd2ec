//! Generated objects held to promtool and to the real CRDs: what must fire fires, what must not stays silent.

use std::fs;
use std::path::Path;
use std::process::Command;

use fusebox_api::CircuitBreakerPolicySpec;
use fusebox_api::common::Mode;
use fusebox_policy::config::PolicyId;
use fusebox_testkit::prometheus;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::Value;

use super::*;

const CASES: &str = include_str!("promtool_cases.yaml");

fn key(kind: Kind, namespace: &str, name: &str) -> PolicyKey {
    PolicyKey::new(kind, PolicyId { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn timeouts(rules: &[(&str, Option<u64>)]) -> Watched {
    let rule =
        |(rule, timeout_ms): &(&str, Option<u64>)| RuleTimeout { rule: (*rule).to_owned(), timeout_ms: *timeout_ms };
    Watched::Breakers(rules.iter().map(rule).collect())
}

fn subject(namespace: &str, name: &str, rules: &[(&str, Option<u64>)]) -> AlertSubject {
    AlertSubject { policy: key(Kind::CircuitBreakerPolicy, namespace, name), watched: timeouts(rules) }
}

fn limited(namespace: &str, name: &str) -> AlertSubject {
    let watched = Watched::Limits { shared: true, blocking: true };
    AlertSubject { policy: key(Kind::RateLimit, namespace, name), watched }
}

fn limits() -> PrometheusRule {
    prometheus_rule(&limited("shop", "payments"), &MonitoringOptions::default())
}

fn payments() -> PrometheusRule {
    prometheus_rule(&subject("shop", "payments", &[("writes", Some(250)), ("", None)]), &MonitoringOptions::default())
}

/// Both kinds' rules, as one file.
fn both() -> PrometheusRuleSpec {
    PrometheusRuleSpec { groups: [payments().spec.groups, limits().spec.groups].concat() }
}

/// Writes `spec` as a rule file and runs promtool in its folder.
fn promtool(spec: &PrometheusRuleSpec, arguments: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yaml"), serde_yaml::to_string(spec).unwrap()).unwrap();
    fs::write(folder.path().join("cases.yaml"), CASES).unwrap();
    let output =
        Command::new(prometheus::promtool().unwrap()).args(arguments).current_dir(folder.path()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

/// The schema of one of Prometheus' CRDs, closed: a field it does not know is an error rather than pruned.
fn crd_schema(plural: &str) -> Value {
    let path = prometheus::crds().unwrap().join(format!("monitoring.coreos.com_{plural}.yaml"));
    let crd: Value = serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    // ObjectMeta is the API server's own; its schema here is a bare object.
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.remove("metadata");
    }
    close(&mut schema);
    schema["properties"]["metadata"] = serde_json::json!({"type": "object"});
    schema
}

fn close(schema: &mut Value) {
    if let Some(fields) = schema.as_object_mut() {
        if fields.contains_key("properties") && !fields.contains_key("x-kubernetes-preserve-unknown-fields") {
            fields.entry("additionalProperties").or_insert(Value::Bool(false));
        }
        fields.values_mut().for_each(close);
    } else if let Some(items) = schema.as_array_mut() {
        items.iter_mut().for_each(close);
    }
}

fn violations(plural: &str, object: &impl serde::Serialize) -> Vec<String> {
    let validator = jsonschema::validator_for(&crd_schema(plural)).unwrap();
    let object = serde_json::to_value(object).unwrap();
    validator.iter_errors(&object).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn promtool_finds_nothing_to_say_about_generated_rules() {
    for rule in [payments(), limits()] {
        let (passed, said) = promtool(&rule.spec, &["check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"]);
        assert!(passed, "{said}");
    }
}

#[test]
fn each_alert_fires_when_it_must_and_stays_silent_when_it_must_not() {
    let (passed, said) = promtool(&both(), &["test", "rules", "cases.yaml"]);
    assert!(passed, "{said}");
}

#[test]
fn a_rule_that_lost_its_alerts_fails_the_cases() {
    let mut spec = both();
    spec.groups[0].rules.retain(|rule| rule.alert != "HighErrorRate");
    let (passed, said) = promtool(&spec, &["test", "rules", "cases.yaml"]);
    assert!(!passed && said.contains("HighErrorRate"), "{said}");
}

#[test]
fn each_alert_says_what_to_do_about_it() {
    let runbooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/runbooks");
    for rule in both().groups.iter().flat_map(|group| &group.rules) {
        for text in ["summary", "description", "runbook_url"] {
            assert!(!rule.annotations[text].is_empty(), "{}: {text}", rule.alert);
        }
        let runbook = runbooks.join(format!("{}.md", rule.alert));
        assert!(runbook.is_file(), "{} is missing", runbook.display());
        assert!(rule.annotations["runbook_url"].ends_with(&format!("/{}.md", rule.alert)));
        assert!(rule.labels.contains_key("severity"), "{}", rule.alert);
    }
}

#[test]
fn generated_objects_fit_the_real_crds() {
    assert_eq!(violations("prometheusrules", &payments()), Vec::<String>::new());
    let monitor = service_monitor("shop", &MonitoringOptions::default());
    assert_eq!(violations("servicemonitors", &monitor), Vec::<String>::new());
}

#[test]
fn a_field_the_crd_does_not_know_is_a_violation() {
    let mut monitor = serde_json::to_value(service_monitor("shop", &MonitoringOptions::default())).unwrap();
    monitor["spec"]["sampleLimits"] = 1.into();
    assert_eq!(violations("servicemonitors", &monitor).len(), 1);
}

#[test]
fn the_monitor_finds_the_service_and_its_port() {
    let options =
        MonitoringOptions { labels: [("release".to_owned(), "stack".to_owned())].into(), ..Default::default() };
    let (service, monitor) = (proxies_service("shop", &options), service_monitor("shop", &options));
    let service_labels = service.metadata.labels.unwrap();
    for (label, value) in &monitor.spec.selector.match_labels {
        assert_eq!(service_labels.get(label), Some(value), "{label}");
    }
    assert_eq!(monitor.metadata.labels.unwrap()["release"], "stack");
    let ports = service.spec.unwrap().ports.unwrap();
    assert_eq!(ports[0].name.as_deref(), Some(monitor.spec.endpoints[0].port.as_str()));
}

/// The plan of one policy with this spec.
fn compiled(spec: &CircuitBreakerPolicySpec) -> crate::PolicyPlan {
    let mut snapshot = crate::Snapshot::empty(jiff::Timestamp::UNIX_EPOCH);
    snapshot.circuit_breakers.push(crate::snapshot::CircuitBreaker {
        id: key(Kind::CircuitBreakerPolicy, "shop", "payments").id,
        uid: String::new(),
        generation: 1,
        created: None,
        override_written: None,
        spec: spec.clone(),
    });
    crate::compile(&snapshot).policies.into_values().next().unwrap()
}

#[test]
fn a_rules_own_timeout_beats_the_policys_and_a_disabled_policy_has_no_alerts() {
    let text = "{targetRefs: [{name: payments}], timeout: 2s, rules: [{name: writes, match: {methods: [POST]}, overrides: {timeout: 250ms}}, {name: reads, match: {methods: [GET]}}]}";
    let mut spec: CircuitBreakerPolicySpec = serde_yaml::from_str(text).unwrap();
    let wanted = timeouts(&[("writes", Some(250)), ("reads", Some(2000)), ("", Some(2000))]);
    assert_eq!(Watched::of_breakers(&spec), wanted);
    for mode in [Mode::Enforce, Mode::Disabled] {
        spec.mode = mode;
        assert_eq!(compiled(&spec).alerts.is_some(), mode == Mode::Enforce);
    }
}

#[test]
fn a_policy_whose_rules_all_have_timeouts_has_no_fixed_latency_limit() {
    let rule = prometheus_rule(&subject("shop", "payments", &[("", Some(100))]), &MonitoringOptions::default());
    let limits: Vec<_> = rule.spec.groups[0].rules.iter().filter_map(|rule| rule.labels.get("limit")).collect();
    assert_eq!(limits, ["timeout"]);
}

#[test]
fn a_shortened_name_is_no_other_policys() {
    let long = "a".repeat(253);
    for kind in Kind::ALL {
        let rule_name = |name: &str| rule_name(&key(kind, "shop", name));
        let shortened = rule_name(&long);
        assert_eq!(shortened.len(), MAX_NAME);
        let (_, tail) = shortened.split_once(rule_prefix(kind)).unwrap();
        assert!(tail.starts_with('-'), "no policy's name does");
        assert_ne!(rule_name(tail.trim_start_matches('-')), shortened);
        assert_ne!(rule_name(&format!("{}b", "a".repeat(252))), shortened);
    }
}

fn hostile() -> impl Strategy<Value = String> {
    let signs = prop::sample::select(vec![
        "\"",
        "'",
        "`",
        "\\",
        "{",
        "}",
        "{{",
        "}}",
        "{{ $labels.pod }}",
        "\n",
        "\r",
        "\t",
        "\0",
        "$",
        "%",
        "\"}",
        "#",
        ",",
        "\u{202e}",
        "\u{7f}",
        "\u{85}",
        "é",
        "x",
    ]);
    prop::collection::vec(signs, 1..12).prop_map(|signs| signs.concat())
}

#[test]
fn promtool_accepts_rules_with_hostile_names() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut groups = Vec::new();
    for index in 0..200 {
        let mut name = || hostile().new_tree(&mut runner).unwrap().current();
        let rule = subject(&name(), &name(), &[(&name(), Some(1)), (&name(), None)]);
        let limits = limited(&name(), &name());
        for (kind, subject) in [rule, limits].iter().enumerate() {
            for mut group in prometheus_rule(subject, &MonitoringOptions::default()).spec.groups {
                group.name = format!("group-{index}-{kind}");
                groups.push(group);
            }
        }
    }
    let (passed, said) = promtool(&PrometheusRuleSpec { groups }, &["check", "rules", "rules.yaml"]);
    assert!(passed, "{said}");
}

proptest! {
    #[test]
    fn hostile_names_reach_nothing_but_quoted_promql(namespace in hostile(), name in hostile(), rule in hostile()) {
        let plain = prometheus_rule(&subject("n", "p", &[("r", Some(1)), ("", None)]), &MonitoringOptions::default());
        let hostile = prometheus_rule(&subject(&namespace, &name, &[(&rule, Some(1)), ("", None)]), &MonitoringOptions::default());
        for (plain, hostile) in plain.spec.groups[0].rules.iter().zip(&hostile.spec.groups[0].rules) {
            prop_assert_eq!(&plain.annotations, &hostile.annotations);
            prop_assert_eq!(&plain.labels, &hostile.labels);
        }
        let (plain, limit) = (limits(), prometheus_rule(&limited(&namespace, &name), &MonitoringOptions::default()));
        for (plain, hostile) in plain.spec.groups[0].rules.iter().zip(&limit.spec.groups[0].rules) {
            prop_assert_eq!((&plain.annotations, &plain.labels), (&hostile.annotations, &hostile.labels));
        }
        let yaml = serde_yaml::to_string(&hostile).unwrap();
        let read: PrometheusRule = serde_yaml::from_str(&yaml).unwrap();
        prop_assert_eq!(read, hostile);
    }

    #[test]
    fn two_policies_never_share_a_rule(one in "[a-z0-9]([-a-z0-9.]{0,280}[a-z0-9])?", other in "[a-z0-9]([-a-z0-9.]{220,250}[a-z0-9])?") {
        let names = Kind::ALL.map(|kind| rule_name(&key(kind, "shop", &one)));
        prop_assert_ne!(&names[0], &names[1]);
        for (kind, name) in Kind::ALL.into_iter().zip(names) {
            prop_assert!(one == other || name != rule_name(&key(kind, "shop", &other)));
            prop_assert!(name.len() <= MAX_NAME);
        }
    }
}
