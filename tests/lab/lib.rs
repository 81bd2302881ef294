//! The lab: hosts on one machine that behave like hosts, joined by links, with faults to inject.
//!
//! Every host has network, mounts, name and cgroup of its own, kept by one holder process; the
//! bridges between them live in a namespace of their own too. Nothing is made in the machine's
//! own network, several labs at once do not meet, and a lab whose process dies, of whatever,
//! is cleared away by its reaper.

mod build;
mod cgroup;
mod client;
mod connection;
mod content;
mod frame;
mod host;
mod net;
mod process;
mod reaper;
mod report;
mod server;
mod sys;
mod topology;

pub use build::{Lab, VIPS};
pub use client::{Burst, Client};
pub use connection::{Attempt, Connection, Who, ask_by_datagram};
pub use frame::{Mac, Seen, What, arp_request, solicitation};
pub use host::Host;
pub use process::Process;
pub use report::{Failure, Progress, Report};
pub use server::Server;
pub use topology::Topology;
