//! Dashboards held to promtool and to what Grafana needs of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fusebox_testkit::prometheus;

use super::*;

/// Grafana takes dashboards from ConfigMaps, which hold no more.
const MAX_BYTES: usize = 1 << 20;

fn panels(dashboard: &Dashboard) -> Vec<&Value> {
    let panels = dashboard.model["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row").collect()
}

fn expressions() -> Vec<String> {
    let dashboards = all();
    let targets = dashboards.iter().flat_map(panels).flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// As Prometheus gets it: Grafana's variables are put in first.
fn as_asked(expression: &str) -> String {
    ["$namespace", "$policy", "$target", "$pod"]
        .iter()
        .fold(expression.replace("$__rate_interval", "1m"), |asked, variable| asked.replace(variable, ".*"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/fusebox/files/dashboards")
}

#[test]
fn prometheus_understands_every_query() {
    let rule = |(index, expression): (usize, &String)| json!({"record": format!("test:panel:{index}"), "expr": as_asked(expression)});
    let expressions = expressions();
    let rules: Vec<Value> = expressions.iter().enumerate().map(rule).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = json!({"groups": [{"name": "panels", "rules": rules}]});
    fs::write(folder.path().join("rules.yaml"), file.to_string()).unwrap();
    let mut command = Command::new(prometheus::promtool().unwrap());
    let output = command.args(["check", "rules", "rules.yaml"]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(expressions.len() > 20);
}

#[test]
fn every_panel_has_a_description_a_unit_and_a_place_of_its_own() {
    for dashboard in all() {
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{panel}");
            assert!(!panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(), "{panel}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
            assert!(ids.insert(panel["id"].as_u64().unwrap()));
        }
        let places: Vec<[u64; 4]> = dashboard.model["panels"].as_array().unwrap().iter().map(place).collect();
        for (index, one) in places.iter().enumerate() {
            assert!(one[0] + one[2] <= 24, "{one:?} is beyond the grid");
            assert!(places[..index].iter().all(|other| !overlap(*one, *other)), "{one:?} in {}", dashboard.uid);
        }
        assert!(dashboard.model.to_string().len() < MAX_BYTES);
    }
}

fn place(panel: &Value) -> [u64; 4] {
    ["x", "y", "w", "h"].map(|field| panel["gridPos"][field].as_u64().unwrap())
}

fn overlap([x, y, w, h]: [u64; 4], [left, top, width, height]: [u64; 4]) -> bool {
    x < left + width && left < x + w && y < top + height && top < y + h
}

#[test]
fn the_chart_has_these_dashboards() {
    let folder = folder();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(&folder).unwrap();
    }
    let mut expected = BTreeSet::new();
    for Dashboard { uid, model } in all() {
        let name = format!("{uid}.json");
        let text = serde_json::to_string_pretty(&model).unwrap() + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(folder.join(&name), &text).unwrap();
        }
        let there = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(there == text, "{name} is not what the code says: run `make chart` and commit it");
        expected.insert(name);
    }
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>(), expected);
}
