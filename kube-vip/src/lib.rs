//! The agent: it learns what is (sources), decides what should be (plan) and makes it so (drivers).
//!
//! ```text
//! source ──> View ──plan()──> Desired ──> drivers: address, dataplane, announce, publish
//! ```
//!
//! Nothing flows back but observations, which become part of the next [`view::View`].

pub mod address;
pub mod agent;
pub mod announce;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod election;
#[doc(hidden)]
pub mod fuzzing;
mod instance;
pub mod logging;
pub mod observe;
pub mod peers;
pub mod plan;
pub mod proxy;
pub mod publish;
mod requests;
pub mod source;
mod status;
pub mod view;

#[cfg(test)]
mod testing;
