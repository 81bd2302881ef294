//! `FRONTENDS`: the balanced ports.

use crate::address::Address;
use crate::assert_size;

/// Transport protocols that are balanced, with their IP protocol numbers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
}

impl Protocol {
    /// The name as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What is hashed to choose a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Addresses, ports and protocol: every connection by itself.
    #[default]
    None,
    /// The client's address: all connections of a client go to one backend.
    ClientIp,
}

/// Key of `FRONTENDS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The VIP.
    pub address: Address,
    /// Port, host order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u16,
    /// Always 0.
    pub pad: u32,
}

/// Value of `FRONTENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// Keys the flow hash; agreed among all hosts.
    pub seed: u64,
    /// Index into `TABLES` and `FRONTEND_STATS`.
    pub id: u32,
    /// Slots of its table. A change of size comes with a new id, so that the two always fit.
    pub slots: u32,
    /// [`CLIENT_AFFINITY`].
    pub flags: u32,
    /// Always 0.
    pub pad: u32,
}

/// Flag of [`Frontend`]: the client's address alone chooses the backend.
pub const CLIENT_AFFINITY: u32 = 1;

assert_size!(FrontendKey: 24, Frontend: 24);
