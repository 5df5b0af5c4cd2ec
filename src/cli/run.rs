//! `fusebox run`: the sidecar's proxy on this machine, with policies from files.
//!
//! The same compiler and the same proxy as in a cluster; only the Services' addresses come from the command line. It
//! stands on the callers' side, so policies of side Server are named and left out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::iter;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fusebox_compiler::compile;
use fusebox_compiler::plan::{Plan, Verdict};
use fusebox_compiler::snapshot::{Injection, Pod, Protocol, Service, ServiceKind, ServicePort, Snapshot, TargetPort};
use fusebox_policy::config::{BreakerKey, OutboundRoute, ProxyConfig, RateLimit, Reference, Side, WorkloadId};
use fusebox_policy::report::{BreakerReport, BreakerState};
use fusebox_proxy::{Drained, LogFormat, Options, OutboundSpec, Proxy, ServicePort as Destination};
use jiff::Timestamp;

use crate::arguments::RunArguments;
use crate::manifests;
use crate::terminal::{BAD, CARE, Exit, FAINT, GOOD, STRONG, Styled, Terminal};
use crate::values::Values;

/// How often breakers are looked at for changes.
const LOOK: Duration = Duration::from_millis(20);

/// The port of a Service that is not in the files.
const IMPLIED_PORT: u16 = 80;

/// The workload whose sidecar this process is.
const STANDALONE: &str = "fusebox-run";

/// Runs until Ctrl-C or SIGTERM.
pub(crate) async fn run(arguments: &RunArguments, terminal: &mut Terminal) -> Result<Exit> {
    if std::env::var_os("RUST_LOG").is_some() {
        fusebox_proxy::init_logging(LogFormat::Text);
    }
    let shutdown = fusebox_proxy::termination()?;
    serve(arguments, shutdown, terminal).await
}

/// Runs until `shutdown` ends, then drains.
pub(crate) async fn serve(
    arguments: &RunArguments,
    shutdown: impl Future<Output = ()>,
    terminal: &mut Terminal,
) -> Result<Exit> {
    let sources = manifests::read(&arguments.filenames)?;
    let Some(mut snapshot) = manifests::load_read(&sources, terminal)? else { return Ok(Exit::Failed) };
    let values = Values::read(&sources)?;
    let caller = caller(arguments)?;
    imply_services(&mut snapshot, arguments);
    snapshot.pods = vec![standalone_pod(&caller)];
    values.resolve(&mut snapshot);
    let plan = compile(&snapshot);
    let compiled = plan.workloads.get(&workload(&caller)).context("the files compile to nothing")?;
    let config = compiled.config.clone();
    let proxy = Proxy::start(options(arguments, &snapshot)).await?;
    proxy.apply(&config)?;
    let (known, missing) = values.wanted(&compiled.references);
    proxy.tell_references(known);
    announce(&proxy, &config, terminal)?;
    for (Reference { kind, namespace, name, key }, why) in missing {
        let text = format!("{kind:?} {namespace}/{name}, key {key}: {why}");
        writeln!(terminal.err, "{} {text}", Styled(CARE, "no value of"))?;
    }
    for broken in proxy.state().broken_references {
        let Reference { kind, namespace, name, key } = &broken.reference;
        let text = format!("{kind:?} {namespace}/{name}, key {key}: {}", broken.problem);
        writeln!(terminal.err, "{} {text}", Styled(CARE, "can't use"))?;
    }
    warn(&plan, &config, terminal)?;
    follow(&proxy, shutdown, terminal).await?;
    writeln!(terminal.out, "{}", Styled(FAINT, "draining; requests in flight may finish"))?;
    match proxy.drain().await {
        Drained::Complete => Ok(Exit::Done),
        Drained::CutOff => bail!("some requests did not finish in time and were cut off"),
    }
}

