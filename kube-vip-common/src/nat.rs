//! `NAT4`, `NAT6`: connections to hosts without agent, which the owner translates.
//!
//! Both directions of a connection are elements of one map, each keyed by the full tuple of the
//! packets it is looked up for: client → VIP, and backend → source address. What a packet is
//! rewritten to, turned round, is the key of the other direction.

use crate::assert_size;

/// Value of `NAT4`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat4 {
    /// Source address to rewrite to.
    pub source: [u8; 4],
    /// Destination address to rewrite to.
    pub destination: [u8; 4],
    /// Source port to rewrite to, host order.
    pub source_port: u16,
    /// Destination port to rewrite to, host order.
    pub destination_port: u16,
    /// Index into `BACKENDS` and `BACKEND_STATS`.
    pub backend: u32,
    /// Second of `CLOCK` in which either direction was last used.
    pub seen: u32,
    /// Interface the packet leaves through; 0 while that is unknown.
    pub ifindex: u32,
    /// Where frames go, and own Ethernet address on that interface: the first twelve bytes of a
    /// frame, read as words in the host's order.
    pub link: [u32; 3],
    /// What the connection has been through: [`REPLIED`] and others.
    pub state: u16,
    /// [`REPLY`].
    pub flags: u16,
}

/// Value of `NAT6`, as [`Nat4`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat6 {
    /// Source address to rewrite to.
    pub source: [u8; 16],
    /// Destination address to rewrite to.
    pub destination: [u8; 16],
    /// Source port to rewrite to, host order.
    pub source_port: u16,
    /// Destination port to rewrite to, host order.
    pub destination_port: u16,
    /// Index into `BACKENDS` and `BACKEND_STATS`.
    pub backend: u32,
    /// Second of `CLOCK` in which either direction was last used.
    pub seen: u32,
    /// Interface the packet leaves through; 0 while that is unknown.
    pub ifindex: u32,
    /// Where frames go, and own Ethernet address on that interface: the first twelve bytes of a
    /// frame, read as words in the host's order.
    pub link: [u32; 3],
    /// What the connection has been through: [`REPLIED`] and others.
    pub state: u16,
    /// [`REPLY`].
    pub flags: u16,
}

assert_size!(Nat4: 40, Nat6: 64);

/// Flag of a value: it translates what the backend sends.
pub const REPLY: u16 = 1;

/// State: the backend has answered.
pub const REPLIED: u16 = 1;
/// State: the client has acknowledged the answer.
pub const ESTABLISHED: u16 = 1 << 1;
/// State: the client has said that it is done.
pub const CLIENT_DONE: u16 = 1 << 2;
/// State: the backend has said that it is done.
pub const BACKEND_DONE: u16 = 1 << 3;
/// State: either end has reset the connection.
pub const RESET: u16 = 1 << 4;

/// Seconds until a connection counts as gone when nothing is sent.
pub mod idle {
    /// A TCP connection that is still being opened. RFC 5382 §5 asks routers for four minutes; here
    /// that would keep the port of each SYN of a flood, and clients try again every few seconds.
    pub const OPENING: u32 = 60;
    /// An open TCP connection: two hours and four minutes (RFC 5382 §5, REQ-5).
    pub const ESTABLISHED: u32 = 7440;
    /// A TCP connection of which one end is done, the other still may send for long.
    pub const HALF_CLOSED: u32 = 240;
    /// A TCP connection of which both ends are done: as long as Linux keeps TIME-WAIT
    /// (`TCP_TIMEWAIT_LEN`).
    pub const CLOSED: u32 = 60;
    /// A TCP connection that was reset.
    pub const RESET: u32 = 10;
    /// UDP that nobody has answered yet.
    pub const UDP_UNANSWERED: u32 = 30;
    /// UDP: two minutes (RFC 4787 §4.3, REQ-5).
    pub const UDP: u32 = 120;
}

