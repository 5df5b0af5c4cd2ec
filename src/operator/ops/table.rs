//! Tables as kubectl prints them, made by the server, and which form of an answer a client accepts.
//!
//! An object may have several rows, since what people look for is a pod's breaker and not the policy it belongs to.

use fusebox_api::operations::{Elsewhere, ListMetadata, Metadata, State};
use serde_json::{Value, json};

use super::refusal::Refusal;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    name: &'static str,
    description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    priority: u8,
}

/// A row, with the object that it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    object: Metadata,
    cells: Vec<String>,
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) columns: &'static [Column],
    pub(crate) rows: Vec<Row>,
    pub(crate) next: ListMetadata,
}

/// How an answer is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table,
    /// Only for `/apis`: groups with all their resources.
    AggregatedDiscovery,
}

impl Column {
    pub(crate) const fn new(name: &'static str, description: &'static str) -> Self {
        Self { name, description, priority: 0 }
    }

    pub(crate) const fn wide(name: &'static str, description: &'static str) -> Self {
        Self { name, description, priority: 1 }
    }
}

impl Row {
    pub(crate) fn new<'a>(object: &Metadata, cells: impl IntoIterator<Item = &'a str>) -> Self {
        Self { object: object.clone(), cells: cells.into_iter().map(str::to_owned).collect() }
    }

    /// A row for the pods of another namespace: how many they are, and what is counted of them.
    pub(crate) fn elsewhere<'a, M>(
        object: &Metadata,
        pods: &Elsewhere<M>,
        cells: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let counted = format!("({} in {})", pods.pods, pods.namespace);
        let mut row = Self::new(object, [object.name.as_str(), &counted]);
        row.cells.extend(cells.into_iter().map(str::to_owned));
        row
    }

    /// Adds empty cells, so that there are as many as columns.
    pub(crate) fn fill(&mut self, columns: usize) {
        self.cells.resize(columns, String::new());
    }
}

impl Table {
    /// A table with the rows of each state; a policy that no pod enforces has one that says so.
    pub(crate) fn of_states<S: State>(
        columns: &'static [Column],
        (list, next): (&[S], &ListMetadata),
        rows_of: impl Fn(&S) -> Vec<Row>,
    ) -> Self {
        let rows = list.iter().flat_map(|state| match rows_of(state) {
            none if none.is_empty() => vec![Row::new(state.metadata(), [state.metadata().name.as_str(), "<none>"])],
            rows => rows,
        });
        let mut rows: Vec<Row> = rows.collect();
        rows.iter_mut().for_each(|row| row.fill(columns.len()));
        Self { columns, rows, next: next.clone() }
    }

    /// What is sent; `include_object` is the request's parameter of that name.
    pub(crate) fn to_value(&self, include_object: &str) -> Value {
        let column = |column: &Column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({ "name": column.name, "type": "string", "format": format, "description": column.description,
                    "priority": column.priority })
        };
        let row = |row: &Row| {
            let object =
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": row.object });
            if include_object == "None" {
                json!({ "cells": row.cells })
            } else {
                json!({ "cells": row.cells, "object": object })
            }
        };
        json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": self.next,
            "columnDefinitions": self.columns.iter().map(column).collect::<Vec<_>>(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// The first form that a client accepts and that is spoken here.
///
/// # Errors
/// `NotAcceptable`.
pub(crate) fn accepted(accept: Option<&str>) -> Result<Form, Refusal> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Ok(Form::Object) };
    accept.split(',').find_map(form).ok_or(Refusal::NotAcceptable)
}

fn form(media_range: &str) -> Option<Form> {
    let mut parts = media_range.split(';').map(str::trim);
    let media_type = parts.next()?;
    if !["application/json", "application/*", "*/*"].contains(&media_type) {
        return None;
    }
    let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
    let value = |wanted: &str| parameters.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    match (value("as"), value("g"), value("v")) {
        (None, _, _) => Some(Form::Object),
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Some(Form::Table),
        (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => Some(Form::AggregatedDiscovery),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_gets_a_table_and_curl_an_object() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accepted(Some(kubectl)).unwrap(), Form::Table);
        assert_eq!(accepted(Some("*/*")).unwrap(), Form::Object);
        assert_eq!(accepted(None).unwrap(), Form::Object);
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert!(matches!(accepted(Some(metadata)), Err(Refusal::NotAcceptable)));
        assert_eq!(accepted(Some(&format!("{metadata},application/json"))).unwrap(), Form::Object);
        assert!(matches!(accepted(Some("application/vnd.kubernetes.protobuf")), Err(Refusal::NotAcceptable)));
    }
}
