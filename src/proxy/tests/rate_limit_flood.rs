//! Thousands of keys that come once each through a listener, beside one that keeps to its quota. `make flood` sends ten million.

use std::sync::atomic::{AtomicU64, Ordering};

use fusebox_policy::config::Rate;

use super::rate_limit_support::{SLOW, limit, limited, limits, send_on, statuses};
use super::support::{Client, Upstream, proxy};

/// Far more than there are places.
const KEYS: u64 = 2_000;
const PLACES: u32 = 500;
const CONNECTIONS: u64 = 8;

#[tokio::test]
async fn a_flood_of_keys_takes_nothing_from_a_client_with_a_quota_and_gives_it_nothing() {
    let upstream = Upstream::start().await;
    let mut each_key = limit("each-key", 1);
    each_key.rules[0].rate = Rate { requests: 1, per_ms: SLOW, burst: 20 };
    let mut settings = limited(upstream.address, vec![each_key]);
    limits(&mut settings).max_tracked_keys = PLACES;
    let (_proxy, address) = proxy(&settings).await;

    assert_eq!(statuses(address, "good", 10).await, [200; 10]);
    let passed = AtomicU64::new(0);
    let flood = async |connection: u64| {
        let mut client = Client::connect(address).await;
        for number in (connection..KEYS).step_by(CONNECTIONS as usize) {
            let key = format!("flood-{number}");
            let status = send_on(&mut client, "/", &[("x-api-key", &key)]).await.status.as_u16();
            assert!([200, 429].contains(&status), "{status}");
            passed.fetch_add(u64::from(status == 200), Ordering::Relaxed);
        }
    };
    futures::future::join_all((0..CONNECTIONS).map(flood)).await;
    // Every place but the good client's has one of them; all others share one bucket of 20.
    assert_eq!(passed.into_inner(), u64::from(PLACES) - 1 + 20);
    assert_eq!(statuses(address, "good", 10).await, [200; 10], "what it had left is still its own");
    assert_eq!(statuses(address, "good", 1).await, [429], "and it got no fresh bucket");
}
