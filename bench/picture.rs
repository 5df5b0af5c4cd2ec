//! The figures as an SVG: for each protocol and metric one bar a proxy, with a line from the least to the greatest round.
//!
//! It must draw what the table says and nothing else. Bars begin at zero, because a cut axis makes small differences big.

use std::fmt::Write as _;

use crate::contender::Contender;
use crate::figures::{Metric, Sample, Summary};
use crate::report::number;
use crate::scenario::Protocol;

/// A rectangle of bars.
#[derive(Debug, Clone, Copy)]
struct Panel {
    protocol: Protocol,
    metric: Metric,
    left: f64,
    top: f64,
}

const SHOWN: [Metric; 5] =
    [Metric::RequestsPerSecond, Metric::CpuSeconds, Metric::AddedP99, Metric::RssIdle, Metric::RssPerConnection];
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 28.0;
const HEAD: f64 = 92.0;
const FOOT: f64 = 34.0;
const PANEL_WIDTH: f64 = (WIDTH - 3.0 * MARGIN) / 2.0;
const PANEL_HEIGHT: f64 = 142.0;
const TITLE_HEIGHT: f64 = 22.0;
const BAR: f64 = 16.0;
const BAR_STEP: f64 = 25.0;
const NAMES: f64 = 72.0;
const VALUES: f64 = 84.0;
/// What a full bar stands for where nothing is above zero.
const SMALLEST_SCALE: f64 = 1e-9;

const STYLE: &str = "text{font-family:system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif;font-size:13px;fill:#c3cbd6}\
.h{font-size:20px;font-weight:600;fill:#f5f7fa}.p{font-size:15px;font-weight:600;fill:#6cb6ff}.m{font-size:13px;fill:#f5f7fa}\
.n{fill:#7d8896;font-size:12px}.v{font-variant-numeric:tabular-nums}";

/// Draws all metrics of all samples; `machine` stands beneath.
pub(crate) fn draw(samples: &[Sample], machine: &str) -> String {
    let height = HEAD + PANEL_HEIGHT * SHOWN.len() as f64 + FOOT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Fusebox beside Envoy, nginx and HAProxy\">\n<style>{STYLE}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"12\" fill=\"#11151c\"/>\n"
    );
    text(&mut svg, (MARGIN, 40.0), "h", "One core each, in turn: median, and least to greatest round");
    for (column, protocol) in Protocol::ALL.into_iter().enumerate() {
        let left = MARGIN + column as f64 * (PANEL_WIDTH + MARGIN);
        text(&mut svg, (left, 74.0), "p", protocol.label());
        for (line, metric) in SHOWN.into_iter().enumerate() {
            let panel = Panel { protocol, metric, left, top: HEAD + line as f64 * PANEL_HEIGHT };
            panel.draw(samples, &mut svg);
        }
    }
    text(&mut svg, (MARGIN, height - 16.0), "n", machine);
    svg.push_str("</svg>\n");
    svg
}

impl Panel {
    fn draw(&self, samples: &[Sample], svg: &mut String) {
        let better = if self.metric == Metric::RequestsPerSecond { "more is better" } else { "less is better" };
        text(svg, (self.left, self.top + 12.0), "m", &format!("{} — {better}", self.metric.label()));
        let found = Contender::ALL
            .map(|contender| (contender, Summary::of_metric(samples, (contender, self.protocol), self.metric)));
        let greatest = found.iter().filter_map(|(_, summary)| summary.map(|summary| summary.greatest));
        let scale = (PANEL_WIDTH - NAMES - VALUES) / greatest.fold(SMALLEST_SCALE, f64::max);
        for (line, (contender, summary)) in found.into_iter().enumerate() {
            let top = self.top + TITLE_HEIGHT + line as f64 * BAR_STEP;
            text(svg, (self.left, top + 12.5), "", contender.label());
            if let Some(summary) = summary {
                self.bar(svg, &summary, (top, scale, colour(contender)));
            }
        }
    }

    fn bar(&self, svg: &mut String, summary: &Summary, (top, scale, colour): (f64, f64, &str)) {
        let left = self.left + NAMES;
        let end = |value: f64| left + value.max(0.0) * scale;
        let (width, middle) = (end(summary.median) - left, top + BAR / 2.0);
        let (from, to) = (end(summary.least), end(summary.greatest));
        // Writing into a String cannot fail.
        writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>"
        )
        .ok();
        writeln!(svg, "<path d=\"M{from:.1} {middle:.1}H{to:.1}\" stroke=\"#f5f7fa\" stroke-width=\"1.5\"/>").ok();
        let shown = number(summary.median, self.metric.decimals());
        text(svg, (to.max(end(summary.median)) + 8.0, top + 12.5), "v", &shown);
    }
}

fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Fusebox => "#5fd68b",
        Contender::Envoy => "#8f7ad6",
        Contender::Nginx => "#4a90c4",
        Contender::Haproxy => "#c98a4b",
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // Writing into a String cannot fail.
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{words}</text>").ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::samples;

    #[test]
    fn every_proxy_has_a_bar_in_every_panel() {
        let svg = draw(&samples(), "2 cores of A & B");
        let bars = svg.matches("height=\"16\"").count();
        assert_eq!(bars, SHOWN.len() * Protocol::ALL.len() * Contender::ALL.len());
        assert!(svg.contains("39,216") && svg.contains("2 cores of A &amp; B"));
    }

    #[test]
    fn nothing_is_drawn_beyond_the_edge() {
        let svg = draw(&samples(), "");
        let right = svg
            .lines()
            .filter(|line| line.starts_with("<path"))
            .filter_map(|line| line.split_once('H')?.1.split_once('"')?.0.parse::<f64>().ok());
        let furthest = right.fold(0.0, f64::max);
        assert!(furthest > WIDTH / 2.0 && furthest < WIDTH - MARGIN - VALUES / 2.0, "{furthest}");
    }

    #[test]
    fn a_figure_below_zero_is_an_empty_bar() {
        let mut below = samples();
        below.iter_mut().for_each(|sample| sample.figures.added_p99_us = -3.0);
        let svg = draw(&below, "");
        assert!(svg.contains("width=\"0.0\"") && !svg.contains("width=\"-"));
    }
}
