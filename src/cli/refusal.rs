//! What people are told when the cluster refuses: what it means, and the step that helps.
//!
//! Who lacks a right is told the role and the command that grants it, to hand on to somebody who may. The command must hold
//! nothing of the answer that a shell would take for more than a name.

use std::fmt;

use kube::Error;
use kube::core::Status;

/// A role that people are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads policies, states and explanations.
    View,
    /// Forces breakers, and lets clients go.
    Operate,
    /// Writes policies.
    Admin,
    /// Reads Services and pods too, as the compiler must.
    ClusterView,
}

/// What the API server answered, in its own words and nothing else of it.
#[derive(Debug)]
struct Answer(Box<Status>);

/// The API server's answer with the step that helps; `role` is what the request needs.
pub(crate) fn explained(error: Error, role: Role) -> anyhow::Error {
    let advice = match &error {
        Error::Api(status) if status.code == 404 => {
            "the cluster does not know CircuitBreakerPolicy: install the resources with `kubectl apply -f crds/`"
                .to_owned()
        }
        Error::Api(status) if status.code == 403 => role.asked_for(status),
        Error::Api(status) if status.code == 401 => "log in again: the cluster does not know this user".to_owned(),
        Error::Api(status) if status.code == 409 => managed(),
        Error::Api(_) => "the API server refused".to_owned(),
        _ => "the API server can't be reached: check the address in the kubeconfig".to_owned(),
    };
    in_words(error).context(advice)
}

/// The same of the operations API.
pub(crate) fn explained_by_operations(error: Error, role: Role) -> anyhow::Error {
    let advice = match &error {
        Error::Api(status) if status.code == 404 => {
            "`fusebox status` lists all policies, -n chooses the namespace".to_owned()
        }
        Error::Api(status) if status.code == 503 => {
            "the operator is not ready: look at its pods, or try again".to_owned()
        }
        Error::Api(status) if [400, 422].contains(&status.code) => "the operator refused".to_owned(),
        _ => return explained(error, role),
    };
    in_words(error).context(advice)
}

/// Whether the cluster does not know what was asked for.
pub(crate) fn is_unknown(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Answer>().is_some_and(|Answer(status)| status.code == 404)
}

/// Whether an error is for want of a right, so that waiting can't help.
pub(crate) fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 403)
}

fn managed() -> String {
    "somebody else manages spec.override: change it there, or pass --take-over".to_owned()
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl std::error::Error for Answer {}

fn in_words(error: Error) -> anyhow::Error {
    match error {
        Error::Api(status) => anyhow::Error::new(Answer(status)),
        other => anyhow::Error::new(other),
    }
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::View => "fusebox-view",
            Self::Operate => "fusebox-operate",
            Self::Admin => "fusebox-admin",
            Self::ClusterView => "view",
        }
    }

    /// The role of every cluster that has it as a part.
    const fn part_of(self) -> &'static str {
        match self {
            Self::View => " (it is part of view)",
            Self::Operate | Self::Admin => " (it is part of edit)",
            Self::ClusterView => "",
        }
    }

    /// What to ask for, and the command with which somebody who may grants it.
    fn asked_for(self, refused: &Status) -> String {
        let message = refused.message.as_str();
        let (role, part_of) = (self.name(), self.part_of());
        let user = quoted(message, "User ").unwrap_or("NAME");
        let subject = match user.strip_prefix("system:serviceaccount:") {
            Some(account) => format!("--serviceaccount={account}"),
            None => format!("--user={user}"),
        };
        let binding = format!("{role}-{user} --clusterrole={role} {subject}");
        match quoted(message, "in the namespace ") {
            Some(namespace) => format!(
                "ask for ClusterRole {role} in this namespace{part_of}: `kubectl create rolebinding {binding} -n {namespace}`"
            ),
            None => format!(
                "ask for ClusterRole {role} in all namespaces{part_of}: `kubectl create clusterrolebinding {binding}`; -n asks for one namespace only"
            ),
        }
    }
}

/// The name in quotes that follows these words, as the API server writes it.
fn quoted<'a>(message: &'a str, words: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(words)?;
    let (name, _) = rest.strip_prefix('"')?.split_once('"')?;
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.@:".contains(letter);
    Some(name).filter(|name| !name.is_empty() && name.chars().all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(role: Role, message: &str) -> String {
        role.asked_for(&Status { message: message.to_owned(), ..Status::default() })
    }

    #[test]
    fn who_lacks_a_right_is_told_the_command_that_grants_it() {
        let message = r#"circuitbreakerpolicies.fusebox.dev is forbidden: User "jane@example.com" cannot list resource "circuitbreakerpolicies" in API group "fusebox.dev" in the namespace "shop""#;
        let command = "`kubectl create rolebinding fusebox-view-jane@example.com --clusterrole=fusebox-view --user=jane@example.com -n shop`";
        assert!(advice(Role::View, message).contains(command), "{}", advice(Role::View, message));
        let message = r#"x is forbidden: User "system:serviceaccount:ci:deployer" cannot list resource "pods" in API group "" at the cluster scope"#;
        let command = "`kubectl create clusterrolebinding view-system:serviceaccount:ci:deployer --clusterrole=view --serviceaccount=ci:deployer`";
        assert!(advice(Role::ClusterView, message).contains(command), "{}", advice(Role::ClusterView, message));
    }

    #[test]
    fn what_a_shell_would_take_for_more_than_a_name_is_left_out() {
        for name in ["a`reboot`", "a b", "$HOME", "a;b", "a'b", "\u{202e}a", ""] {
            let message = format!("forbidden: User \"{name}\" cannot get resource in the namespace \"{name}\"");
            let advice = advice(Role::Operate, &message);
            assert!(advice.contains("fusebox-operate-NAME --clusterrole=fusebox-operate --user=NAME"), "{advice}");
        }
    }
}
