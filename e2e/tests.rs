//! End-to-end tests: one file for each subject, all on real processes. What needs the whole machine stands in `load.rs`.

#[path = "tests/cases.rs"]
mod cases;
#[path = "tests/certificates.rs"]
mod certificates;
#[path = "tests/chart.rs"]
mod chart;
#[path = "tests/chart_installed.rs"]
mod chart_installed;
#[path = "tests/endpoints.rs"]
mod endpoints;
#[path = "tests/grpc.rs"]
mod grpc;
#[path = "tests/h2spec.rs"]
mod h2spec;
#[path = "tests/hostile.rs"]
mod hostile;
#[path = "tests/isolation.rs"]
mod isolation;
#[path = "tests/kubectl.rs"]
mod kubectl;
#[path = "tests/leader.rs"]
mod leader;
#[path = "tests/operations.rs"]
mod operations;
#[path = "tests/operator_gone.rs"]
mod operator_gone;
#[path = "tests/rate_limit_lately.rs"]
mod rate_limit_lately;
#[path = "tests/rate_limit_shared.rs"]
mod rate_limit_shared;
#[path = "tests/rate_limit_shared_faults.rs"]
mod rate_limit_shared_faults;
#[path = "tests/rate_limit_shared_told.rs"]
mod rate_limit_shared_told;
#[path = "tests/skew.rs"]
mod skew;
#[path = "tests/spine.rs"]
mod spine;
