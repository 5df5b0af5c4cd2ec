//! `fusebox render`: what the operator would apply, as YAML.
//!
//! It must take the objects from the compiler as they are: a plan that is prettier than the deed is worth nothing.

use std::io::Write as _;

use anyhow::Result;
use fusebox_compiler::monitoring::MonitoringOptions;
use fusebox_compiler::snapshot::Prometheus;
use fusebox_compiler::status::{Completeness, Reports};
use fusebox_compiler::{Plan, PolicyKey, Snapshot, compile, fold, objects};
use serde_json::json;

use crate::arguments::RenderArguments;
use crate::manifests;
use crate::terminal::{Exit, FAINT, Styled, Terminal};
use crate::values::Values;

/// Prints the objects, and on request the policies' statuses.
pub(crate) fn render(arguments: &RenderArguments, terminal: &mut Terminal) -> Result<Exit> {
    let sources = manifests::read(&arguments.filenames)?;
    let Some(mut snapshot) = manifests::load_read(&sources, terminal)? else { return Ok(Exit::Failed) };
    snapshot.prometheus = Prometheus::Installed;
    Values::read(&sources)?.resolve(&mut snapshot);
    let plan = compile(&snapshot);
    let objects = objects::all(&plan, &MonitoringOptions::default())?;
    for wanted in &objects {
        document(&wanted.object, terminal)?;
    }
    if arguments.status {
        statuses(&snapshot, &plan, terminal)?;
    }
    if plan.workloads.is_empty() {
        terminal.progress("no workload in these files asks for a sidecar, so there is no configuration: label its pod template or namespace with fusebox.dev/inject=enabled")?;
    }
    Ok(Exit::Done)
}

/// The policies with the status they have before any proxy reports.
fn statuses(snapshot: &Snapshot, plan: &Plan, terminal: &mut Terminal) -> Result<()> {
    let reports = Reports { completeness: Completeness::Complete, ..Reports::default() };
    for (PolicyKey { kind, id }, policy) in &plan.policies {
        let status = fold(policy, &reports, snapshot.now, None);
        let object = json!({
            "apiVersion": "fusebox.dev/v1alpha1",
            "kind": kind.as_str(),
            "metadata": { "namespace": id.namespace, "name": id.name },
            "status": status,
        });
        document(&object, terminal)?;
    }
    Ok(())
}

fn document(object: &serde_json::Value, terminal: &mut Terminal) -> Result<()> {
    writeln!(terminal.out, "{}", Styled(FAINT, "---"))?;
    write!(terminal.out, "{}", serde_yaml::to_string(object)?)?;
    Ok(())
}
