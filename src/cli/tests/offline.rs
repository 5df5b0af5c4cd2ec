//! `check`, `render` and the help, against files.

use super::fusebox;
use crate::Exit;

const POLICIES: &str = "tests/data/policies.yaml";
const WORKLOADS: &str = "tests/data/workloads.yaml";
const MISTAKES: &str = "tests/data/mistakes.yaml";

#[tokio::test]
async fn check_names_file_line_field_and_fix() {
    let (exit, out, _) = fusebox(&["check", "-f", MISTAKES]).await;
    insta::assert_snapshot!(out);
    assert_eq!(exit, Exit::Failed);
}

#[tokio::test]
async fn check_says_the_same_to_scripts() {
    let (exit, out, _) = fusebox(&["check", "-f", MISTAKES, "-o", "json"]).await;
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(exit, Exit::Failed);
    assert_eq!(report["errors"], report["findings"].as_array().unwrap().len());
    assert_eq!(report["findings"][0]["file"], MISTAKES);
}

#[tokio::test]
async fn check_of_good_files_ends_with_done() {
    let (exit, out, err) = fusebox(&["check", "-f", POLICIES, "-f", WORKLOADS]).await;
    assert_eq!((exit, out.as_str(), err.as_str()), (Exit::Done, "", "nothing wrong in 2 files\n"));
}

#[tokio::test]
async fn files_that_cannot_be_read_are_a_usage_error() {
    let (exit, _, err) = fusebox(&["check", "-f", "tests/data/absent.yaml"]).await;
    assert_eq!((exit, err.as_str()), (Exit::Usage, "error: tests/data/absent.yaml does not exist\n"));
    let empty = tempfile::tempdir().unwrap();
    let (exit, _, err) = fusebox(&["check", "-f", empty.path().to_str().unwrap()]).await;
    assert!(exit == Exit::Usage && err.contains("no .yaml, .yml or .json file"), "{err}");
}

#[tokio::test]
async fn render_prints_what_the_operator_would_apply() {
    let (exit, out, err) = fusebox(&["render", "-f", POLICIES, "-f", WORKLOADS]).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    insta::assert_snapshot!(out);
}

#[tokio::test]
async fn render_shows_statuses_on_request() {
    let (exit, out, _) = fusebox(&["render", "-f", POLICIES, "-f", WORKLOADS, "--status"]).await;
    assert_eq!(exit, Exit::Done);
    let statuses = out.split("---\n").filter(|text| text.starts_with("apiVersion: fusebox.dev/")).collect::<Vec<_>>();
    assert_eq!(statuses.len(), 2);
    assert!(statuses[0].contains("type: Accepted") && statuses[0].contains("reason: NoProxies"), "{}", statuses[0]);
}

/// The condition ResolvedRefs of the one policy of the files, as `reason: message`.
async fn resolved(files: &[&std::path::Path]) -> String {
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let mut words = vec!["render", "--status"];
    files.iter().for_each(|file| words.extend(["-f", file]));
    let (exit, out, err) = fusebox(&words).await;
    assert_eq!(exit, Exit::Done, "{err}");
    assert!(!out.contains("4 hours") && !err.contains("4 hours"), "no value is printed");
    let statuses = out.split("---\n").find(|text| text.starts_with("apiVersion: fusebox.dev/")).unwrap();
    let status: serde_json::Value = serde_yaml::from_str(statuses).unwrap();
    let conditions = status["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == "ResolvedRefs").unwrap();
    format!("{}: {}", found["reason"].as_str().unwrap(), found["message"].as_str().unwrap())
}

#[tokio::test]
async fn render_takes_values_of_the_files_for_those_of_the_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let policy = file(
        "policy.yaml",
        "{apiVersion: v1, kind: Service, metadata: {name: payments, namespace: shop}, spec: {clusterIP: 10.0.0.1, selector: {app: payments}, ports: [{port: 80}]}}\n---\n\
         {apiVersion: fusebox.dev/v1alpha1, kind: RateLimit, metadata: {name: limits, namespace: shop}, spec: {targetRefs: [{name: payments}], limits: [\
         {name: per-user, key: [{jwtClaim: {claim: sub, keysFrom: {secretRef: {name: login, key: jwks.json}}}}], \
         quotasFrom: {configMapRef: {name: quotas, key: quotas.yaml}}, rate: {requests: 2, per: 1h}}]}}\n",
    );
    let quotas = file(
        "quotas.yaml",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: quotas, namespace: shop}, data: {quotas.yaml: 4 hours}}",
    );
    let login = file(
        "login.yaml",
        "{apiVersion: v1, kind: Secret, metadata: {name: login, namespace: shop}, stringData: {jwks.json: 4 hours}}",
    );
    let other = file(
        "other.yaml",
        "{apiVersion: v1, kind: Secret, metadata: {name: login, namespace: shop}, stringData: {other: 4 hours}}",
    );
    let elsewhere = file(
        "elsewhere.yaml",
        "{apiVersion: v1, kind: Secret, metadata: {name: login}, stringData: {jwks.json: 4 hours}}",
    );

    assert!(
        resolved(&[&policy, &quotas, &login])
            .await
            .starts_with("ResolvedRefs: all references lead to a Service, and all values")
    );
    let missing = resolved(&[&policy, &login]).await;
    assert!(missing.starts_with("RefNotFound: ConfigMap shop/quotas does not exist"), "{missing}");
    let missing = resolved(&[&policy, &quotas, &other]).await;
    assert!(missing.starts_with("RefNotFound: Secret shop/login has no key \"jwks.json\""), "{missing}");
    let missing = resolved(&[&policy, &quotas, &elsewhere]).await;
    assert!(missing.starts_with("RefNotFound: Secret shop/login does not exist"), "of another namespace: {missing}");
}

