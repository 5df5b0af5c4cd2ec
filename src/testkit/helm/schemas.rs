//! Strict JSON schemas of every kind of Kubernetes, and of custom resources, laid out as kubeconform looks for them.
//!
//! Owns the translation of OpenAPI into schemas that refuse unknown fields and nulls. They come from Kubernetes' own modules,
//! since what others have published of them is a download that a build must not hang on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::binaries::GoBuilder;
use crate::progress::Progress;

/// The versions of Kubernetes that the chart is checked against.
pub const KUBERNETES: [&str; 3] = ["1.33.13", "1.34.4", "1.35.4"];

/// The version of cert-manager whose kinds are known.
const CERT_MANAGER: &str = "github.com/cert-manager/cert-manager@v1.21.2";
const CERT_MANAGER_KINDS: [&str; 2] = ["certificates", "issuers"];

/// Counted up when the translation changes, so that what the cache holds is made anew.
const EDITION: u32 = 1;

/// A number may stand for its text here, which OpenAPI does not say.
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// All definitions of one Kubernetes version, beside the files that name each kind.
const DEFINITIONS: &str = "definitions.json";

/// The folder to hand to kubeconform as `-schema-location`, for all of [`KUBERNETES`]. Blocks while it downloads, once.
///
/// # Errors
/// When neither Go nor Docker can fetch the modules, or they are not as expected.
pub fn schemas() -> Result<PathBuf> {
    let entry = crate::cache::root()?.join("schemas").join(format!("{}-{EDITION}", KUBERNETES.join("-")));
    crate::cache::make_once(&entry, |draft| {
        let progress = Progress::start("Kubernetes' schemas (once, kept in the cache)");
        let go = GoBuilder::find()?;
        progress.phase("downloading cert-manager");
        let mut custom = custom_resources(&cert_manager_crds()?, &CERT_MANAGER_KINDS)?;
        custom.extend(custom_resources(&crate::prometheus::crds()?, &["servicemonitors"])?);
        for version in KUBERNETES {
            progress.phase(format!("downloading Kubernetes {version}"));
            let module = go.download(&format!("k8s.io/kubernetes@v{version}"))?;
            let folder = draft.join(format!("v{version}-standalone-strict"));
            write_kinds(&module.join("api/openapi-spec/swagger.json"), &folder)?;
            for (name, schema) in &custom {
                write(&folder.join(name), schema)?;
            }
        }
        Ok(())
    })?;
    Ok(entry)
}

/// The folder with cert-manager's CRDs, kept as schemas' sources are. Blocks while it downloads, once.
///
/// # Errors
/// When neither Go nor Docker can fetch the module.
pub fn cert_manager_crds() -> Result<PathBuf> {
    let version = CERT_MANAGER.rsplit_once('@').map_or(CERT_MANAGER, |(_, version)| version);
    let entry = crate::cache::root()?.join("cert-manager-crds").join(version);
    crate::cache::make_once(&entry, |draft| {
        let folder = GoBuilder::find()?.download(CERT_MANAGER)?.join("deploy/crds");
        for plural in CERT_MANAGER_KINDS {
            let name = format!("cert-manager.io_{plural}.yaml");
            let content =
                fs::read(folder.join(&name)).with_context(|| format!("cannot read {name} of cert-manager"))?;
            fs::write(draft.join(name), content).context("cannot write to the cache")?;
        }
        Ok(())
    })?;
    Ok(entry)
}

fn write_kinds(swagger: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let text = fs::read_to_string(swagger).with_context(|| format!("cannot read {}", swagger.display()))?;
    let document: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", swagger.display()))?;
    let definitions = document["definitions"].as_object().context("no definitions in Kubernetes' OpenAPI")?;
    let mut strict = Map::new();
    for (name, definition) in definitions {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let reference = json!({ "$ref": format!("{DEFINITIONS}#/definitions/{name}") });
            write(&folder.join(file_name(&kind["group"], &kind["version"], &kind["kind"])?), &reference)?;
        }
        strict.insert(name.clone(), closed(definition));
    }
    strict.insert(QUANTITY.to_owned(), json!({ "type": ["string", "number"] }));
    write(&folder.join(DEFINITIONS), &json!({ "definitions": strict }))
}

