//! The task that keeps the store connected.
//!
//! It must never stand in the way of a decision: it puts finished connections in place, and takes broken ones away. It waits
//! longer each time, and forever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Shared;
use super::error::StoreLost;
use super::link::{Link, Nodes};
use super::patience::Patience;
use super::settings::{Servers, StoreSettings};
use super::topology::Finder;

/// How often Sentinels are asked who is primary, and nodes that are away are tried. A primary that was replaced without noticing
/// is used for so long at most.
const LOOK: Duration = Duration::from_secs(1);

/// How many of those pass between two questions whether an idle server is there, and between two lists of slots.
const LOOKS_PER_QUESTION: u32 = 5;

/// Connections that are looked after are not looked after again sooner.
const BETWEEN_REPAIRS: Duration = Duration::from_millis(100);

/// What ended the watch over a link.
enum End {
    /// There are new credentials.
    Told,
    /// It can't be used any more.
    Broken(StoreLost),
    /// Another server is primary.
    Replaced,
    /// A cluster has changed, or misses a node.
    Changed,
}

/// Runs until it is dropped.
pub(super) async fn keep(shared: Arc<Shared>, mut told: watch::Receiver<Option<Arc<StoreSettings>>>) {
    let mut patience = Patience::default();
    let mut finder = Finder::new(&shared.wake);
    let mut link: Option<Arc<Link>> = None;
    loop {
        let Some(settings) = told.borrow_and_update().clone() else {
            if told.changed().await.is_err() {
                return;
            }
            continue;
        };
        let found = finder.find(&settings, link.as_deref()).await;
        let wait = match found {
            Ok(found) => {
                let found = Arc::new(found);
                shared.connected(Arc::clone(&found));
                let connected = Instant::now();
                let end = watch_over(&shared, (&settings, &found), (&mut finder, &mut told)).await;
                match end {
                    // The old connections serve until the new ones stand, and are never mixed with them.
                    End::Told => {
                        (link, finder) = (None, Finder::new(&shared.wake));
                        continue;
                    }
                    // The old primary may still answer, and counts for nobody any more.
                    End::Replaced => {
                        shared.replacing();
                        link = None;
                        continue;
                    }
                    End::Changed => {
                        link = Some(found);
                        BETWEEN_REPAIRS
                    }
                    End::Broken(error) => {
                        shared.lost(&error);
                        link = None;
                        patience.after_loss(connected, Instant::now())
                    }
                }
            }
            Err(error) => {
                settle(&shared, &error);
                link = None;
                patience.after_failure()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = told.changed() => if changed.is_err() { return },
        }
    }
}

/// After an attempt that failed: connections that still stand are kept.
fn settle(shared: &Shared, error: &StoreLost) {
    let stands = shared.link.load_full().is_some_and(|link| is_usable(&link));
    if stands { shared.warn(error) } else { shared.lost(error) }
}

/// Looks after a link until something has to be done about it.
async fn watch_over(
    shared: &Shared,
    (settings, link): (&StoreSettings, &Link),
    (finder, told): (&mut Finder, &mut watch::Receiver<Option<Arc<StoreSettings>>>),
) -> End {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let mut looks = 0_u32;
    loop {
        tokio::select! {
            // No sender any more is the end of the store, which drops this task.
            _ = told.changed() => return End::Told,
            () = shared.wake.notified() => if let Some(end) = look_after(link, Look::Woken) { return end },
            _ = ticks.tick() => {
                looks = looks.wrapping_add(1);
                let look = if looks.is_multiple_of(LOOKS_PER_QUESTION) { Look::Thorough } else { Look::Quick };
                if let Some(end) = look_after(link, look) {
                    return end;
                }
                if let Some(end) = question(settings, link, (finder, look)).await {
                    return end;
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Woken,
    Quick,
    Thorough,
}

fn look_after(link: &Link, look: Look) -> Option<End> {
    match link {
        Link::Server(connection) if connection.is_usable() => None,
        Link::Server(connection) => Some(End::Broken(StoreLost::Ended { address: connection.address().to_owned() })),
        Link::Cluster(Nodes { connections, missing, .. }) => {
            let all_stand = missing.is_none() && connections.values().all(|connection| connection.is_usable());
            // A node that has a slot no more says so by waking us.
            (look == Look::Woken || look == Look::Thorough || !all_stand).then_some(End::Changed)
        }
    }
}

/// What only the servers know.
async fn question(settings: &StoreSettings, link: &Link, (finder, look): (&mut Finder, Look)) -> Option<End> {
    let Link::Server(connection) = link else { return None };
    if matches!(settings.servers, Servers::Sentinel { .. })
        && let Ok(primary) = finder.primary(settings).await
        && primary.to_string() != connection.address()
    {
        return Some(End::Replaced);
    }
    if look == Look::Thorough
        && let Err(error) = connection.ping(super::connection::ATTEMPT).await
    {
        return Some(End::Broken(error));
    }
    None
}

fn is_usable(link: &Link) -> bool {
    match link {
        Link::Server(connection) => connection.is_usable(),
        Link::Cluster(nodes) => nodes.connections.values().any(|connection| connection.is_usable()),
    }
}
