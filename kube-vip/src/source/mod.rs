//! What is learnt from outside.

pub mod file;
pub mod links;
pub mod neighbours;
pub mod netlink;

use rtnetlink::packet_route::RouteNetlinkMessage;

#[cfg(test)]
pub(crate) mod testing;

/// Reads a message of the kernel's in every way that anything here reads one.
pub(crate) fn read(message: RouteNetlinkMessage) {
    let _ = neighbours::read(&message);
    let _ = links::assemble(vec![message.clone()], vec![message]);
}
