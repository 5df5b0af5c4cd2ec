//! The breakers of each pod as a table, from the operations API.
//!
//! One line for each breaker; what a pod has not said is shown as such and never left out.

use std::io::Write;

use anyhow::Result;
use fusebox_api::operations::{BreakerState, CircuitBreakerState, Enforcers, LiveState, PodState, State as _};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::arguments::StatusOutput;
use crate::table::{self, Cell};
use crate::terminal::{BAD, CARE, FAINT, GOOD, Styled};

/// Prints the pods of these policies.
pub(crate) fn print<'a>(
    states: impl Iterator<Item = &'a CircuitBreakerState> + Clone,
    output: StatusOutput,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<()> {
    let lines = states.clone().flat_map(|state| state.enforcers.pods.iter().flat_map(move |pod| lines(state, pod)));
    writeln!(out)?;
    if output == StatusOutput::Wide {
        let rows: Vec<_> = lines.map(|line| wide(&line, now)).collect();
        let headings = [
            "POLICY",
            "POD",
            "TARGET",
            "RULE",
            "STATE",
            "FAIL%",
            "TRIPS",
            "NEXT-PROBE",
            "CONNECTED",
            "REASON",
            "ENDPOINT",
            "PORT",
            "REJECTED",
            "WORKLOAD",
            "CURRENT",
            "REVISION",
        ];
        table::write(out, headings, &rows)?;
    } else {
        let rows: Vec<_> = lines.map(|line| narrow(&line, now)).collect();
        let headings = ["POLICY", "POD", "TARGET", "RULE", "STATE", "FAIL%", "TRIPS", "NEXT-PROBE", "CONNECTED"];
        table::write(out, headings, &rows)?;
    }
    for state in states {
        print_rest(state, out)?;
    }
    Ok(())
}

/// What does not fit into lines.
fn print_rest(state: &CircuitBreakerState, out: &mut dyn Write) -> Result<()> {
    let name = format!("{}/{}", state.metadata.namespace, state.metadata.name);
    for elsewhere in &state.enforcers.elsewhere {
        let text = format!(
            "{} pods of namespace {} enforce it too: {} Ready, {} of them with the newest policy, {} open",
            elsewhere.pods, elsewhere.namespace, elsewhere.ready, elsewhere.current, elsewhere.more.open
        );
        writeln!(out, "{name}: {text}")?;
    }
    for pod in state.enforcers.pods.iter().filter(|pod| !pod.refused.is_empty()) {
        writeln!(
            out,
            "{name}: {}",
            Styled(CARE, format!("pod {} refused its configuration: {}", pod.name, pod.refused))
        )?;
    }
    missing(&state.enforcers, ("breakers", CircuitBreakerState::MOST))
        .try_for_each(|text| writeln!(out, "{name}: {}", Styled(CARE, text)))?;
    Ok(())
}

/// What an answer leaves out, in sentences; it has room for so `most` breakers, limits or the like.
pub(crate) fn missing<P, M>(enforcers: &Enforcers<P, M>, (what, most): (&str, usize)) -> impl Iterator<Item = String> {
    let settling = "the operator has just begun to listen: some pods have not spoken yet".to_owned();
    let cut = format!("not all {what} are shown: an answer has room for {most}");
    enforcers.incomplete.then_some(settling).into_iter().chain(enforcers.truncated.then_some(cut))
}

/// One breaker with what it belongs to; none where the pod has none.
struct Line<'a> {
    state: &'a CircuitBreakerState,
    pod: &'a PodState,
    breaker: Option<&'a BreakerState>,
}

fn lines<'a>(state: &'a CircuitBreakerState, pod: &'a PodState) -> Vec<Line<'a>> {
    if pod.breakers.is_empty() {
        return vec![Line { state, pod, breaker: None }];
    }
    pod.breakers.iter().map(|breaker| Line { state, pod, breaker: Some(breaker) }).collect()
}

fn narrow(line: &Line<'_>, now: Timestamp) -> [Cell; 9] {
    let Line { state, pod, breaker } = line;
    let of = |text: fn(&BreakerState) -> String| breaker.map_or_else(|| "-".to_owned(), text);
    let target = |breaker: &BreakerState| breaker.target.to_string();
    let rule =
        |breaker: &BreakerState| if breaker.rule.is_empty() { "(rest)".to_owned() } else { breaker.rule.clone() };
    let percent =
        |breaker: &BreakerState| breaker.failure_percent.map_or_else(|| "-".to_owned(), |it| format!("{it:.0}"));
    let next =
        breaker.and_then(|breaker| breaker.next_probe.as_ref()).map(|time| format!("in {}", table::age(now, time.0)));
    [
        format!("{}/{}", state.metadata.namespace, state.metadata.name).into(),
        pod.name.clone().into(),
        of(target).into(),
        of(rule).into(),
        state_cell(*breaker),
        of(percent).into(),
        of(|breaker| breaker.trips.to_string()).into(),
        next.unwrap_or_else(|| "-".to_owned()).into(),
        connected(pod, now),
    ]
}

fn wide(line: &Line<'_>, now: Timestamp) -> [Cell; 16] {
    let [policy, pod, target, rule, state, percent, trips, next, connected] = narrow(line, now);
    let of = |text: fn(&BreakerState) -> String| line.breaker.map_or_else(String::new, text);
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    [
        policy,
        pod,
        target,
        rule,
        state,
        percent,
        trips,
        next,
        connected,
        or_none(of(|breaker| breaker.reason.clone())).into(),
        or_none(of(|breaker| breaker.endpoint.clone())).into(),
        or_none(of(|breaker| breaker.port.to_string())).into(),
        or_none(of(|breaker| breaker.rejected.to_string())).into(),
        line.pod.workload.clone().into(),
        Cell::styled(line.pod.current.to_string(), if line.pod.current { GOOD } else { CARE }),
        or_none(line.pod.revision.clone()).into(),
    ]
}

fn state_cell(breaker: Option<&BreakerState>) -> Cell {
    let Some(breaker) = breaker else { return "-".into() };
    let style = match breaker.state {
        LiveState::Open => BAD,
        LiveState::HalfOpen => CARE,
        LiveState::Closed => GOOD,
        LiveState::Unknown => FAINT,
    };
    Cell::styled(format!("{:?}", breaker.state), style)
}

fn connected(pod: &PodState, now: Timestamp) -> Cell {
    match &pod.connected_since {
        Some(Time(since)) => table::age(*since, now).into(),
        None => Cell::styled("no", CARE),
    }
}
