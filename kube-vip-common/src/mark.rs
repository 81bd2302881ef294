//! The mark on frames between agents: "from an agent, position n", in the TTL or hop limit.
//!
//! It neither changes the source Ethernet address (virtual switches reject forged ones) nor
//! lengthens the frame. A value in the range proves nothing by itself: it is believed only from a
//! known agent's Ethernet address, for a client that is not that host.
//!
//! What is not believed may come from far away, or from an agent that this host does not know yet.
//! It goes on like a client's packet, but at the [`LAST`] position, so that nobody sends it further.
//! That one is believed from anybody, but by the owner, to whom clients send: so however little
//! hosts know of each other, a packet ends. [`history`](crate::history) counts the hosts it visits.

/// First value of the reserved range. Senders start at 64, 128 or 255 (IANA IP Option Numbers,
/// "IP TIME TO LIVE PARAMETER"), so a packet gets here only from 8 to 15 routers away.
const FIRST: u8 = 240;

/// Positions that fit into the range; [`history`](crate::history) says what they mean.
pub const POSITIONS: u8 = 8;

/// The position after which nobody follows.
pub const LAST: u8 = 4;

/// What the delivering host sets TTL and hop limit to, so that the kernel sees an ordinary packet.
pub const ORDINARY_TTL: u8 = 64;

/// The TTL of an agent's own packets to backends, which are not to be balanced; believed where the
/// mark is, but from the agent's own address. Below the range: routers only lead away from it.
pub const PROBE_TTL: u8 = FIRST - 1;

/// The priority (`SO_PRIORITY`) of an agent's sockets to backends, by which programs at cgroups know
/// them: no class of any queue, and best effort where only its lower bits count.
pub const PROBE_PRIORITY: u32 = 0x6b70;

/// The TTL of a frame on its way to the agent at `position`.
#[inline(always)]
pub const fn ttl(position: u8) -> u8 {
    FIRST + (position & (POSITIONS - 1))
}

/// The position that a TTL names, if it is in the range.
#[inline(always)]
pub const fn position(ttl: u8) -> Option<u8> {
    match ttl.wrapping_sub(FIRST) {
        position if position < POSITIONS => Some(position),
        _ => None,
    }
}

/// The position of a packet that no agent is known to have sent, on its way to the first.
#[inline(always)]
pub const fn entry(ttl: u8) -> u8 {
    match position(ttl) {
        None => 0,
        Some(_) => LAST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reserved_range_names_a_position() {
        for value in 0..=u8::MAX {
            match position(value) {
                Some(n) => assert_eq!((ttl(n), n < POSITIONS), (value, true)),
                None => assert!(!(240..248).contains(&value)),
            }
        }
        for initial in [64, 128, 255, ORDINARY_TTL, PROBE_TTL] {
            assert_eq!(position(initial), None);
        }
    }
}
