//! What was measured, as progress lines, Markdown tables and JSON, and where it is written.
//!
//! It must not compute more than medians and ratios. Tables are written between two marks of docs/benchmarks.md, so that
//! the words around them stay a person's.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::contender::Contender;
use crate::figures::{Comparison, Direct, Latencies, Metric, Sample, Summary};
use crate::machine::Machine;
use crate::options::Selection;
use crate::picture;
use crate::scenario::{FIXED_RATE, IDLE_CONNECTIONS, Protocol};

/// Everything of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) versions: Vec<Version>,
    pub(crate) direct: Vec<Direct>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) comparisons: Vec<Comparison>,
    #[serde(skip)]
    contenders: Vec<Contender>,
    #[serde(skip)]
    protocols: Vec<Protocol>,
}

/// Which program was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Version {
    pub(crate) contender: Contender,
    pub(crate) version: String,
}

const DOCUMENT: &str = "docs/benchmarks.md";
const PICTURE: &str = "docs/images/bench.svg";
const BEGIN: &str = "<!-- written by `make bench`: begin -->";
const END: &str = "<!-- written by `make bench`: end -->";

impl Report {
    pub(crate) fn new(machine: Machine, versions: Vec<Version>, selection: &Selection) -> Self {
        Self {
            machine,
            versions,
            direct: Vec::new(),
            samples: Vec::new(),
            comparisons: Vec::new(),
            contenders: selection.contenders.clone(),
            protocols: selection.protocols.clone(),
        }
    }

    /// All tables, as Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        for &protocol in &self.protocols {
            text.push_str(&self.table(protocol));
            text.push_str(&format!("\nWithout a proxy: {}.\n\n", self.direct_line(protocol)));
        }
        if !self.comparisons.is_empty() {
            text.push_str(&self.comparison_table());
        }
        text
    }

    /// Every figure of every round.
    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Puts the tables into the documentation, and draws the picture.
    pub(crate) fn write_into(&self, repository: &Path) -> Result<()> {
        let document = repository.join(DOCUMENT);
        let text = fs::read_to_string(&document).with_context(|| format!("cannot read {}", document.display()))?;
        let text = replaced(&text, &self.section()).with_context(|| {
            format!("{} has lost the marks `{BEGIN}` and `{END}`: put them where the tables belong", document.display())
        })?;
        fs::write(&document, text).with_context(|| format!("cannot write {}", document.display()))?;
        let picture = repository.join(PICTURE);
        let drawn = picture::draw(&self.samples, &self.machine.to_string());
        fs::write(&picture, drawn).with_context(|| format!("cannot write {}", picture.display()))?;
        println!("written: {} and {}", document.display(), picture.display());
        Ok(())
    }

    fn section(&self) -> String {
        let rounds = self.samples.iter().map(|sample| sample.round).max().unwrap_or(0);
        let programs: Vec<_> =
            self.versions.iter().map(|named| format!("{} {}", named.contender.label(), named.version)).collect();
        format!(
            "Machine: {}. Programs: {}.\n\nMedian of {rounds} interleaved rounds (least–greatest).\n\n{}",
            self.machine,
            programs.join(", "),
            self.tables()
        )
    }

    fn table(&self, protocol: Protocol) -> String {
        let names: Vec<_> = self.contenders.iter().map(|contender| contender.label()).collect();
        let mut text =
            format!("| {} | {} |\n|---{}|\n", protocol.label(), names.join(" | "), "|---".repeat(names.len()));
        for metric in Metric::ALL {
            let cells = self.contenders.iter().map(|&contender| {
                let summary = Summary::of_metric(&self.samples, (contender, protocol), metric);
                summary.map_or_else(|| "–".to_owned(), |summary| cell(&summary, metric.decimals()))
            });
            text.push_str(&row(metric.label(), cells));
        }
        if self.contenders.contains(&Contender::Fusebox) {
            let cells = self.contenders.iter().map(|&contender| {
                let ratio = Summary::of_ratio(&self.samples, (contender, protocol), Metric::CpuSeconds);
                ratio.map_or_else(|| "–".to_owned(), |ratio| cell(&ratio, 2))
            });
            text.push_str(&row("CPU per request, times ours", cells));
        }
        text
    }

    /// What is taken away from the latencies.
    fn direct_line(&self, protocol: Protocol) -> String {
        let runs: Vec<_> = self.direct.iter().filter(|direct| direct.protocol == protocol).collect();
        let shown = |name: &str, of: fn(&Latencies) -> f64| {
            let summary = Summary::of(&runs.iter().map(|run| of(&run.latencies)).collect::<Vec<_>>());
            summary.map(|summary| format!("{name} {} µs", cell(&summary, 0)))
        };
        let all = [
            shown("p50", |latencies| latencies.p50_us),
            shown("p99", |latencies| latencies.p99_us),
            shown("p99.9", |latencies| latencies.p999_us),
        ];
        all.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn comparison_table(&self) -> String {
        let heads = [
            "CPU per request, times the plain proxy's",
            "CPU seconds per 100k requests",
            "turns",
            "requests",
            "lines printed",
            "p50 added, µs",
            "p99 added, µs",
        ];
        let mut text = row("HTTP/1.1", heads.iter().map(|&head| head.to_owned()));
        text.push_str("|---|---|---|---|---|---|---|---|\n");
        for comparison in &self.comparisons {
            let ratio = Summary::of(&comparison.cpu_ratios).map_or_else(String::new, |ratio| cell(&ratio, 3));
            let (turns, answered) = (comparison.cpu_ratios.len().to_string(), number(comparison.answered, 0));
            let seconds = Summary::of(&comparison.cpu_seconds_per_100k).map_or_else(String::new, |cpu| cell(&cpu, 2));
            let added = |of: fn(&Latencies) -> f64| {
                let summary = Summary::of(&comparison.added.iter().map(of).collect::<Vec<_>>());
                summary.map_or_else(|| "–".to_owned(), |summary| cell(&summary, 0))
            };
            let (p50, p99) = (added(|latencies| latencies.p50_us), added(|latencies| latencies.p99_us));
            let cells = [ratio, seconds, turns, answered, number(comparison.lines as f64, 0), p50, p99];
            text.push_str(&row(&comparison_label(comparison), cells.into_iter()));
        }
        text
    }
}

