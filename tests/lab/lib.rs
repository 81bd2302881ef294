//! The lab: hosts on one machine that behave like hosts, joined by links, with faults to inject.
//!
//! Every host has network, mounts, name and cgroup of its own, kept by one holder process; the
//! bridges between them live in a namespace of their own too. Nothing is made in the machine's
//! own network, several labs at once do not meet, and a lab whose process dies, of whatever,
//! is cleared away by its reaper.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use lab::{Burst, Cluster, VIPS, web};
//!
//! // Nodes n1, n2, n3 with agents and backends, and a client c1.
//! Cluster::run(3, web, |cluster| {
//!     cluster.lab.partition(&["n2"], &["n1", "n3"])?;
//!     cluster.lab.heal()?;
//!     let report = cluster.client.connect(Burst::new((VIPS[0], 80), 1000))?;
//!     report.expect_even(&["n1", "n2", "n3"], 0.2)
//! })
//! # }
//! ```

mod agent;
mod agents;
mod background;
mod build;
mod capture;
mod cgroup;
mod client;
mod cluster;
mod config;
mod connection;
mod content;
mod dice;
mod election;
mod fault;
mod flood;
mod foreign;
mod frame;
mod host;
mod inspect;
mod intervals;
mod links;
mod net;
mod observer;
mod process;
mod questions;
mod reaper;
mod refusal;
mod report;
mod server;
mod site;
mod sys;
mod topology;
mod wait;
mod web;
mod worker;

pub use agent::{Agent, Launch, PATIENCE, program};
pub use agents::{Agents, Setup};
pub use build::{Lab, VIPS};
pub use capture::{Capture, Captured};
pub use client::{Burst, Client};
pub use cluster::{BACKEND_PORT, Cluster, web};
pub use config::{Balancer, Config, Peer, Transport, backends};
pub use connection::{Attempt, Connection, Who, ask_by_datagram};
pub use dice::Dice;
pub use election::{SECRET, STATE_DIR, by_quorum, electing};
pub use flood::Flood;
pub use foreign::{Foreign, experiment};
pub use frame::{Mac, Seen, What, advertisement, arp_reply, arp_request, solicitation};
pub use host::Host;
pub use inspect::{Counters, Entry, Snapshot};
pub use intervals::{Interval, Intervals, expect_one_owner};
pub use links::Stacked;
pub use observer::{Heard, WINDOW, Watch, owner, who_has};
pub use process::Process;
pub use questions::{Question, Questions, expect_one_answer, outage};
pub use refusal::Refusal;
pub use report::{Failure, Progress, Report};
pub use server::Server;
pub use site::Site;
pub use topology::Topology;
pub use wait::eventually;
pub use web::{Authority, Web};
pub use worker::Worker;
