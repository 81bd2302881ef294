//! What is learnt from outside.

pub mod file;
pub mod health;
pub mod links;
pub mod neighbours;
pub mod netlink;
#[cfg(test)]
pub(crate) mod testing;