/// One visit, for those who watch.
pub(crate) fn progress(sample: &Sample) -> String {
    let figures = &sample.figures;
    format!(
        "{:<8} {:<8} {:>7} req/s, CPU {:.2} s/100k (core {:.0} %, load {:.0} %), added p50 {:.0} p99 {:.0} p99.9 {:.0} µs, \
         RSS {:.1} MiB + {:.1} KiB/connection",
        sample.protocol.label(),
        sample.contender.label(),
        number(figures.requests_per_second, 0),
        figures.cpu_seconds_per_100k,
        figures.proxy_core_percent,
        figures.load_core_percent,
        figures.added_p50_us,
        figures.added_p99_us,
        figures.added_p999_us,
        figures.rss_idle_mib,
        figures.rss_per_connection_kib,
    )
}

/// One comparison, for those who watch.
pub(crate) fn comparison_line(comparison: &Comparison) -> String {
    let ratio = Summary::of(&comparison.cpu_ratios).map_or_else(String::new, |ratio| cell(&ratio, 3));
    format!(
        "{}: CPU per request {ratio} times the plain proxy's; {} requests, {} lines",
        comparison_label(comparison),
        number(comparison.answered, 0),
        number(comparison.lines as f64, 0),
    )
}

fn comparison_label(comparison: &Comparison) -> String {
    format!("{}: {}", comparison.contender.label(), comparison.variant.label())
}

fn row(label: &str, cells: impl Iterator<Item = String>) -> String {
    format!("| {label} | {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

fn cell(summary: &Summary, decimals: usize) -> String {
    let shown = |value| number(value, decimals);
    format!("{} ({}–{})", shown(summary.median), shown(summary.least), shown(summary.greatest))
}

/// With commas between thousands.
pub(crate) fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

/// `document` with `section` between the marks; none where these are missing.
fn replaced(document: &str, section: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", section.trim_end()))
}

/// The fixed rate and the number of idle connections, so that the document's own words cannot drift from what was done.
const _: () = assert!(FIXED_RATE == 2_000 && IDLE_CONNECTIONS == 1_000, "docs/benchmarks.md says these numbers");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Variant;
    use crate::figures::samples;

    fn report() -> Report {
        let mut report = Report::new(Machine::read(), Vec::new(), &Selection::of(&[]));
        report.samples = samples();
        let latencies = Latencies { p50_us: 20.0, p99_us: 30.0, p999_us: 40.0 };
        report.direct = vec![Direct { round: 1, protocol: Protocol::Http1, latencies }];
        report.comparisons = vec![Comparison {
            contender: Contender::Fusebox,
            variant: Variant::AccessLog,
            cpu_ratios: vec![1.01, 1.02, 1.03],
            cpu_seconds_per_100k: vec![2.5, 2.6, 2.4],
            added: vec![latencies],
            answered: 9_000.0,
            lines: 9_003,
        }];
        report
    }

    #[test]
    fn tables_show_the_median_with_least_and_greatest() {
        let tables = report().tables();
        assert!(tables.contains("| requests/s at saturation | 39,216 (38,835–39,604) |"), "{tables}");
        assert!(tables.contains("| CPU per request, times ours | 1.00 (1.00–1.00) | 1.98 ("), "{tables}");
        assert!(tables.contains("Without a proxy: p50 20 (20–20) µs, p99 30 (30–30) µs, p99.9"), "{tables}");
        assert!(
            tables.contains(
                "| Fusebox: access log of every request | 1.020 (1.010–1.030) | 2.50 (2.40–2.60) | 3 | 9,000 | 9,003 | 20 (20–20) | 30 (30–30) |"
            ),
            "{tables}"
        );
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let mut report = report();
        report.samples.retain(|sample| sample.contender != Contender::Envoy);
        assert!(report.tables().contains("| – |"));
    }

    #[test]
    fn numbers_are_grouped() {
        let shown = [number(1_234_567.0, 0), number(999.94, 1), number(-1234.5, 1), number(0.256, 2)];
        assert_eq!(shown, ["1,234,567", "999.9", "-1,234.5", "0.26"]);
    }

    #[test]
    fn the_section_is_replaced_between_its_marks_alone() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let expected = format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n");
        assert_eq!(replaced(&document, "new\n").unwrap(), expected);
        assert_eq!(replaced(&expected, "new").unwrap(), expected, "writing twice changes nothing");
        assert_eq!(replaced("no marks", "new"), None);
    }

    #[test]
    fn the_document_has_the_marks() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(DOCUMENT);
        assert!(replaced(&fs::read_to_string(document).unwrap(), "").is_some());
    }

    #[test]
    fn json_has_every_round() {
        let json: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        assert_eq!(json["samples"].as_array().unwrap().len(), samples().len());
        assert_eq!(json["samples"][0]["contender"], "fusebox");
        assert_eq!((&json["direct"][0]["protocol"], &json["direct"][0]["p50_us"]), (&"http1".into(), &20.0.into()));
        assert!(json["samples"][0]["cpu_seconds_per_100k"].is_f64());
    }
}
