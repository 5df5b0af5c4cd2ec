//! The offline check and the real API server agree, case by case, on verdict and field.
//!
//! The cases stand in one file beside the check; its own test holds the check against them, this one the API server.

use anyhow::{Context as _, Result};
use fusebox_compiler::check::cases::{self, Case};
use fusebox_e2e::Fleet;
use fusebox_testkit::ClusterOptions;
use http::Request;
use kube::Client;
use serde_json::Value;

// As kubectl sends it, strictly, without leaving anything behind.
const QUERY: &str = "dryRun=All&fieldValidation=Strict";

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_gives_every_case_the_verdict_and_field_that_check_gives() -> Result<()> {
    let fleet = Fleet::without_operator(ClusterOptions::default()).await?;
    let cases = cases::all()?;
    assert!(cases.len() > 50, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(difference) = judge(&fleet.client, case).await {
            wrong.push(format!("{}: {difference:#}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

async fn judge(client: &Client, case: &Case) -> Result<()> {
    let url = format!("/apis/fusebox.dev/v1alpha1/namespaces/default/{}?{QUERY}", case.kind.plural());
    let request = Request::post(url).header("content-type", "application/yaml").body(case.manifest().into_bytes())?;
    let answer = client.request::<Value>(request).await;
    match (answer, case.refused_by_api_server()) {
        (Ok(_), false) => Ok(()),
        (Ok(_), true) => anyhow::bail!("accepted, but {} should be refused", case.field),
        (Err(kube::Error::Api(status)), true) => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let named = causes.clone().any(|cause| cause.field == case.field) || status.message.contains(&case.field);
            anyhow::ensure!(named, "refused, but not for {}: {}", case.field, status.message);
            Ok(())
        }
        (Err(kube::Error::Api(status)), false) => anyhow::bail!("refused: {}", status.message),
        (Err(error), _) => Err(error).context("no verdict"),
    }
}
