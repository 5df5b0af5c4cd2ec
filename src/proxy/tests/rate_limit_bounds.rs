//! What bounds limits in a proxy: how many keys they track, how many requests wait, how much is told of them.

use super::rate_limit_support::{limit, limited, limits, statuses};
use super::support::{Upstream, proxy};

#[tokio::test]
async fn a_changed_number_of_tracked_keys_counts_for_buckets_in_use_and_hands_out_nothing() {
    let upstream = Upstream::start().await;
    let mut settings = limited(upstream.address, vec![limit("per-key", 1)]);
    limits(&mut settings).max_tracked_keys = 1;
    let (proxy, address) = proxy(&settings).await;
    let tracked = || proxy.state().limits[0].report.tracked_keys;
    assert_eq!(statuses(address, "ada", 2).await, [200, 429]);
    assert_eq!(statuses(address, "bob", 1).await, [200], "from the bucket that all without a place share");
    assert_eq!((statuses(address, "eve", 1).await, tracked()), (vec![429], 1));

    limits(&mut settings).max_tracked_keys = 1_000_000;
    proxy.apply(&settings).unwrap();
    let mut passed = Vec::new();
    for key in ["eve", "eva", "evi"] {
        passed.extend(statuses(address, key, 2).await);
    }
    // What bob spent is remembered in one of 4096 cells, and one of them might share it.
    let passed = passed.into_iter().filter(|status| *status == 200).count();
    assert!((2..=3).contains(&passed), "{passed} passed: there is a place for each now");
    assert_eq!(statuses(address, "ada", 1).await, [429], "and no fresh bucket for who had one");
    assert_eq!((statuses(address, "bob", 1).await, tracked()), (vec![429], 5), "nor for who spent from the shared one");

    limits(&mut settings).max_tracked_keys = 1;
    proxy.apply(&settings).unwrap();
    for key in ["ada", "bob", "eve", "eva", "evi"] {
        assert_eq!(statuses(address, key, 1).await, [429], "{key} was forgotten with the bound");
    }
    assert_eq!(statuses(address, "new", 1).await, [429], "the shared bucket is as it was");
    assert_eq!(tracked(), 5, "until they are full");
}
