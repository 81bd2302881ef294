//! What differs between IPv4 and IPv6, so that each stage is written once.

mod v4;
mod v6;

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::programs::TcContext;
use kube_vip_common::address::Address;
use kube_vip_common::checksum::Sum;
use kube_vip_common::filter::Bit;
use kube_vip_common::flow::{ANSWERED, Endpoint4, Endpoint6};
use kube_vip_common::hash::FlowHash;
use kube_vip_common::node::{Hop, Node};

use crate::frame::{Addresses, Cursor, Frame, Key as _, Wire};
use crate::maps::SMALLEST;
use crate::xdp::transport::sequence;

pub use self::v4::V4;
pub(crate) use self::v6::walk;
pub use self::v6::{Halves, V6};

/// IP protocol numbers.
pub mod protocol {
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 2003.
    pub const IPV4: u8 = 4;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 2473.
    pub const IPV6: u8 = 41;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 9260.
    pub const SCTP: u8 = 132;
}

/// Source and destination ports with the protocol.
#[derive(Clone, Copy)]
pub struct Ports {
    /// Source port, host order.
    pub source: u16,
    /// Destination port, host order.
    pub destination: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Ports {
    /// Those of a packet the other way.
    #[inline(always)]
    #[must_use]
    pub fn turned(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }

    /// As they end a key of the flow maps.
    #[inline(always)]
    fn word(self) -> u64 {
        let ([a, b], [c, d]) = (self.source.to_ne_bytes(), self.destination.to_ne_bytes());
        let [e, f, g, h] = u32::from(self.protocol).to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// As they end a key of `FRONTENDS`.
    #[inline(always)]
    pub fn frontend_word(self) -> u64 {
        let [a, b] = self.destination.to_ne_bytes();
        let [c, d] = u16::from(self.protocol).to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
    }
}

/// Two numbers as a word of a key, in the order they lie in memory.
#[inline(always)]
fn halves(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// How a packet of a translated connection leaves: a value of `NAT4` or `NAT6`.
#[derive(Clone, Copy)]
pub struct Translation<B> {
    /// Source to rewrite to.
    pub source: B,
    /// Destination to rewrite to.
    pub destination: B,
    /// Ports to rewrite to, and the protocol.
    pub ports: Ports,
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// It is what the backend sends.
    pub reply: bool,
    /// Where it goes on the link.
    pub link: Link,
    /// What changes with the packets.
    pub life: Life,
}

/// The next hop of a translated connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Interface; 0 while it is not known.
    pub ifindex: u32,
    /// Where frames go, and own Ethernet address there.
    pub addresses: Addresses,
}

impl Link {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { ifindex: 0, addresses: [0; 3] };
}

/// How far a translated connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// See [`kube_vip_common::nat`].
    pub state: u16,
    /// Second in which it was last used.
    pub seen: u32,
}

/// What lies behind the IP header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// This protocol, at the cursor.
    Protocol(u8),
    /// The first fragment of a packet of this protocol, whose header is at the cursor.
    FirstFragment(u8),
    /// A fragment without the header.
    LaterFragment,
    /// The header is cut short or contradicts itself.
    Malformed,
}

impl Payload {
    /// The protocol whose header is at the cursor.
    #[inline(always)]
    pub fn protocol(self) -> Option<u8> {
        match self {
            Self::Protocol(protocol) | Self::FirstFragment(protocol) => Some(protocol),
            _ => None,
        }
    }
}

/// An IP version.
pub trait Family {
    /// The fixed part of the header.
    type Header: Wire + 'static;
    /// Bytes of an address.
    type Bytes: Copy + PartialEq;
    /// Key of the flow maps.
    type Tuple: 'static;
    /// Value of the flow maps.
    type Endpoint: Record + 'static;
    /// Value of `NAT4` or `NAT6`.
    type Nat;

    /// IP protocol number of this version's control messages.
    const ICMP: u8;
    /// IP protocol number of a packet of this version inside another one.
    const ENCAPSULATED: u8;

