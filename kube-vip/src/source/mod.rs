//! What is learnt from outside.

pub mod links;
pub mod neighbours;
pub mod netlink;
#[cfg(test)]
pub(crate) mod testing;
