//! What a proxy starts from: the breakers that an earlier process left, and the configuration file.
//!
//! Neither may keep it from starting: what can't be read is said in health and metrics, and traffic flows without it.

use std::sync::Arc;
use std::time::Instant;

use crate::enforcer::Enforcer;
use crate::health::{Component, Health};
use crate::options::Options;
use crate::state_file::{Keeper, Saved};
use crate::{bootstrap, clock};

/// Reads what an earlier process left of its breakers; who keeps it from now on, if that is wanted.
pub(super) async fn recall(options: &Options, enforcer: &Arc<Enforcer>, health: &Arc<Health>) -> Option<Keeper> {
    let path = options.state_file.clone()?;
    let shown = path.display().to_string();
    let reading = path.clone();
    let read = tokio::task::spawn_blocking(move || Saved::read(&reading, clock::unix_now_ms(), Instant::now())).await;
    let (result, note) = match read {
        Ok(Ok(Some(saved))) => {
            tracing::info!(path = shown, breakers = saved.len(), "state file read");
            enforcer.recall(saved);
            ("restored", String::new())
        }
        Ok(Ok(None)) => ("missing", String::new()),
        Ok(Err(error)) => (error.reason(), error.to_string()),
        Err(_) => ("unreadable", "state file could not be read to its end".to_owned()),
    };
    enforcer.counters().read_state_file(result);
    let note = if note.is_empty() { note } else { format!("{shown}: {note}; all breakers started closed") };
    if !note.is_empty() {
        tracing::error!(path = shown, reason = result, error = note, "state file is not used; starting clean");
        health.state_file(Component::degraded(note.clone()));
    }
    Some(Keeper::new(path, enforcer, health, note))
}

/// Enforces the configuration file, if there is one that can be enforced.
pub(super) async fn load_file(options: &Options, enforcer: &Arc<Enforcer>, health: &Health) {
    let Some(path) = options.config.clone() else { return };
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || bootstrap::read_config(&path)).await;
    let problem = match read {
        Ok(Ok(Some(config))) => enforcer.apply(&config, &config.revision()).err().map(|error| error.to_string()),
        Ok(Ok(None)) => {
            tracing::info!(path = shown, "no configuration file yet; starting without policies");
            None
        }
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("configuration file could not be read to its end".to_owned()),
    };
    if let Some(problem) = problem {
        enforcer.counters().refused_config();
        tracing::error!(path = shown, error = problem, "configuration file is not used; starting without policies");
        health.config(Component::degraded(format!(
            "{shown}: {problem}; starting without policies until the operator sends them"
        )));
    }
}
