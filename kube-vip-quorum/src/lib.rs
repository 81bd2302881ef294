//! Agreement among hosts about who owns each VIP, and bounds that make two owners impossible.
//!
//! ```text
//! who owns what (the log)      for how long (grants)             the wire and the disk
//!   cluster   assign             grant: voter tenure holder        transport   store
//!        └────────── raft ─────────────────┴───────────────────────────┴────────┘
//!                                         node
//! ```
//!
//! `cluster`, `assign` and `grant` are pure: no I/O, no clock of their own, every moment is passed
//! in. `docs/quorum.md` has the protocol and why it is safe.

#![forbid(unsafe_code)]

pub mod assign;
pub mod cluster;
pub mod grant;
pub mod node;
pub mod raft;
pub mod store;
pub mod time;
pub mod transport;
