//! Driver: tells the network where a VIP is.
//!
//! The data plane answers those who ask; this tells those who have an old answer, on taking over
//! and from time to time after that. What leaves here also passes the fence on the way out, which
//! drops frames that name a VIP while it is not owned.

mod announcer;
pub mod frames;
mod pace;
mod socket;

pub use announcer::{Announcer, Wire};
pub use socket::PacketSocket;

#[cfg(test)]
mod tests;
