//! The dashboard of the operator itself: whether it keeps up, and what keeps it from doing so.

use super::panel::{Panel, Shape};
use super::{Draft, Row, Variable};

pub(super) fn draft() -> Draft {
    let instance =
        Variable { name: "pod", label: "Pod", series: "fusebox_operator_leader".to_owned(), of_label: "pod" };
    Draft {
        uid: "fusebox-operator",
        title: "Fusebox / Operator",
        description: "The operator's replicas: leadership, reconciles, sidecars, admission and certificates.",
        variables: vec![instance],
        rows: vec![health(), work(), around()],
    }
}

fn health() -> Row {
    Row {
        title: "Health",
        panels: vec![
            Panel::new(Shape::Stat, "Leaders", "Replicas that hold the lease; exactly one is right.").query("sum(fusebox_operator_leader)", ""),
            Panel::new(Shape::Stat, "Sidecars connected", "Sidecars whose control stream is up, over all replicas.")
                .query("sum(fusebox_operator_proxies_connected)", ""),
            Panel::new(Shape::Stat, "Pods without sidecar", "Pods that ask for a sidecar and have none; condition Covered says which.")
                .query("sum(max by (kind, policy_namespace, policy) (fusebox_operator_sidecars_missing)) or vector(0)", ""),
            Panel::new(Shape::Stat, "Policies not ready", "Policies of all kinds whose condition Ready is not True.")
                .query(r#"sum(max by (kind, status) (fusebox_operator_resource_condition{type="Ready",status!="True"})) or vector(0)"#, ""),
            Panel::new(Shape::Stat, "Alerts firing", "Alerts of Fusebox that fire.")
                .query(r#"count(ALERTS{alertstate="firing",policy_namespace!=""}) or vector(0)"#, ""),
            Panel::new(Shape::Stat, "Certificates end in", "Time until the first certificate of the operator ends; they are renewed long before.")
                .unit("s")
                .query("min(fusebox_certificate_expiry_seconds)", ""),
        ],
    }
}

fn work() -> Row {
    let rate = |metric: &str, by: &str| format!(r#"sum by ({by}) (rate({metric}{{pod=~"$pod"}}[$__rate_interval]))"#);
    let p99 = |metric: &str, by: &str| format!("histogram_quantile(0.99, {})", rate(&format!("{metric}_bucket"), by));
    Row {
        title: "Work",
        panels: vec![
            Panel::new(Shape::Lines, "Reconciles", "Reconciles a second by stage.")
                .unit("ops")
                .query(rate("fusebox_operator_reconcile_total", "stage"), "{{stage}}"),
            Panel::new(Shape::Lines, "Reconciles, p99", "How long reconciles take.")
                .unit("s")
                .query(p99("fusebox_operator_reconcile_duration_seconds", "le, stage"), "{{stage}}"),
            Panel::new(Shape::Lines, "Failed reconciles", "Reconciles that failed, a second, by stage and reason.")
                .unit("ops")
                .query(rate("fusebox_operator_reconcile_errors_total", "stage, reason"), "{{stage}} {{reason}}"),
            Panel::new(Shape::Lines, "Writes", "Status writes and writes of objects, a second.")
                .unit("ops")
                .query(rate("fusebox_operator_status_writes_total", "kind"), "status of {{kind}}")
                .query(rate("fusebox_operator_applied_total", "kind, operation"), "{{operation}} {{kind}}"),
        ],
    }
}

fn around() -> Row {
    let rate = |metric: &str, by: &str| format!(r#"sum by ({by}) (rate({metric}{{pod=~"$pod"}}[$__rate_interval]))"#);
    Row {
        title: "API server and webhooks",
        panels: vec![
            Panel::new(Shape::Lines, "Calls of the API server", "Calls a second by method and answer.")
                .unit("reqps")
                .query(rate("fusebox_operator_api_requests_total", "method, code"), "{{method}} {{code}}"),
            Panel::new(Shape::Lines, "Admission reviews", "Reviews a second by webhook and result.")
                .unit("reqps")
                .query(rate("fusebox_webhook_requests_total", "webhook, result"), "{{webhook}} {{result}}"),
            Panel::new(Shape::Lines, "Admission reviews, p99", "How long reviews take.").unit("s").query(
                format!("histogram_quantile(0.99, {})", rate("fusebox_webhook_duration_seconds_bucket", "le, webhook")),
                "{{webhook}}",
            ),
            Panel::new(Shape::Lines, "Memory", "Memory that the operator's processes hold.")
                .unit("bytes")
                .query(r#"process_resident_memory_bytes{pod=~"$pod"} and on (pod) fusebox_operator_leader"#, "{{pod}}"),
        ],
    }
}