/// Which connection states a packet changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// TCP's SYN.
    pub syn: bool,
    /// TCP's ACK; UDP has none.
    pub ack: bool,
    /// TCP's FIN.
    pub fin: bool,
    /// TCP's RST.
    pub rst: bool,
}

/// The state of a connection after a packet.
#[inline(always)]
pub const fn next(state: u16, reply: bool, signs: Signs) -> u16 {
    let mut state = state;
    if signs.rst {
        return state | RESET;
    }
    if signs.ack {
        // The RST was not for this connection any more, or not believed (RFC 5961 §3).
        state &= !RESET;
    }
    if reply {
        state |= REPLIED;
    } else if state & REPLIED != 0 && !signs.syn {
        state |= ESTABLISHED;
    }
    if signs.fin {
        state |= if reply { BACKEND_DONE } else { CLIENT_DONE };
    }
    state
}

/// Seconds without a packet after which a connection counts as gone.
#[inline(always)]
pub const fn patience(state: u16, tcp: bool) -> u32 {
    const DONE: u16 = CLIENT_DONE | BACKEND_DONE;
    if !tcp {
        if state & REPLIED != 0 { idle::UDP } else { idle::UDP_UNANSWERED }
    } else if state & RESET != 0 {
        idle::RESET
    } else if state & DONE == DONE {
        idle::CLOSED
    } else if state & DONE != 0 {
        idle::HALF_CLOSED
    } else if state & ESTABLISHED != 0 {
        idle::ESTABLISHED
    } else {
        idle::OPENING
    }
}

/// Whether a SYN of the same client begins another connection, because this one has ended.
#[inline(always)]
pub const fn has_ended(state: u16) -> bool {
    const DONE: u16 = CLIENT_DONE | BACKEND_DONE;
    state & RESET != 0 || state & DONE == DONE
}

/// Whether nothing was sent for so long that the connection counts as gone.
#[inline(always)]
pub const fn is_idle(seen: u32, now: u32, state: u16, tcp: bool) -> bool {
    now.wrapping_sub(seen) > patience(state, tcp)
}

/// Tries to find a free port for a connection; then it is dropped, and the client tries again.
pub const PORT_TRIES: u32 = 64;

/// The first port that is used with a VIP: those below are services' (RFC 6335 §6).
pub const FIRST_PORT: u16 = 1024;

/// A range of ports, host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest; 0 where there is none.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

assert_size!(PortRange: 4);

impl PortRange {
    /// All that are used with a VIP.
    pub const OF_VIP: Self = Self { first: FIRST_PORT, last: u16::MAX };