fn custom_resources(folder: &Path, plurals: &[&str]) -> Result<Vec<(String, Value)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let plural = stem.rsplit_once('_').map_or(stem.as_str(), |(_, plural)| plural);
        if plurals.contains(&plural) {
            found.extend(custom_resource(&path)?);
        }
    }
    Ok(found)
}

fn custom_resource(path: &Path) -> Result<Vec<(String, Value)>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let crd: Value = serde_yaml::from_str(&text).with_context(|| format!("{} is not YAML", path.display()))?;
    let spec = &crd["spec"];
    let versions = spec["versions"].as_array().into_iter().flatten();
    let named = versions.map(|version| {
        let name = file_name(&spec["group"], &version["name"], &spec["names"]["kind"])?;
        Ok((name, closed(&version["schema"]["openAPIV3Schema"])))
    });
    named.collect()
}

/// kubeconform's own name for a kind's file: `deployment-apps-v1.json`, `service-v1.json`.
fn file_name(group: &Value, version: &Value, kind: &Value) -> Result<String> {
    let text = |value: &Value| value.as_str().map(str::to_lowercase).context("a kind without group, version or name");
    let (group, version, kind) = (text(group)?, text(version)?, text(kind)?);
    Ok(match group.split('.').next() {
        Some(first) if !first.is_empty() => format!("{kind}-{first}-{version}.json"),
        _ => format!("{kind}-{version}.json"),
    })
}

/// The schema with every object closed that lists its fields, and with the types that OpenAPI can't say.
fn closed(schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut result: Map<String, Value> =
        fields.iter().map(|(name, value)| (name.clone(), below(name, value))).collect();
    let is = |field: &str| fields.get(field) == Some(&Value::Bool(true));
    let open = fields.contains_key("additionalProperties") || is("x-kubernetes-preserve-unknown-fields");
    if fields.contains_key("properties") && !open {
        result.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    if is("x-kubernetes-int-or-string") || fields.get("format").and_then(Value::as_str) == Some("int-or-string") {
        result.insert("type".to_owned(), json!(["integer", "string"]));
        result.remove("format");
    }
    Value::Object(result)
}

/// What stands under one keyword of a schema. Only some hold schemas: a field may itself be called `properties`.
fn below(keyword: &str, value: &Value) -> Value {
    match (keyword, value) {
        ("properties", Value::Object(fields)) => {
            fields.iter().map(|(name, schema)| (name.clone(), closed(schema))).collect()
        }
        ("items" | "additionalProperties" | "not", schema) => closed(schema),
        ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => schemas.iter().map(closed).collect(),
        _ => value.clone(),
    }
}

fn write(path: &Path, schema: &Value) -> Result<()> {
    fs::write(path, schema.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_lists_its_fields_is_closed_and_a_map_is_not() {
        let schema = json!({ "properties": {
            "listed": { "type": "object", "properties": { "a": { "type": "string" } } },
            "map": { "type": "object", "additionalProperties": { "properties": { "b": {} } } },
            "properties": { "type": "object" },
        }});
        let closed = closed(&schema);
        assert_eq!(closed["additionalProperties"], false);
        assert_eq!(closed["properties"]["listed"]["additionalProperties"], false);
        assert_eq!(closed["properties"]["map"]["additionalProperties"]["additionalProperties"], false);
        assert_eq!(closed["properties"]["properties"], json!({ "type": "object" }));
    }

    #[test]
    fn files_are_called_as_kubeconform_looks_for_them() -> Result<()> {
        let name = |group, version, kind| file_name(&json!(group), &json!(version), &json!(kind));
        assert_eq!(name("", "v1", "Service")?, "service-v1.json");
        assert_eq!(name("rbac.authorization.k8s.io", "v1", "Role")?, "role-rbac-v1.json");
        assert!(file_name(&json!("g"), &Value::Null, &json!("K")).is_err());
        Ok(())
    }
}
