//! RateLimits on a real API server: applied, carried, acknowledged, shown, and what policies name and people ask.

mod missing_crd;
mod references;
mod scene;
mod shown;
mod unblock;