#[tokio::test]
async fn render_of_mistakes_prints_them_and_no_objects() {
    let (exit, out, err) = fusebox(&["render", "-f", MISTAKES]).await;
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    assert!(err.contains("mistakes.yaml:6:"), "{err}");
}

#[tokio::test]
async fn every_command_has_help_with_examples() {
    for command in ["run", "render", "check", "status", "trip", "release", "limits", "quota", "explain"] {
        let (exit, out, _) = fusebox(&[command, "--help"]).await;
        assert_eq!(exit, Exit::Done);
        assert!(out.contains(&format!("fusebox {command}")) && out.contains("Examples:"), "{out}");
    }
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_usage_errors_that_name_them() {
    for (arguments, said) in [
        (&["trip", "payments", "--for", "25h", "--reason", "x"][..], "at most 24h"),
        (&["trip", "payments", "--for", "5", "--reason", "x"], "30s, 1m30s"),
        (&["trip", "payments", "--for", "5m"], "--reason"),
        (&["explain", "deploy/web"], "write pod/NAME"),
        (&["limits", "unblock", "checkout", "--key", "alice"], "--reason"),
        (&["limits", "unblock", "checkout", "--reason", "x"], "--key"),
        (&["limits", "unblock", "checkout", "--reason", "x", "--key", "a", "--digest", "b"], "cannot be used with"),
        (&["run", "-f", ".", "--listen", "8080", "--upstream", "a/b=c:1"], "--listen"),
        (&["run", "-f", ".", "--listen", "127.0.0.1:0", "--upstream", "payments"], "--upstream"),
    ] {
        let (exit, _, err) = fusebox(arguments).await;
        assert!(exit == Exit::Usage && err.contains(said), "{arguments:?}: {err}");
    }
}

#[tokio::test]
async fn quota_makes_a_file_that_names_keys_by_their_digest_alone() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.txt");
    std::fs::write(&keys, "# who may more\nalice=600/1m:100\n\nbob=60/1m\n").unwrap();
    let (exit, out, err) = fusebox(&["quota", "--from-file", keys.to_str().unwrap()]).await;
    assert_eq!(exit, Exit::Done, "{err}");
    assert!(out.contains("2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"), "{out}");
    assert!(out.contains("600") && out.contains("100") && !out.contains("alice"), "{out}");
    let file = fusebox_policy::rate_limit::QuotaFile::parse(&out).unwrap();
    assert_eq!(file.len(), 2);

    std::fs::write(&keys, "alice=600/1m\nhunter2=much\n").unwrap();
    let (exit, out, err) = fusebox(&["quota", "--from-file", keys.to_str().unwrap()]).await;
    assert!(exit != Exit::Done && out.is_empty() && err.contains("line 2") && !err.contains("hunter2"), "{err}");
    let (exit, _, err) = fusebox(&["quota", "alice=1/1m", "alice=2/1m"]).await;
    assert!(exit != Exit::Done && err.contains("different rates"), "{err}");
}

#[tokio::test]
async fn without_a_cluster_the_next_step_is_said() {
    let (exit, _, err) = fusebox(&["status", "--kubeconfig", "tests/data/absent.yaml"]).await;
    assert!(exit == Exit::Failed && err.contains("set KUBECONFIG or pass --kubeconfig"), "{err}");
}