    /// Whether it is one of them.
    #[inline(always)]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last && self.first != 0
    }

    /// How many there are.
    #[inline(always)]
    pub const fn len(self) -> u32 {
        if self.is_empty() { 0 } else { self.last as u32 - self.first as u32 + 1 }
    }

    /// Whether there is none.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.first == 0 || self.last < self.first
    }

    /// The port of the n-th try. Consecutive tries are far apart, so that ports which clients have
    /// brought along, often one beside the other, are not met one after the other.
    #[inline(always)]
    pub const fn nth(self, n: u32) -> u16 {
        // The golden ratio of 2^32: the fractions of its multiples spread evenly.
        let fraction = n.wrapping_mul(0x9e37_79b1) as u64;
        self.first.wrapping_add((fraction * self.len() as u64 >> 32) as u16)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SYN: Signs = Signs { syn: true, ack: false, fin: false, rst: false };
    const SYN_ACK: Signs = Signs { ack: true, ..SYN };
    const ACK: Signs = Signs { syn: false, ..SYN_ACK };
    const FIN: Signs = Signs { fin: true, ..ACK };
    const RST: Signs = Signs { rst: true, ..ACK };

    /// Packets of both directions, and how long the connection is kept after each.
    fn run(packets: &[(bool, Signs, u32)]) {
        let mut state = 0;
        for (index, (reply, signs, expected)) in packets.iter().enumerate() {
            state = next(state, *reply, *signs);
            assert_eq!(patience(state, true), *expected, "packet {index}, state {state:#b}");
        }
    }

    #[test]
    fn life_of_a_tcp_connection() {
        run(&[
            (false, SYN, idle::OPENING),
            (true, SYN_ACK, idle::OPENING),
            // A repeated SYN establishes nothing.
            (false, SYN, idle::OPENING),
            (false, ACK, idle::ESTABLISHED),
            (true, ACK, idle::ESTABLISHED),
            (true, FIN, idle::HALF_CLOSED),
            (false, ACK, idle::HALF_CLOSED),
            (false, FIN, idle::CLOSED),
            (true, ACK, idle::CLOSED),
        ]);
    }

    #[test]
    fn reset_connections_go_soon_unless_they_go_on() {
        run(&[
            (false, SYN, idle::OPENING),
            (true, SYN_ACK, idle::OPENING),
            (false, ACK, idle::ESTABLISHED),
            (false, RST, idle::RESET),
            // A challenge (RFC 5961 §3), and the client goes on.
            (true, ACK, idle::ESTABLISHED),
        ]);
        run(&[(false, SYN, idle::OPENING), (true, RST, idle::RESET)]);
        // The client never heard the backend: what it says is no handshake.
        run(&[(false, SYN, idle::OPENING), (false, ACK, idle::OPENING)]);
    }

    #[test]
    fn a_connection_that_has_ended_makes_room_for_another() {
        assert!(!has_ended(0) && !has_ended(REPLIED | ESTABLISHED));
        assert!(!has_ended(ESTABLISHED | CLIENT_DONE) && !has_ended(ESTABLISHED | BACKEND_DONE));
        assert!(has_ended(ESTABLISHED | CLIENT_DONE | BACKEND_DONE) && has_ended(RESET));
    }

    #[test]
    fn udp_is_kept_longer_once_it_was_answered() {
        let udp = Signs::default();
        let state = next(0, false, udp);
        assert_eq!(patience(state, false), idle::UDP_UNANSWERED);
        assert_eq!(patience(next(state, true, udp), false), idle::UDP);
    }

    #[test]
    fn idle_by_the_clock_that_wraps() {
        assert!(!is_idle(100, 100 + idle::UDP_UNANSWERED, 0, false));
        assert!(is_idle(100, 101 + idle::UDP_UNANSWERED, 0, false));
        assert!(!is_idle(u32::MAX, 5, 0, false));
    }

    #[test]
    fn tries_stay_in_the_range_and_reach_nearly_all_of_it() {
        for range in [
            PortRange::OF_VIP,
            PortRange { first: 1, last: 65535 },
            PortRange { first: 30000, last: 30000 },
            PortRange { first: 32768, last: 65535 },
            PortRange { first: 20000, last: 20999 },
        ] {
            let rounds = 4 * range.len();
            let tried: BTreeSet<_> = (0..rounds).map(|n| range.nth(n)).collect();
            assert!(tried.iter().all(|port| range.contains(*port)));
            assert_eq!(tried.len() as u32, range.len(), "{range:?}");
        }
        // The first round of all the VIP's ports hardly tries one twice.
        let range = PortRange::OF_VIP;
        let tried: BTreeSet<_> = (0..range.len()).map(|n| range.nth(n)).collect();
        assert!(tried.len() as u32 > range.len() * 4 / 5, "{}", tried.len());
    }

    #[test]
    fn neighbouring_tries_are_far_apart() {
        let range = PortRange::OF_VIP;
        for n in 0..10_000 {
            let distance = range.nth(n).abs_diff(range.nth(n + 1));
            assert!(distance > 1000, "{n}: {distance}");
        }
    }

    #[test]
    fn no_port_is_in_no_range() {
        let none = PortRange::default();
        assert!(none.is_empty() && none.len() == 0 && !none.contains(0) && !none.contains(1));
        assert!(PortRange { first: 10, last: 9 }.is_empty());
    }
}
