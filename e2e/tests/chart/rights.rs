//! What the chart lets the operator and people do: never by wildcard, never more than is said in the open.
//!
//! It also makes `config/rbac` from the chart, so that the end-to-end tests run under the rights that are installed.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::helm::{Rendering, documents};
use super::{CASES, of_kind};

/// The hook's account and roles.
const CLEANUP: &str = "fusebox-cleanup";

const READING: [&str; 3] = ["get", "list", "watch"];

/// What stands over the files of `config/rbac`.
const HEADERS: [(&str, &str); 2] = [
    (
        "operator",
        "# Made from the chart's templates/rbac-operator.yaml by `make chart`, with its default values.\n\
         # Bound to the group `fusebox-operators`; the chart binds it to the operator's service account.\n\
         apiVersion: v1\nkind: Namespace\nmetadata:\n  name: fusebox-system\n",
    ),
    ("roles", "# Made from the chart's templates/rbac-people.yaml by `make chart`.\n"),
];

const SERVICE_ACCOUNT: &str = "- kind: ServiceAccount\n  name: fusebox-operator\n  namespace: fusebox-system\n";
const GROUP: &str = "- kind: Group\n  apiGroup: rbac.authorization.k8s.io\n  name: fusebox-operators\n";

#[test]
fn no_role_has_a_wildcard_or_reaches_for_more_rights() -> Result<()> {
    for case in CASES {
        for (role, rule) in rules(case)? {
            let all = ["apiGroups", "resources", "verbs", "nonResourceURLs", "resourceNames"];
            let words = || all.iter().flat_map(|key| texts(&rule[key]));
            assert!(!words().any(|word| word.contains('*')), "{case}: {role} has a wildcard: {rule}");
            for forbidden in
                ["escalate", "bind", "impersonate", "pods/exec", "pods/attach", "nodes", "serviceaccounts/token"]
            {
                assert!(!words().any(|word| word == forbidden), "{case}: {role} has {forbidden}: {rule}");
            }
            let own_rights = texts(&rule["apiGroups"]).any(|group| group == "rbac.authorization.k8s.io");
            assert!(!own_rights, "{case}: {role} touches RBAC: {rule}");
        }
    }
    Ok(())
}

#[test]
fn secrets_are_had_by_name_only() -> Result<()> {
    for case in CASES {
        for (role, rule) in
            rules(case)?.into_iter().filter(|(_, rule)| texts(&rule["resources"]).any(|it| it == "secrets"))
        {
            let by_name = rule["resourceNames"].is_array();
            // Who creates is asked for a name only after it was decided whether it may.
            let creates = texts(&rule["verbs"]).all(|verb| verb == "create");
            assert!(role.starts_with("Role ") && (by_name || creates), "{case}: {role}: {rule}");
        }
    }
    Ok(())
}

#[test]
fn a_namespaced_operator_writes_nowhere_else() -> Result<()> {
    for (role, rule) in rules("namespaced")? {
        let people = ["fusebox-view", "fusebox-operate", "fusebox-admin"].iter().any(|name| role.ends_with(name));
        let writes = texts(&rule["verbs"]).any(|verb| !READING.contains(&verb));
        assert!(people || !writes || role.starts_with("Role "), "{role} writes cluster-wide: {rule}");
    }
    let rendered = documents(&Rendering::of("namespaced").text()?)?;
    let roles = of_kind(&rendered, "Role").into_iter();
    let mut namespaces: Vec<_> = roles.filter_map(|role| role["metadata"]["namespace"].as_str()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    assert_eq!(namespaces, ["billing", "fusebox-system", "shop"]);
    assert!(of_kind(&rendered, "APIService").is_empty(), "overrides by the operations API would be writes elsewhere");
    Ok(())
}

#[test]
fn only_our_own_service_accounts_get_our_roles() -> Result<()> {
    for case in CASES {
        let rendered = documents(&Rendering::of(case).text()?)?;
        for kind in ["RoleBinding", "ClusterRoleBinding"] {
            for binding in of_kind(&rendered, kind) {
                let subjects = binding["subjects"].as_array().context("a binding without subjects")?;
                // What is bound to the hook at uninstall is there for that moment alone.
                let name = if binding["metadata"]["name"] == CLEANUP { CLEANUP } else { "fusebox-operator" };
                let subject =
                    serde_json::json!({ "kind": "ServiceAccount", "name": name, "namespace": "fusebox-system" });
                assert_eq!(subjects, &[subject], "{case}: {}", binding["metadata"]["name"]);
                let hook = binding["metadata"]["annotations"]["helm.sh/hook"] == "post-delete";
                assert_eq!(hook, name == CLEANUP);
            }
        }
    }
    Ok(())
}

/// The rendered templates without helm's labels, bound to the group that the end-to-end tests' operators are in.
pub(super) fn for_a_group(rendered: &str) -> String {
    let ours = ["    app.kubernetes.io/", "    helm.sh/chart:", "# Source:"];
    let theirs = |line: &&str| !line.is_empty() && !ours.iter().any(|prefix| line.starts_with(prefix));
    let lines: Vec<&str> = rendered.lines().filter(theirs).collect();
    let empty = |at: usize| lines[at] == "  labels:" && !lines.get(at + 1).is_some_and(|next| next.starts_with("    "));
    let kept = lines.iter().enumerate().filter(|(at, _)| !empty(*at)).map(|(_, line)| format!("{line}\n"));
    kept.collect::<String>().replace(SERVICE_ACCOUNT, GROUP)
}

/// The text of one file of `config/rbac`.
pub(super) fn framed(file: &str, text: &str) -> String {
    let header = HEADERS.iter().find(|(name, _)| *name == file).map_or("", |(_, header)| header);
    let text = if header.contains("kind:") { text } else { text.strip_prefix("---\n").unwrap_or(text) };
    format!("{header}{text}")
}

/// Every rule of a rendering, with its role's kind and name.
fn rules(case: &str) -> Result<Vec<(String, Value)>> {
    let rendered = documents(&Rendering::of(case).text()?)?;
    let mut found = Vec::new();
    for kind in ["Role", "ClusterRole"] {
        for role in of_kind(&rendered, kind) {
            let name = role["metadata"]["name"].as_str().context("a role without a name")?;
            let rules = role["rules"].as_array().context("a role without rules")?;
            found.extend(rules.iter().map(|rule| (format!("{kind} {name}"), rule.clone())));
        }
    }
    Ok(found)
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}
