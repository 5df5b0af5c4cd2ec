//! Services of every kind that the attachment table tells apart.
//!
//! Owns the builder. It must not create Endpoints: the real controller makes EndpointSlices from the Pods.
//! One line for a Service keeps a test about what it tests.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

/// What a Service is to be.
#[derive(Debug, Clone)]
pub struct ServiceBuilder {
    namespace: String,
    name: String,
    spec: Value,
    annotations: Value,
}

impl ServiceBuilder {
    /// A Service with a ClusterIP whose selector is `app: NAME`.
    #[must_use]
    pub fn cluster_ip(namespace: &str, name: &str) -> Self {
        Self::new(namespace, name, json!({"type": "ClusterIP", "selector": {"app": name}}))
    }

    /// A headless Service (`clusterIP: None`) whose selector is `app: NAME`.
    #[must_use]
    pub fn headless(namespace: &str, name: &str) -> Self {
        Self::new(namespace, name, json!({"clusterIP": "None", "selector": {"app": name}}))
    }

    /// A Service of type ExternalName.
    #[must_use]
    pub fn external_name(namespace: &str, name: &str, host: &str) -> Self {
        Self::new(namespace, name, json!({"type": "ExternalName", "externalName": host}))
    }

    /// A Service with a ClusterIP and no selector.
    #[must_use]
    pub fn without_selector(namespace: &str, name: &str) -> Self {
        Self::new(namespace, name, json!({"type": "ClusterIP"}))
    }

    fn new(namespace: &str, name: &str, spec: Value) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned(), spec, annotations: json!({}) }
    }

    /// Replaces the selector by one label.
    #[must_use]
    pub fn selector(mut self, key: &str, value: &str) -> Self {
        self.spec["selector"] = json!({ key: value });
        self
    }

    /// Adds a port that goes to the same number on the Pod.
    #[must_use]
    pub fn port(self, name: &str, number: u16) -> Self {
        self.target_port(name, number, &json!(number))
    }

    /// Adds a port that goes to the Pod's port of the given name.
    #[must_use]
    pub fn port_to_name(self, name: &str, number: u16, target: &str) -> Self {
        self.target_port(name, number, &json!(target))
    }

    /// Adds a port that goes to another number on the Pod.
    #[must_use]
    pub fn port_to_number(self, name: &str, number: u16, target: u16) -> Self {
        self.target_port(name, number, &json!(target))
    }

    fn target_port(mut self, name: &str, number: u16, target: &Value) -> Self {
        let mut ports = self.spec["ports"].as_array().cloned().unwrap_or_default();
        ports.push(json!({"name": name, "port": number, "targetPort": target}));
        self.spec["ports"] = Value::Array(ports);
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations[key] = value.into();
        self
    }

    /// Creates the Service and returns it as the API server stored it. Without a port it gets port 80, called `http`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn create(mut self, client: &Client) -> Result<Service> {
        if self.spec["ports"].is_null() && self.spec["type"] != "ExternalName" {
            self = self.port("http", 80);
        }
        let Self { namespace, name, spec, annotations } = self;
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec}))?;
        let created = Api::namespaced(client.clone(), &namespace).create(&PostParams::default(), &service).await;
        created.with_context(|| format!("cannot create service {namespace}/{name}"))
    }
}