/// Whose calls these are; the upstreams' own namespace unless they have several.
fn caller(arguments: &RunArguments) -> Result<String> {
    if let Some(caller) = &arguments.caller {
        return Ok(caller.clone());
    }
    let namespaces: BTreeSet<_> = arguments.upstream.iter().map(|upstream| &upstream.service.namespace).collect();
    let mut namespaces = namespaces.into_iter();
    match (namespaces.next(), namespaces.next()) {
        (Some(only), None) => Ok(only.clone()),
        _ => bail!("the upstreams are in several namespaces: say with --caller NAMESPACE whose policies apply"),
    }
}

/// Services that only the command line names.
fn imply_services(snapshot: &mut Snapshot, arguments: &RunArguments) {
    let mut implied: BTreeMap<_, BTreeSet<u16>> = BTreeMap::new();
    for upstream in &arguments.upstream {
        if !snapshot.services.iter().any(|service| service.id == upstream.service) {
            implied.entry(upstream.service.clone()).or_default().insert(upstream.port.unwrap_or(IMPLIED_PORT));
        }
    }
    for (id, ports) in implied {
        let ports = ports.into_iter().map(|port| ServicePort {
            name: String::new(),
            port,
            target: TargetPort::Number(port),
            protocol: Protocol::Tcp,
            spoken: fusebox_policy::config::Protocol::Detect,
        });
        snapshot.services.push(Service {
            kind: ServiceKind::ClusterIps(Vec::new()),
            // Its upstreams stand for pods, so that scope Endpoint works as it would in a cluster.
            selector: BTreeMap::from([("app".to_owned(), id.name.clone())]),
            id,
            ports: ports.collect(),
            stray_opaque_ports: Vec::new(),
        });
    }
}

fn workload(namespace: &str) -> WorkloadId {
    WorkloadId { namespace: namespace.to_owned(), kind: "Pod".to_owned(), name: STANDALONE.to_owned() }
}

fn standalone_pod(namespace: &str) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        name: STANDALONE.to_owned(),
        uid: String::new(),
        labels: BTreeMap::new(),
        workload: workload(namespace),
        ports: BTreeMap::new(),
        ready: true,
        sidecar: true,
        injection: Injection::default(),
        terminating: false,
    }
}

/// One Service port for a listener that names none, where there is only one; else the Host header chooses.
fn options(arguments: &RunArguments, snapshot: &Snapshot) -> Options {
    let places = arguments.upstream.iter().flat_map(|upstream| {
        let service = snapshot.services.iter().find(|service| service.id == upstream.service);
        let ports =
            service.into_iter().flat_map(|service| service.ports.iter()).filter(|port| port.protocol == Protocol::Tcp);
        let wanted = ports.filter(move |port| upstream.port.is_none_or(|wanted| wanted == port.port));
        wanted.map(move |port| Destination { service: upstream.service.clone(), port: port.port })
    });
    // Several upstreams of one Service are one place.
    let mut places = places.collect::<BTreeSet<_>>().into_iter();
    let only = places.next().filter(|_| places.next().is_none());
    let outbound = arguments.listen.iter().map(|listen| OutboundSpec {
        listen: listen.listen,
        destination: listen.destination.clone().or_else(|| only.clone()),
    });
    Options {
        outbound: outbound.collect(),
        upstream: arguments.upstream.clone(),
        admin: arguments.admin,
        log_format: LogFormat::Text,
        ..Options::default()
    }
}

