//! One version apart: old proxies with this operator, and this version's proxies with the operator before.
//!
//! Recordings of the version before (`e2e/fixtures/previous`) hold the words; with `FUSEBOX_PREVIOUS_BIN`, a directory with its
//! `fusebox-operator` and `fusebox-proxy`, the programs themselves are put together. Without it those two tests say so and pass.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::{Fleet, OperatorOptions, Shop, Sidecar, SidecarOptions};
use fusebox_policy::config::ProxyConfig;
use fusebox_policy::seal;
use fusebox_policy::stream::{Down, Up};
use http::StatusCode;
use serde_json::Value;
use serde_json::map::Entry;

const UP: &str = include_str!("../fixtures/previous/up.jsonl");
const DOWN: &str = include_str!("../fixtures/previous/down.jsonl");
const CONFIG_MAP: &str = include_str!("../fixtures/previous/config.yaml");
const PREVIOUS: &str = "FUSEBOX_PREVIOUS_BIN";
const QUICK: &str = "trip: {consecutiveFailures: 3}, open: {baseDuration: 5m, jitterPercent: 0}";

/// What stands in `recorded` stands in `today` too; `today` may say more.
fn holds(today: &Value, recorded: &Value, path: &str) -> Result<()> {
    match (today, recorded) {
        (Value::Object(today), Value::Object(recorded)) => recorded.iter().try_for_each(|(key, value)| {
            let path = format!("{path}.{key}");
            holds(today.get(key).with_context(|| format!("{path} is not said any more"))?, value, &path)
        }),
        (Value::Array(today), Value::Array(recorded)) => {
            ensure!(today.len() == recorded.len(), "{path} has another length");
            today
                .iter()
                .zip(recorded)
                .enumerate()
                .try_for_each(|(at, (today, recorded))| holds(today, recorded, &format!("{path}[{at}]")))
        }
        _ => {
            ensure!(today == recorded, "{path} was {recorded} and is {today}");
            Ok(())
        }
    }
}

/// Every way to add a field that nobody knows to one object of a message, with its place.
fn with_one_field_more(message: &Value) -> Vec<(String, Value)> {
    let mut places = vec![String::new()];
    collect(message, "", &mut places);
    let added = |place: String| {
        let mut changed = message.clone();
        let object = changed.pointer_mut(&place).and_then(Value::as_object_mut)?;
        match object.entry("ofANewerVersion") {
            Entry::Vacant(entry) => entry.insert(serde_json::json!({"any": [1]})),
            Entry::Occupied(_) => return None,
        };
        Some((place, changed))
    };
    places.into_iter().filter_map(added).collect()
}

fn collect(value: &Value, place: &str, places: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let place = format!("{place}/{key}");
        if child.is_object() {
            places.push(place.clone());
        }
        collect(child, &place, places);
    }
}

#[test]
fn what_the_version_before_says_is_understood_and_nothing_of_it_is_left_unsaid_today() -> Result<()> {
    for line in UP.lines() {
        let message: Up = serde_json::from_str(line).context(line)?;
        holds(&serde_json::to_value(message)?, &serde_json::from_str(line)?, "up")?;
    }
    for line in DOWN.lines() {
        let message: Down = serde_json::from_str(line).context(line)?;
        holds(&serde_json::to_value(message)?, &serde_json::from_str(line)?, "down")?;
    }
    Ok(())
}

#[test]
fn the_config_map_of_the_version_before_is_read_whole() -> Result<()> {
    let text = seal::unseal(CONFIG_MAP.as_bytes())?;
    let config: ProxyConfig = serde_yaml::from_slice(text)?;
    let recorded: serde_json::Value = serde_yaml::from_slice(text)?;
    holds(&serde_json::to_value(&config)?, &recorded, "config")?;
    assert_eq!((config.inbound.len(), config.outbound.len(), config.policies.len()), (1, 2, 3));
    Ok(())
}

#[test]
fn a_field_of_a_newer_version_is_passed_over_wherever_it_stands() -> Result<()> {
    let mut places = 0;
    for line in UP.lines() {
        for (place, changed) in with_one_field_more(&serde_json::from_str(line)?) {
            places += 1;
            serde_json::from_value::<Up>(changed).with_context(|| format!("{place} of {line}"))?;
        }
    }
    for line in DOWN.lines() {
        for (place, changed) in with_one_field_more(&serde_json::from_str(line)?) {
            places += 1;
            let read = serde_json::from_value::<Down>(changed);
            // A window is one of two kinds, named by its only field.
            ensure!(read.is_ok() != place.ends_with("/window"), "{place}: {read:?}");
        }
    }
    assert!(places > 50, "only {places} places were tried");
    Ok(())
}

#[test]
fn a_message_of_a_newer_version_is_passed_over_at_both_ends() -> Result<()> {
    let line = r#"{"type":"ofANewerVersion","any":1}"#;
    assert_eq!(serde_json::from_str::<Up>(line)?, Up::Unknown);
    assert_eq!(serde_json::from_str::<Down>(line)?, Down::Unknown);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_version_before_obey_this_operator() -> Result<()> {
    let Some(program) = previous("fusebox-proxy") else { return Ok(()) };
    obeyed(&OperatorOptions::default(), Some(program)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_this_version_obey_the_operator_before() -> Result<()> {
    let Some(program) = previous("fusebox-operator") else { return Ok(()) };
    obeyed(&OperatorOptions { program: Some(program), ..OperatorOptions::default() }, None).await
}

fn previous(name: &str) -> Option<PathBuf> {
    let Some(directory) = std::env::var_os(PREVIOUS) else {
        eprintln!("not run: {PREVIOUS} names no directory with the programs of the version before");
        return None;
    };
    Some(PathBuf::from(directory).join(name))
}

/// From policy to open breaker and its status, and from the ConfigMap alone after a restart.
async fn obeyed(operator: &OperatorOptions, proxy: Option<PathBuf>) -> Result<()> {
    let mut fleet = Fleet::start(1, operator).await?;
    let shop = Shop::open(&fleet).await?;
    let options = SidecarOptions { program: proxy, ..shop.sidecar_options() };
    let mut web = Sidecar::start(&fleet, shop.caller(&fleet).await?, &options).await?;
    shop.apply_policy(&fleet, "payments", QUICK).await?;
    shop.condition(&fleet, "payments", ("Programmed", "True", "Programmed")).await?;
    web.enforces("payments").await?;
    assert_eq!(web.get("/").await?.status, 200);
    shop.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    for _ in 0..3 {
        assert_eq!(web.get("/").await?.status, 500);
    }
    assert_eq!(web.get("/").await?.header("fusebox-error"), "circuit-open");
    shop.shows(&fleet, "payments", (".status.state", "Open")).await?;
    shop.condition(&fleet, "payments", ("Tripped", "True", "Open")).await?;

    web.mount_config(&fleet, "payments").await?;
    fleet.operators.clear();
    web.process.kill();
    web.restart().await?;
    web.enforces("payments").await?;
    for _ in 0..3 {
        assert_eq!(web.get("/").await?.status, 500);
    }
    assert_eq!(web.get("/").await?.header("fusebox-error"), "circuit-open");
    Ok(())
}
