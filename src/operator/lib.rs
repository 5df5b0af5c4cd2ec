//! placeholder

pub mod certificates;
pub mod control;
pub mod lease;
pub mod peer;
pub mod token;

#[cfg(test)]
mod cluster_tests;