    /// Source address.
    fn source(ip: &Self::Header) -> Self::Bytes;
    /// Destination address.
    fn destination(ip: &Self::Header) -> Self::Bytes;
    /// TTL or hop limit.
    fn ttl(ip: &Self::Header) -> u8;
    /// Sets TTL or hop limit and what depends on it in the header.
    fn set_ttl(ip: &mut Self::Header, ttl: u8);
    /// Sets the destination and what depends on it in the header.
    fn set_destination(ip: &mut Self::Header, destination: Self::Bytes);
    /// Sets the source and what depends on it in the header.
    fn set_source(ip: &mut Self::Header, source: Self::Bytes);
    /// Sets both addresses and the TTL, and what depends on them in the header; `change` is what
    /// the addresses mean for a checksum.
    fn translate(
        ip: &mut Self::Header,
        source: Self::Bytes,
        destination: Self::Bytes,
        ttl: u8,
        change: Sum,
    );
    /// Swaps source and destination.
    fn turn(ip: &mut Self::Header);
    /// Writes a whole header; `length` is that of what follows it.
    fn write(
        ip: &mut Self::Header,
        source: Self::Bytes,
        destination: Self::Bytes,
        protocol: u8,
        length: u16,
    );
    /// What checksums cover besides the segment (RFC 9293 §3.1, RFC 8200 §8.1).
    fn pseudo(source: Self::Bytes, destination: Self::Bytes, protocol: u8, length: u16) -> Sum;
    /// Length of the packet in bytes, by its own word.
    fn length(ip: &Self::Header) -> u32;
    /// Whether errors and resets may be sent to this source (RFC 1122 §3.2.2, RFC 4443 §2.4).
    fn is_answerable(source: Self::Bytes) -> bool;
    /// The protocol of a packet that is whole and has it right behind the header and its options,
    /// where the cursor is put; of others perhaps the number of something else in that place, which
    /// is neither TCP nor UDP.
    fn plain(ip: &Self::Header, cursor: &mut Cursor<'_>) -> Option<u8>;
    /// Finds what lies behind the header and all that belongs to it, and puts the cursor there.
    fn payload(frame: &impl Frame, ip: &Self::Header, cursor: &mut Cursor<'_>) -> Payload;

    /// Whether control messages of this type are errors that quote a packet.
    fn is_error(kind: u8) -> bool;
    /// What it means for an error's checksum that an address changes in the header it quotes, or in
    /// the one before it.
    fn error_change(old: Self::Bytes, new: Self::Bytes) -> Sum;

    /// The address as the maps have it.
    fn address(bytes: Self::Bytes) -> Address;
    /// Key of `FRONTENDS`, in words.
    fn frontend_key(destination: Self::Bytes, ports: Ports) -> [u64; 3];
    /// Key of `FRAGS`, in words.
    fn fragment_key(
        source: Self::Bytes,
        destination: Self::Bytes,
        id: u32,
        direction: u32,
    ) -> [u64; 5];
    /// The address out of the maps.
    fn bytes(address: &Address) -> Self::Bytes;
    /// Its place in the filter.
    fn bit(bytes: Self::Bytes) -> Bit;
    /// This family's address of a node.
    fn of_node(node: &Node) -> Self::Bytes;
    /// Whether an address is of a node's Pods.
    fn is_pod_of(node: &Node, address: Self::Bytes) -> bool;
    /// This family's way to a node.
    fn hop(node: &Node) -> &Hop;
    /// What a change of address means for a checksum that covers it.
    fn change(old: Self::Bytes, new: Self::Bytes) -> Sum;

    /// Hash of the client's address alone.
    fn hash_client(seed: u64, source: Self::Bytes) -> FlowHash;
    /// Hash of the whole tuple.
    fn hash_flow(
        seed: u64,
        source: Self::Bytes,
        destination: Self::Bytes,
        ports: Ports,
    ) -> FlowHash;

    /// Key of the flow maps.
    fn tuple(source: Self::Bytes, destination: Self::Bytes, ports: Ports) -> Self::Tuple;
    /// Source, destination and ports of a key of the flow maps.
    fn tuple_parts(tuple: &Self::Tuple) -> (Self::Bytes, Self::Bytes, Ports);
    /// Value of the flow maps.
    fn endpoint(address: Self::Bytes, port: u16, backend: u32) -> Self::Endpoint;
    /// Address, port and backend of a value of the flow maps.
    fn parts(endpoint: &Self::Endpoint) -> (Self::Bytes, u16, u32);

    /// `FLOWS4` or `FLOWS6`.
    fn flows() -> &'static Records<Self>;
    /// `REVERSE4` or `REVERSE6`.
    fn replies() -> &'static Records<Self>;
    /// `HALF4` or `HALF6`.
    fn half() -> &'static Records<Self>;

    /// The host that has a connection, by `STRAYS4` or `STRAYS6`.
    fn told(tuple: &Self::Tuple) -> Option<u32>;

    /// Looks up `NAT4` or `NAT6`.
    fn translation(tuple: &Self::Tuple) -> Option<Translation<Self::Bytes>>;
    /// Whether a direction of a translated connection is there, and leads back to where the packets
    /// with this tuple come from.
    fn nat_answers(tuple: &Self::Tuple, flow: &Self::Tuple) -> bool;
    /// How far one direction of a translated connection has come.
    fn nat_life(tuple: &Self::Tuple) -> Option<Life>;
    /// The tuple of its other direction.
    fn nat_other(tuple: &Self::Tuple) -> Option<Self::Tuple>;
    /// As the map has it.
    fn nat_value(to: &Translation<Self::Bytes>) -> Self::Nat;
    /// Writes one direction of a translated connection where there is none; false where there is
    /// one, or the map refused.
    fn nat_insert(tuple: &Self::Tuple, value: &Self::Nat) -> bool;
    /// Writes what has changed in one direction of a translated connection, and its next hop where
    /// that is known.
    fn nat_update(tuple: &Self::Tuple, life: Life, link: Link);
    /// Forgets one direction of a translated connection.
    fn nat_remove(tuple: &Self::Tuple) -> bool;
    /// Tells the agent that a direction of a translated connection has changed; false where there
    /// was no room.
    fn nat_tell(tuple: &Self::Tuple) -> bool;

    /// Makes a checksum at `check` that covers a pseudo-header follow a change of address.
    fn replace_in_pseudo(
        ctx: &TcContext,
        check: usize,
        old: Self::Bytes,
        new: Self::Bytes,
        udp: bool,
    ) -> Result<(), i64>;
    /// Makes an ICMP or ICMPv6 checksum at `check` follow a change of address, be it in the header
    /// of the packet or in one that is quoted.
    fn replace_in_error(
        ctx: &TcContext,
        check: usize,
        old: Self::Bytes,
        new: Self::Bytes,
    ) -> Result<(), i64>;
    /// Changes the source in the header at `at`, and its checksum.
    fn replace_source(
        ctx: &TcContext,
        at: usize,
        old: Self::Bytes,
        new: Self::Bytes,
    ) -> Result<(), i64>;
    /// As [`replace_source`](Self::replace_source), the destination.
    fn replace_destination(
        ctx: &TcContext,
        at: usize,
        old: Self::Bytes,
        new: Self::Bytes,
    ) -> Result<(), i64>;
}

/// A map of connections.
pub type Records<F> = LruHashMap<<F as Family>::Tuple, <F as Family>::Endpoint, SMALLEST>;

/// What the two values of the flow maps have in common.
pub trait Record: Copy {
    /// A copy out of the map.
    #[must_use]
    fn copy(&self) -> Self;
    /// As [`client_port`](Self::client_port).
    fn clients(&self) -> u16;
    /// What the client will acknowledge, as [`sequence`] has it; 0 while the backend has not
    /// answered.
    fn answer(&self) -> u64;
    /// As [`stamp`](Self::stamp).
    fn seen(&self) -> u32;
    /// As [`flags`](Self::flags).
    fn marks(&self) -> u16;
    /// Its flags: [`DIRECT`](kube_vip_common::flow::DIRECT) and its like.
    fn flags(&mut self) -> &mut u16;
    /// The client's port as the other side knows it, host order; 0: it stays.
    fn client_port(&mut self) -> &mut u16;
    /// A time or a sequence number.
    fn stamp(&mut self) -> &mut u32;
}

macro_rules! record {
    ($($endpoint:ty),+) => {
        $(impl Record for $endpoint {
            #[inline(always)]
            fn copy(&self) -> Self {
                self.whole()
            }

            #[inline(always)]
            fn clients(&self) -> u16 {
                self.client_port
            }

            #[inline(always)]
            fn answer(&self) -> u64 {
                if self.flags & ANSWERED != 0 { sequence(self.stamp) } else { 0 }
            }

            #[inline(always)]
            fn seen(&self) -> u32 {
                self.stamp
            }

            #[inline(always)]
            fn marks(&self) -> u16 {
                self.flags
            }

            #[inline(always)]
            fn flags(&mut self) -> &mut u16 {
                &mut self.flags
            }

            #[inline(always)]
            fn client_port(&mut self) -> &mut u16 {
                &mut self.client_port
            }

            #[inline(always)]
            fn stamp(&mut self) -> &mut u32 {
                &mut self.stamp
            }
        })+
    };
}

record!(Endpoint4, Endpoint6);
