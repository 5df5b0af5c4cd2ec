//! Injection: a pod that asked for a sidecar, and the same pod with it.
//!
//! It is one pure function, so that golden files can hold every case; the webhook only carries it. It must change nothing
//! that it does not have to, and work on the pod's JSON: fields that this build does not know must survive.

mod draft;
mod facts;
mod options;
mod outbound;
mod ports;
mod probes;
mod sidecar;
mod subject;
mod wishes;

use serde_json::Value;

pub use draft::Operation;
pub use facts::InjectionFacts;
pub use options::{InjectionOptions, InterceptionDefault, OptionsError, PullPolicy};
pub use wishes::Interception;

use draft::Draft;
use subject::Subject;
use wishes::Wishes;

/// The version that the pod's annotation names.
pub const INJECTOR_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A pod that is about to be created.
#[derive(Clone, Copy, Debug)]
pub struct InjectionRequest<'a> {
    /// The namespace it is created in; the pod itself may not say it yet.
    pub namespace: &'a str,
    /// The pod, as JSON.
    pub pod: &'a Value,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// The pod as it should be created.
    pub pod: Value,
    /// What leads from the old pod to the new one; empty where nothing changes.
    pub patch: Vec<Operation>,
    /// What its owner should know, in sentences with the next step.
    pub warnings: Vec<String>,
    /// Whether it has a sidecar now, and if not, why not.
    pub outcome: Outcome,
}

/// Whether a pod got a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did.
    Injected,
    /// It had one from us already; containers that came later are taken in.
    InjectedBefore,
    /// Neither it nor its namespace asked, or it said no.
    NotAsked,
    /// No pod of its namespace gets one, whatever it asks for.
    Exempt,
    /// It brings a sidecar of its own.
    OwnSidecar,
    /// Its namespace asked, and such a pod can't have a sidecar.
    Unable,
}

/// Why a pod that asked for a sidecar is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectionRefusal {
    /// It is no pod.
    #[error("the object is no pod: {problem}")]
    Malformed {
        /// What is wrong.
        problem: String,
    },
    /// It has another mesh's sidecar.
    #[error(
        "the pod has the container {container}: two proxies would take each other's traffic. Turn that injection off for \
         the pod, or label the pod fusebox.dev/inject: disabled"
    )]
    OtherMesh {
        /// The other proxy.
        container: String,
    },
    /// It asked, and can't have one.
    #[error(
        "the pod asks for a sidecar by label fusebox.dev/inject and {problem}, so it can't have one: remove the label, or {fix}"
    )]
    Unable {
        /// Why not.
        problem: &'static str,
        /// What else to do.
        fix: &'static str,
    },
    /// The application wants a port that the sidecar needs.
    #[error(
        "container {container} declares port {port}, which the sidecar needs for {purpose}: let the application listen on another port"
    )]
    PortTaken {
        /// The container.
        container: String,
        /// The port.
        port: u16,
        /// What the sidecar does with it.
        purpose: &'static str,
    },
    /// More named ports than can be taken over.
    #[error(
        "the pod names {count} ports, and explicit interception takes over {limit} at most: remove names that no Service targets, or list ports in annotation fusebox.dev/exclude-inbound-ports"
    )]
    TooManyPorts {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A name that the sidecar needs is used.
    #[error("the pod already has a {kind} called {name}, which the sidecar needs: give it another name")]
    NameTaken {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// An annotation that says nothing.
    #[error("annotation {annotation} of the {on} is {value:?}: {fix}")]
    Annotation {
        /// Which.
        annotation: &'static str,
        /// On what it stands.
        on: &'static str,
        /// What it says.
        value: String,
        /// What to write.
        fix: String,
    },
}

/// The pod with its sidecar, or as it was where it did not ask for one.
///
/// # Errors
/// [`InjectionRefusal`] where it asked and can't have one.
pub fn inject(
    request: &InjectionRequest<'_>,
    facts: &InjectionFacts<'_>,
    options: &InjectionOptions,
) -> Result<Injection, InjectionRefusal> {
    let subject = Subject::read(request)?;
    if let Some(left) = subject.left_alone(facts)? {
        return Ok(left);
    }
    subject.refuse_other_meshes()?;
    let wishes = Wishes::read(&subject, facts, options)?;
    ports::check(&subject, &wishes)?;
    let mut draft = Draft::of(request.pod);
    let mut container = match subject.own_sidecar() {
        Some(index) => draft.take_init_container(index),
        None => {
            sidecar::check_names(&subject)?;
            draft.warn_all(wishes.warnings(&subject, facts));
            sidecar::container(&subject, &wishes, options)
        }
    };
    match wishes.interception {
        Interception::Transparent => probes::proxy(&subject, &mut draft, &mut container),
        Interception::Explicit => explicit(&subject, (facts, options), &wishes, (&mut draft, &mut container))?,
    }
    draft.delay_shutdown(&subject, &wishes)?;
    draft.place(container, sidecar::redirect(&wishes, options), &subject, wishes.interception);
    draft.finish_metadata(wishes.interception);
    Ok(draft.finish(request.pod, subject.outcome()))
}

/// Named ports and probes, and on the first pass host aliases, which stay as they were for the pod's life.
fn explicit(
    subject: &Subject<'_>,
    (facts, options): (&InjectionFacts<'_>, &InjectionOptions),
    wishes: &Wishes,
    (draft, container): (&mut Draft, &mut Value),
) -> Result<(), InjectionRefusal> {
    probes::number(subject, draft);
    ports::take(subject, wishes, (draft, container))?;
    ports::warn_of_numbers(subject, facts, draft);
    if subject.own_sidecar().is_none() {
        outbound::lead(subject, (facts, options), wishes, (draft, container));
    }
    Ok(())
}

impl InjectionRefusal {
    /// A stable word for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "Malformed",
            Self::OtherMesh { .. } => "OtherMesh",
            Self::Unable { .. } => "Unable",
            Self::PortTaken { .. } => "PortTaken",
            Self::TooManyPorts { .. } => "TooManyPorts",
            Self::NameTaken { .. } => "NameTaken",
            Self::Annotation { .. } => "Annotation",
        }
    }
}

impl Outcome {
    /// A stable word for metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Injected => "Injected",
            Self::InjectedBefore => "InjectedBefore",
            Self::NotAsked => "NotAsked",
            Self::Exempt => "Exempt",
            Self::OwnSidecar => "OwnSidecar",
            Self::Unable => "Unable",
        }
    }
}

#[cfg(test)]
mod tests;
