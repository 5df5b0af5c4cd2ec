//! The operations API on a fleet, installed as the chart does it, and people who use it by the roles of `config/rbac`.
//!
//! Owns the Service, its EndpointSlices and the APIService. It must not give anybody more than a role of ours: what an
//! administrator may do shows nothing.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use fusebox_testkit::{eventually, machine_address};
use serde_json::{Value, json};

use crate::fleet::{Fleet, PATIENCE, SYSTEM_NAMESPACE};

/// The APIService.
pub const API_SERVICE: &str = "v1alpha1.ops.fusebox.dev";

/// Somebody with a login of their own.
pub struct Person {
    name: String,
    kubeconfig: PathBuf,
}

/// What a command did.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Fleet {
    /// Installs the APIService in front of all operators, and waits until the API server reaches one.
    ///
    /// # Errors
    /// When it doesn't in time, or this machine has no address but loopback, which Kubernetes takes for no endpoint.
    pub async fn install_operations_api(&self) -> Result<()> {
        let service = json!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "fusebox-operator", "namespace": SYSTEM_NAMESPACE },
            "spec": { "ports": [{ "name": "ops", "port": 9445, "targetPort": 9445 }] } });
        let api_service = json!({ "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": API_SERVICE },
            "spec": { "group": "ops.fusebox.dev", "version": "v1alpha1", "groupPriorityMinimum": 1000, "versionPriority": 10,
                      "service": { "name": "fusebox-operator", "namespace": SYSTEM_NAMESPACE, "port": 9445 } } });
        let address = machine_address()?;
        let slices = self.operators.iter().map(|it| slice(it.identity(), (address, it.operations_port())));
        let items: Vec<Value> = [service, api_service].into_iter().chain(slices).collect();
        self.cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()).await?;
        self.operations_api_is("True").await
    }

    /// Waits until the API server says whether it reaches the operations API.
    ///
    /// # Errors
    /// When it says otherwise for [`PATIENCE`].
    pub async fn operations_api_is(&self, available: &str) -> Result<()> {
        let path = "jsonpath={.status.conditions[?(@.type==\"Available\")]}";
        eventually(PATIENCE, &format!("the operations API's availability is {available}"), async || {
            let condition = self.kubectl(&["get", "apiservice", API_SERVICE, "-o", path]).await?;
            ensure!(condition.contains(&format!("\"status\":\"{available}\"")), "{condition}");
            Ok(())
        })
        .await
    }

    /// Somebody with these cluster roles in one namespace, and no other right.
    ///
    /// # Errors
    /// When the API server refuses a binding.
    pub async fn person(&self, name: &str, roles: &[&str], namespace: &str) -> Result<Person> {
        for role in roles {
            let (binding, user) = (format!("{name}-{role}"), format!("--user={name}"));
            let role = format!("--clusterrole={role}");
            self.kubectl(&["create", "rolebinding", &binding, &role, &user, "-n", namespace]).await?;
        }
        Ok(Person { name: name.to_owned(), kubeconfig: self.cluster.kubeconfig_for_user(name, None)? })
    }
}

impl Person {
    /// Runs our command as this person.
    ///
    /// # Errors
    /// When it can't be run, or is ended by a signal.
    pub async fn fusebox(&self, fleet: &Fleet, arguments: &[&str]) -> Result<Said> {
        let output = fleet.fusebox_as(&self.kubeconfig, arguments).await?;
        Ok(Said {
            code: output.status.code().context("ended by a signal")?,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What our command prints for this person, which must succeed.
    ///
    /// # Errors
    /// When it doesn't.
    pub async fn prints(&self, fleet: &Fleet, arguments: &[&str]) -> Result<String> {
        let said = self.fusebox(fleet, arguments).await?;
        ensure!(said.code == 0, "fusebox {arguments:?} as {}: {said:?}", self.name);
        Ok(said.out)
    }
}

/// One operator's place behind the Service; each has a port of its own here, so each has a slice of its own.
fn slice(identity: &str, (address, port): (IpAddr, u16)) -> Value {
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": identity, "namespace": SYSTEM_NAMESPACE,
                      "labels": { "kubernetes.io/service-name": "fusebox-operator" } },
        "addressType": "IPv4", "ports": [{ "name": "ops", "port": port, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [address.to_string()], "conditions": { "ready": true } }] })
}
