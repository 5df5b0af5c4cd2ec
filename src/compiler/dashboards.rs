//! The Grafana dashboards that go with the chart: one for each kind of policy, and one for the operator.
//!
//! Owns what stands on them. They are made from the same metric names that proxies expose and alerts read, so that no panel can
//! ask for a metric that nobody has. `make chart` writes them as files; nothing here is used while the operator runs.

mod circuit_breaker;
mod operator;
mod panel;
mod policies;
mod rate_limit;

use serde_json::{Value, json};

use panel::{Layout, Panel};

/// The variable that all queries go to.
const DATASOURCE: &str = "${datasource}";

/// Grafana's model of dashboards that these are written in.
const SCHEMA_VERSION: u32 = 39;

/// One dashboard.
#[derive(Clone, Debug, PartialEq)]
pub struct Dashboard {
    /// The name of its file, without an ending, and its uid: it never changes, since links lead to it.
    pub uid: &'static str,
    /// Grafana's own JSON.
    pub model: Value,
}

/// What a dashboard is made from.
struct Draft {
    uid: &'static str,
    title: &'static str,
    description: &'static str,
    variables: Vec<Variable>,
    rows: Vec<Row>,
}

/// A choice above the panels.
struct Variable {
    name: &'static str,
    label: &'static str,
    /// The series whose label values are offered.
    series: String,
    of_label: &'static str,
}

/// Panels under a title.
struct Row {
    title: &'static str,
    panels: Vec<Panel>,
}

/// All dashboards, by uid.
#[must_use]
pub fn all() -> Vec<Dashboard> {
    [circuit_breaker::draft(), operator::draft(), rate_limit::draft()].into_iter().map(Draft::finish).collect()
}

impl Draft {
    fn finish(self) -> Dashboard {
        let mut layout = Layout::default();
        for row in self.rows {
            layout.row(row.title);
            row.panels.iter().for_each(|panel| layout.place(panel));
        }
        let datasource = json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "current": {}, "hide": 0, "refresh": 1, "regex": "",
        });
        let variables: Vec<Value> =
            std::iter::once(datasource).chain(self.variables.iter().map(Variable::model)).collect();
        let model = json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["fusebox"],
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "schemaVersion": SCHEMA_VERSION,
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": variables},
            "panels": layout.panels(),
        });
        Dashboard { uid: self.uid, model }
    }
}

impl Variable {
    fn model(&self) -> Value {
        let query = format!("label_values({}, {})", self.series, self.of_label);
        json!({
            "name": self.name, "label": self.label, "type": "query", "datasource": {"type": "prometheus", "uid": DATASOURCE},
            "query": {"query": query, "refId": self.name}, "definition": query,
            "includeAll": true, "multi": true, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
            "refresh": 2, "sort": 1, "hide": 0, "regex": "",
        })
    }
}

#[cfg(test)]
mod tests;
