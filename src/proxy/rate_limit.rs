//! Rate limits of a RateLimit policy, in front of the breaker.
//!
//! It must not decide by itself: the engine does for buckets of this replica, and the store for shared ones.

#[allow(dead_code, unused_imports, reason = "decisions ask it as soon as they are made")]
pub(crate) mod store;
