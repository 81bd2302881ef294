//! Grants: who may answer for a VIP, until when. Pure; every moment is passed in.
//!
//! A grant ends a fixed length, the lease, after the *sending* of the newest heartbeat that a
//! majority of the voters has acknowledged. A voter that has acknowledged one withholds its vote for
//! that long, and for as long after its own start. So a leader that others elect comes after the
//! end of all that was granted before.

mod election;
mod holder;
mod ledger;
mod messages;
mod tenure;
#[cfg(test)]
mod tests;
mod voter;
mod voters;

pub use election::Election;
pub use holder::{Holder, Lease};
pub use ledger::Ledger;
pub use messages::{Answer, Ask, Granted, Held};
pub use tenure::{Claim, MoveError, Tenure};
pub use voter::{Voter, Withheld};
pub use voters::Voters;
