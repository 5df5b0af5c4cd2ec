//! How kubelet, kube-proxy and kube-scheduler are called, and the certificates they need.
//!
//! Owns their configuration files. It must not keep the processes. Each has the rights of its own user, as in any cluster.

use std::net::Ipv4Addr;

use anyhow::Result;
use serde_json::{Value, json};

use super::addresses::{CLUSTER_DOMAIN, DNS, NODE_ADDRESS, NODE_NAME, PODS};
use super::runtime::Runtime;
use crate::binaries::NodePrograms;
use crate::child::KeptChild;
use crate::cluster::parts::Parts;
use crate::kubeconfig::Credential;

/// Below this group of every controller are the pods', so that the node's can be told from any other.
pub(super) const CGROUP: &str = "fusebox-node";

/// The flags by which the API server reaches the kubelet, for logs, exec and port-forward.
pub(super) fn api_server_flags() -> Vec<String> {
    [
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-certificate-authority=certificates/authority.crt",
        "--kubelet-client-certificate=certificates/kubelet-client.crt",
        "--kubelet-client-key=certificates/kubelet-client.key",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The kubelet's own certificate, and the one by which it knows the API server.
pub(super) fn write_certificates(parts: &Parts) -> Result<()> {
    let server = parts.authority.server(&[&NODE_ADDRESS.to_string(), NODE_NAME])?;
    let client = parts.authority.client("kube-apiserver-kubelet-client", Some("system:masters"))?;
    for (name, signed) in [("kubelet", &server), ("kubelet-client", &client)] {
        parts.folder.write(&format!("certificates/{name}.crt"), &signed.certificate)?;
        parts.folder.write(&format!("certificates/{name}.key"), &signed.key)?;
    }
    Ok(())
}

/// Starts the three; the node becomes Ready some seconds later.
pub(super) fn start(parts: &Parts, programs: &NodePrograms) -> Result<Vec<KeptChild>> {
    super::cleanup::create_cgroups()?;
    parts.folder.write(
        "resolv.conf",
        "# Pods that don't use the cluster's DNS resolve nothing: tests stay on this machine.\n",
    )?;
    let kubelet_file = parts.folder.write("kubelet.json", &kubelet(parts).to_string())?;
    let node_user = format!("system:node:{NODE_NAME}");
    let kubelet_flags = [
        format!("--config={}", kubelet_file.display()),
        kubeconfig_flag(parts, &node_user, Some("system:nodes"))?,
        format!("--hostname-override={NODE_NAME}"),
        format!("--node-ip={NODE_ADDRESS}"),
        format!("--root-dir={}", parts.folder.file("kubelet").display()),
    ];
    let proxy_file = parts.folder.write("kube-proxy.json", &proxy(parts)?.to_string())?;
    let proxy_flags = [format!("--config={}", proxy_file.display())];
    let scheduler_flags = [
        kubeconfig_flag(parts, "system:kube-scheduler", None)?,
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    Ok(vec![
        parts.start("kubelet", &programs.kubelet, &kubelet_flags)?,
        parts.start("kube-proxy", &programs.kube_proxy, &proxy_flags)?,
        parts.start("kube-scheduler", &programs.kube_scheduler, &scheduler_flags)?,
    ])
}

fn kubeconfig_flag(parts: &Parts, user: &str, group: Option<&str>) -> Result<String> {
    Ok(format!("--kubeconfig={}", write_kubeconfig(parts, user, group)?))
}

fn write_kubeconfig(parts: &Parts, user: &str, group: Option<&str>) -> Result<String> {
    let signed = parts.authority.client(user, group)?;
    Ok(parts.write_kubeconfig(user, &Credential::Certificate(&signed))?.display().to_string())
}

fn kubelet(parts: &Parts) -> Value {
    let file = |name: &str| parts.folder.file(name);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "tlsCertFile": file("certificates/kubelet.crt"),
        "tlsPrivateKeyFile": file("certificates/kubelet.key"),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": file("certificates/authority.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": format!("unix://{}", Runtime::socket().display()),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{CGROUP}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "healthzBindAddress": Ipv4Addr::LOCALHOST,
        "clusterDNS": [DNS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": file("resolv.conf"),
        "podLogsDir": file("logs/pods"),
        "volumePluginDir": file("kubelet/volume-plugins"),
        // This machine's disk is filled by others too; a test must not lose its pods to that.
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100,
        // The chains would outlive the node.
        "makeIPTablesUtilChains": false,
        // Tests change ConfigMaps and wait for pods to see it.
        "syncFrequency": "5s",
    })
}

fn proxy(parts: &Parts) -> Result<Value> {
    Ok(json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": NODE_NAME,
        "clientConnection": {"kubeconfig": write_kubeconfig(parts, "system:kube-proxy", None)?},
        "clusterCIDR": PODS,
        "detectLocalMode": "ClusterCIDR",
        "healthzBindAddress": format!("{NODE_ADDRESS}:10256"),
        "metricsBindAddress": format!("{NODE_ADDRESS}:10249"),
        "nodePortAddresses": [format!("{NODE_ADDRESS}/32")],
        // Zero leaves this machine's settings as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    }))
}
