//! The node's address, the route to Services, and the settings of the pods' network.
//!
//! Owns what is changed on this machine's network, and undoing it. It must not write firewall rules: kube-proxy does.
//! Pods hang on the machine by a link each (CNI `ptp`), not on a bridge: what one pod sends another is then always routed,
//! and passes kube-proxy's translation both ways whatever the kernel does with bridges.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::addresses::{NODE_ADDRESS, PODS, SERVICES};
use super::host::run;

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// What forwarding was before, in the node's folder.
const FORWARDING_BEFORE: &str = "ip_forward";
/// The CNI network's name; results of its plugins are kept under it.
pub(super) const NETWORK: &str = "fusebox-node";
/// kube-proxy's tables, which it leaves behind.
const TABLES: [(&str, &str); 2] = [("ip", "kube-proxy"), ("ip6", "kube-proxy")];

/// Gives the machine the node's address, lets it forward, and writes the CNI configuration.
pub(super) fn up(folder: &Path) -> Result<()> {
    let cni = folder.join("cni");
    fs::create_dir_all(&cni).with_context(|| format!("cannot create {}", cni.display()))?;
    let before = fs::read_to_string(FORWARDING).context("cannot read whether this machine forwards")?;
    fs::write(folder.join(FORWARDING_BEFORE), before).context("cannot write into the node's folder")?;
    fs::write(FORWARDING, "1").context("cannot let this machine forward")?;
    let configuration = configuration(folder).to_string();
    fs::write(cni.join("10-fusebox.conflist"), configuration).context("cannot write the CNI configuration")?;
    let address = format!("{NODE_ADDRESS}/32");
    run("ip", &["address", "replace", &address, "dev", "lo"])?;
    // The address of a Service is translated after a route was found: there must be one, also without a default route.
    run("ip", &["route", "replace", SERVICES, "dev", "lo", "src", &NODE_ADDRESS.to_string()])?;
    Ok(())
}

/// Undoes [`up`], and removes kube-proxy's tables. What is gone already is no error.
pub(super) fn down(folder: &Path) {
    run("ip", &["route", "delete", SERVICES, "dev", "lo"]).ok();
    run("ip", &["address", "delete", &format!("{NODE_ADDRESS}/32"), "dev", "lo"]).ok();
    for (family, table) in TABLES {
        run("nft", &["delete", "table", family, table]).ok();
    }
    if let Ok(before) = fs::read_to_string(folder.join(FORWARDING_BEFORE)) {
        fs::write(FORWARDING, before.trim()).ok();
    }
}

fn configuration(folder: &Path) -> serde_json::Value {
    let data = folder.join("cni/addresses");
    json!({
        "cniVersion": "0.4.0",
        "name": NETWORK,
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": data,
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}
