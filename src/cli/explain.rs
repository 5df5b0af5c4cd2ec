//! `fusebox explain`: which policies apply to a pod, which do not, and why.
//!
//! The operator answers, for it has seen what decides and its reader need not. Where it can't be asked, the same function
//! of the compiler answers here, from the objects as they stand, if the reader may list them all.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use fusebox_api::names::{INJECT_ENABLED, INJECT_LABEL};
use fusebox_api::operations::{Applies, DoesNotApply, Explanation};
use fusebox_compiler::explanation::{self, Reader};

use crate::arguments::{ExplainArguments, Output};
use crate::terminal::{CARE, Exit, FAINT, GOOD, STRONG, Styled, Terminal};

/// Explains one pod of a cluster.
pub(crate) async fn explain(arguments: &ExplainArguments, terminal: &mut Terminal) -> Result<Exit> {
    let session = arguments.cluster.connect().await?;
    let explanation = match session.operations(terminal).await? {
        Some(operations) => operations.explanation(&arguments.pod).await?,
        None => {
            let snapshot = session.snapshot().await?;
            explanation::explain(snapshot, &session.namespace, &arguments.pod, Reader::Cluster)
        }
    };
    let explanation = explanation.with_context(|| {
        format!("pod {}/{} does not exist or has finished: -n chooses the namespace", session.namespace, arguments.pod)
    })?;
    match arguments.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut terminal.out, &explanation)?;
            writeln!(terminal.out)?;
        }
        Output::Table => print(&explanation, terminal)?,
    }
    Ok(Exit::Done)
}

fn print(explanation: &Explanation, terminal: &mut Terminal) -> Result<()> {
    let Explanation { metadata, workload, sidecar, applies, does_not_apply, .. } = explanation;
    let (namespace, pod) = (&metadata.namespace, &metadata.name);
    let out = &mut terminal.out;
    let heading = format!("Pod {namespace}/{pod}");
    let owner = match workload.kind.as_str() {
        "Pod" => String::new(),
        kind => format!(" of {kind} {}/{}", workload.namespace, workload.name),
    };
    writeln!(out, "{}{owner}", Styled(STRONG, heading))?;
    if !sidecar {
        let fix = format!("`kubectl label namespace {namespace} {INJECT_LABEL}={INJECT_ENABLED}`, then restart it");
        writeln!(out, "{} {fix}. With one it would be:", Styled(CARE, "It has no sidecar, so nothing is enforced:"))?;
    }
    writeln!(out, "\n{}", Styled(GOOD, if applies.is_empty() { "No policy applies." } else { "Applies:" }))?;
    for Applies { kind, policy, side, mode, scope, protocol, traffic, rules } in applies {
        let parts = if kind == "RateLimit" { "limits" } else { "rules" };
        let rules = if rules.is_empty() { String::new() } else { format!(", {parts} {}", rules.join(", ")) };
        let how = format!("side {side:?}, scope {scope}, mode {mode:?}, protocol {protocol}{rules}");
        writeln!(out, "  {kind} {}/{}: {traffic} ({how})", policy.namespace, policy.name)?;
    }
    if !does_not_apply.is_empty() {
        writeln!(out, "\n{}", Styled(FAINT, "Does not apply:"))?;
    }
    for DoesNotApply { kind, policy, target, why } in does_not_apply {
        writeln!(out, "  {kind} {}/{} on {target}: {why}", policy.namespace, policy.name)?;
    }
    Ok(())
}
