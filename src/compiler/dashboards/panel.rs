//! One panel in Grafana's words, and where panels stand.
//!
//! It must not know what is shown: a panel has a title, a description, a unit and queries, always all of them.

use serde_json::{Value, json};

use super::DATASOURCE;

/// Grafana's grid is so wide.
const GRID_WIDTH: u32 = 24;

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One number.
    Stat,
    /// Lines over time.
    Lines,
    /// Coloured bars over time, one for each series.
    States,
    /// A histogram over time.
    Heatmap,
}

/// One panel.
pub(super) struct Panel {
    shape: Shape,
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    /// Queries, each with the words of its legend.
    queries: Vec<(String, &'static str)>,
    /// Values with a name and a colour.
    values: Vec<(&'static str, &'static str, &'static str)>,
}

/// Where the next panel stands.
#[derive(Default)]
pub(super) struct Layout {
    panels: Vec<Value>,
    left: u32,
    top: u32,
    height: u32,
}

impl Panel {
    pub(super) fn new(shape: Shape, title: &'static str, description: &'static str) -> Self {
        Self { shape, title, description, unit: "short", queries: Vec::new(), values: Vec::new() }
    }

    /// Grafana's name of the unit; without it plain numbers.
    pub(super) fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// One more query.
    pub(super) fn query(mut self, expression: impl Into<String>, legend: &'static str) -> Self {
        self.queries.push((expression.into(), legend));
        self
    }

    /// Shows `value` as `text` in `colour`.
    pub(super) fn value(mut self, value: &'static str, text: &'static str, colour: &'static str) -> Self {
        self.values.push((value, text, colour));
        self
    }

    fn size(&self) -> (u32, u32) {
        match self.shape {
            Shape::Stat => (4, 4),
            Shape::Lines | Shape::Heatmap => (12, 8),
            Shape::States => (24, 9),
        }
    }

    fn model(&self, id: usize) -> Value {
        let format = if self.shape == Shape::Heatmap { "heatmap" } else { "time_series" };
        let targets = self.queries.iter().zip('A'..).map(|((expression, legend), letter)| {
            json!({
                "refId": letter.to_string(), "expr": expression, "legendFormat": legend, "format": format,
                "exemplar": self.shape == Shape::Heatmap, "instant": self.shape == Shape::Stat, "range": self.shape != Shape::Stat,
            })
        });
        let values = self.values.iter().enumerate().map(|(index, (value, text, colour))| {
            ((*value).to_owned(), json!({"text": text, "color": colour, "index": index}))
        });
        let values: serde_json::Map<String, Value> = values.collect();
        let mappings = if values.is_empty() { json!([]) } else { json!([{"type": "value", "options": values}]) };
        json!({
            "id": id, "type": self.word(), "title": self.title, "description": self.description,
            "datasource": {"type": "prometheus", "uid": DATASOURCE},
            "targets": targets.collect::<Vec<_>>(),
            "fieldConfig": {"defaults": {"unit": self.unit, "mappings": mappings, "min": 0}, "overrides": []},
            "options": self.options(),
        })
    }

    fn word(&self) -> &'static str {
        match self.shape {
            Shape::Stat => "stat",
            Shape::Lines => "timeseries",
            Shape::States => "state-timeline",
            Shape::Heatmap => "heatmap",
        }
    }

    fn options(&self) -> Value {
        match self.shape {
            Shape::Stat => {
                json!({"colorMode": "value", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}})
            }
            Shape::Lines => {
                json!({"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}})
            }
            Shape::States => json!({"mergeValues": true, "showValue": "never", "legend": {"placement": "bottom"}}),
            Shape::Heatmap => {
                json!({"calculate": false, "yAxis": {"unit": self.unit}, "exemplars": {"color": "orange"}})
            }
        }
    }
}

impl Layout {
    /// A title over the panels that follow.
    pub(super) fn row(&mut self, title: &str) {
        self.new_line();
        let id = self.panels.len() + 1;
        let place = json!({"x": 0, "y": self.top, "w": GRID_WIDTH, "h": 1});
        self.panels
            .push(json!({"id": id, "type": "row", "title": title, "collapsed": false, "panels": [], "gridPos": place}));
        self.top += 1;
    }

    /// Puts a panel beside the one before, or below where there is no room.
    pub(super) fn place(&mut self, panel: &Panel) {
        let (width, height) = panel.size();
        if self.left + width > GRID_WIDTH {
            self.new_line();
        }
        let mut model = panel.model(self.panels.len() + 1);
        model["gridPos"] = json!({"x": self.left, "y": self.top, "w": width, "h": height});
        self.panels.push(model);
        self.left += width;
        self.height = self.height.max(height);
    }

    pub(super) fn panels(self) -> Vec<Value> {
        self.panels
    }

    fn new_line(&mut self) {
        self.top += self.height;
        (self.left, self.height) = (0, 0);
    }
}
