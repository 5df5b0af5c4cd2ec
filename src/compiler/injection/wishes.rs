//! What pod, namespace and installation want, one word for each question.
//!
//! The pod's annotation beats the namespace's, and that beats the options. A word that can't be read is refused: to guess
//! would be to leave traffic unguarded, or to guard what was to be left alone.

use std::collections::BTreeSet;

use fusebox_api::duration::Duration;
use fusebox_api::names::{
    EXCLUDE_INBOUND_PORTS_ANNOTATION, EXCLUDE_OUTBOUND_PORTS_ANNOTATION, EXPLICIT, INTERCEPTION_ANNOTATION,
    SHUTDOWN_DELAY_ANNOTATION, SIDECAR_UID, TRANSPARENT,
};

use super::{InjectionFacts, InjectionOptions, InjectionRefusal, InterceptionDefault, Subject};
use crate::snapshot::Namespace;

/// The label by which a namespace enforces Pod Security.
const POD_SECURITY_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// How long a pod gets to end unless it says otherwise, in seconds.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// How traffic reaches the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interception {
    /// All TCP traffic is redirected.
    Transparent,
    /// Named ports and host aliases lead there.
    Explicit,
}

/// What was asked for.
pub(super) struct Wishes {
    pub(super) interception: Interception,
    pub(super) exclude_inbound: BTreeSet<u16>,
    pub(super) exclude_outbound: BTreeSet<u16>,
    pub(super) delay: ShutdownDelay,
}

/// How long containers go on serving.
pub(super) struct ShutdownDelay {
    pub(super) seconds: i64,
    /// How long the pod gets to end.
    pub(super) grace_seconds: i64,
}

impl Wishes {
    pub(super) fn read(
        subject: &Subject<'_>,
        facts: &InjectionFacts<'_>,
        options: &InjectionOptions,
    ) -> Result<Self, InjectionRefusal> {
        Ok(Self {
            interception: interception(subject, facts.namespace, options.interception)?,
            exclude_inbound: ports(subject, EXCLUDE_INBOUND_PORTS_ANNOTATION, &options.exclude_inbound_ports)?,
            exclude_outbound: ports(subject, EXCLUDE_OUTBOUND_PORTS_ANNOTATION, &options.exclude_outbound_ports)?,
            delay: shutdown_delay(subject, options)?,
        })
    }

    /// What works and may not be what was meant.
    pub(super) fn warnings(&self, subject: &Subject<'_>, facts: &InjectionFacts<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.interception == Interception::Explicit {
            return warnings;
        }
        if let Some(level) = facts.namespace.and_then(forbidding_level) {
            warnings.push(format!(
                "transparent interception needs NET_ADMIN, which Pod Security {level} forbids in this namespace: set \
                 annotation {INTERCEPTION_ANNOTATION}: {EXPLICIT}"
            ));
        }
        let pod_user = subject.spec.security_context.as_ref().and_then(|it| it.run_as_user);
        for container in subject.others() {
            let own = container.security_context.as_ref().and_then(|it| it.run_as_user);
            if own.or(pod_user) == Some(SIDECAR_UID) {
                warnings.push(format!(
                    "container {} runs as user {SIDECAR_UID}, the sidecar's own, so its calls pass by the sidecar: choose another runAsUser",
                    container.name
                ));
            }
        }
        warnings
    }
}

impl Interception {
    /// As it stands in the annotation.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Transparent => TRANSPARENT,
            Self::Explicit => EXPLICIT,
        }
    }

    fn parse(word: &str, on: &'static str) -> Result<Self, InjectionRefusal> {
        match word {
            TRANSPARENT => Ok(Self::Transparent),
            EXPLICIT => Ok(Self::Explicit),
            _ => Err(InjectionRefusal::Annotation {
                annotation: INTERCEPTION_ANNOTATION,
                on,
                value: word.to_owned(),
                fix: format!("write {TRANSPARENT} or {EXPLICIT}"),
            }),
        }
    }
}

fn interception(
    subject: &Subject<'_>,
    namespace: Option<&Namespace>,
    default: InterceptionDefault,
) -> Result<Interception, InjectionRefusal> {
    if let Some(word) = subject.annotations.get(INTERCEPTION_ANNOTATION) {
        return Interception::parse(word, "pod");
    }
    if let Some(word) = namespace.and_then(|namespace| namespace.interception.as_deref()) {
        return Interception::parse(word, "namespace");
    }
    Ok(match default {
        InterceptionDefault::Transparent => Interception::Transparent,
        InterceptionDefault::Explicit => Interception::Explicit,
        InterceptionDefault::Auto => match namespace.and_then(forbidding_level) {
            Some(_) => Interception::Explicit,
            None => Interception::Transparent,
        },
    })
}

/// The Pod Security level of a namespace, where it forbids NET_ADMIN.
fn forbidding_level(namespace: &Namespace) -> Option<&str> {
    let level = namespace.labels.get(POD_SECURITY_LABEL)?;
    matches!(level.as_str(), "baseline" | "restricted").then_some(level.as_str())
}

/// The ports that the installation leaves out, and those that the pod does.
fn ports(subject: &Subject<'_>, annotation: &'static str, default: &[u16]) -> Result<BTreeSet<u16>, InjectionRefusal> {
    let mut found: BTreeSet<u16> = default.iter().copied().collect();
    let Some(list) = subject.annotations.get(annotation) else { return Ok(found) };
    for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let port = word.parse().ok().filter(|port| *port > 0);
        found.insert(port.ok_or_else(|| InjectionRefusal::Annotation {
            annotation,
            on: "pod",
            value: list.clone(),
            fix: format!("{word:?} is no port; write port numbers separated by commas, such as 5432,6379"),
        })?);
    }
    Ok(found)
}

fn shutdown_delay(subject: &Subject<'_>, options: &InjectionOptions) -> Result<ShutdownDelay, InjectionRefusal> {
    let annotation = subject.annotations.get(SHUTDOWN_DELAY_ANNOTATION);
    let refuse = |value: &str, fix: String| InjectionRefusal::Annotation {
        annotation: SHUTDOWN_DELAY_ANNOTATION,
        on: "pod",
        value: value.to_owned(),
        fix,
    };
    let delay: Duration = match annotation {
        None => options.shutdown_delay,
        Some(text) => {
            text.parse().map_err(|_| refuse(text, "write a duration such as 5s, or 0s for none".to_owned()))?
        }
    };
    let seconds = i64::try_from(delay.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
    let grace_seconds = subject.spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    if let Some(text) = annotation.filter(|_| seconds > 0 && seconds >= grace_seconds) {
        let fix = format!(
            "it must be less than terminationGracePeriodSeconds, which is {grace_seconds}: write a shorter one, or give the pod more time"
        );
        return Err(refuse(text, fix));
    }
    Ok(ShutdownDelay { seconds, grace_seconds })
}