fn announce(proxy: &Proxy, config: &ProxyConfig, terminal: &mut Terminal) -> Result<()> {
    for listener in proxy.listeners() {
        let place = match (listener.kind, listener.destination.as_str()) {
            ("admin", _) => "/metrics /health /state".to_owned(),
            (_, "") => "to the Service that the Host header names".to_owned(),
            (_, destination) => format!("to {destination}"),
        };
        writeln!(terminal.out, "{} http://{} {place}", Styled(STRONG, listener.kind), listener.address)?;
    }
    for OutboundRoute { service, port, circuit_breaker, rate_limit, .. } in &config.outbound {
        if let Some(RateLimit { policy, mode, limits, .. }) = rate_limit {
            let names: Vec<&str> = limits.iter().map(|limit| limit.name.as_str()).collect();
            writeln!(
                terminal.out,
                "{} {}/{} on {}/{}:{port} (mode {mode:?}, limits {})",
                Styled(GOOD, "applies"),
                policy.namespace,
                policy.name,
                service.namespace,
                service.name,
                names.join(", ")
            )?;
        }
        let Some(breaker) = circuit_breaker else { continue };
        let rules: Vec<_> =
            breaker.rules.iter().map(|rule| rule.name.as_str()).filter(|name| !name.is_empty()).collect();
        let rules = if rules.is_empty() { String::new() } else { format!(", rules {}", rules.join(", ")) };
        let scope = if breaker.endpoint_scope.is_some() { "scope Endpoint, " } else { "" };
        writeln!(
            terminal.out,
            "{} {}/{} on {}/{}:{port} ({scope}mode {:?}{rules})",
            Styled(GOOD, "applies"),
            breaker.policy.namespace,
            breaker.policy.name,
            service.namespace,
            service.name,
            breaker.mode
        )?;
    }
    terminal.out.flush()?;
    Ok(())
}

/// Names what is in the files and does nothing here.
fn warn(plan: &Plan, config: &ProxyConfig, terminal: &mut Terminal) -> Result<()> {
    for (key, policy) in &plan.policies {
        let id = &key.id;
        let used = config.policies.iter().any(|version| key.is(version));
        for target in policy.targets.iter().filter(|target| !used || target.verdict != Verdict::Accepted) {
            let why = match (policy.side, &target.verdict) {
                (Side::Server, _) => "side Server; this proxy stands on the callers' side".to_owned(),
                (Side::Client, Verdict::Refused(refusal)) => refusal.to_string(),
                (Side::Client, Verdict::Accepted) => {
                    format!("it guards callers in namespace {}; run with --caller {}", id.namespace, id.namespace)
                }
            };
            writeln!(terminal.err, "{} {}/{}: {why}", Styled(CARE, "does not apply"), id.namespace, id.name)?;
        }
    }
    Ok(())
}

/// Prints breakers' changes until it is told to stop.
async fn follow(proxy: &Proxy, shutdown: impl Future<Output = ()>, terminal: &mut Terminal) -> Result<()> {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut look = tokio::time::interval(LOOK);
    let mut known: BTreeMap<BreakerKey, BreakerState> = BTreeMap::new();
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            _ = look.tick() => {}
        }
        let reports = proxy.state().breakers.into_iter().flat_map(|breaker| {
            let members = breaker.endpoints.into_iter().flat_map(|endpoints| endpoints.members);
            iter::once(breaker.report).chain(members.map(|member| member.breaker.report))
        });
        for report in reports {
            let before = known.insert(report.key.clone(), report.state).unwrap_or_default();
            if before != report.state {
                print_change(before, &report, terminal)?;
            }
        }
    }
}

fn print_change(before: BreakerState, report: &BreakerReport, terminal: &mut Terminal) -> Result<()> {
    let (style, state) = match report.state {
        BreakerState::Closed => (GOOD, "Closed"),
        BreakerState::HalfOpen => (CARE, "HalfOpen"),
        BreakerState::Open => (BAD, "Open"),
    };
    let key = &report.key;
    let rule = if key.rule.is_empty() { String::new() } else { format!(" rule {}", key.rule) };
    let endpoint = if key.endpoint.is_empty() { String::new() } else { format!(" endpoint {}", key.endpoint) };
    let time = Timestamp::from_millisecond(report.since_unix_ms).unwrap_or_default();
    writeln!(
        terminal.out,
        "{} {}/{}:{}{rule}{endpoint} {before:?} -> {} {}",
        Styled(FAINT, format!("{time:.3}")),
        key.target.namespace,
        key.target.name,
        key.port,
        Styled(style, state),
        Styled(FAINT, &report.reason)
    )?;
    terminal.out.flush()?;
    Ok(())
}
