//! What differs between IPv4 and IPv6, so that each stage is written once.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use kube_vip_common::address::Address;
use kube_vip_common::checksum::Sum;
use kube_vip_common::filter::Bit;
use kube_vip_common::flow::{DIRECT, Endpoint4, Endpoint6, Tuple4, Tuple6};
use kube_vip_common::hash::{FlowHash, addresses4, ports};
use kube_vip_common::mark::ORDINARY_TTL;
use kube_vip_common::node::Node;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::frame::{self, Cursor, Key as _, Wire, Word};
use crate::helpers;
use crate::maps::{self, FLOWS4, FLOWS6, REVERSE4, REVERSE6};

/// IP protocol numbers.
pub mod protocol {
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
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
    /// As they end a key of the flow maps.
    #[inline(always)]
    fn word(self) -> u64 {
        let ([a, b], [c, d]) = (self.source.to_ne_bytes(), self.destination.to_ne_bytes());
        let [e, f, g, h] = u32::from(self.protocol).to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// As they end a key of `FRONTENDS`.
    #[inline(always)]
    fn frontend_word(self) -> u64 {
        let [a, b] = self.destination.to_ne_bytes();
        let [c, d] = u16::from(self.protocol).to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
    }
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

/// An IP version.
pub trait Family {
    /// The fixed part of the header.
    type Header: Wire + 'static;
    /// Bytes of an address.
    type Bytes: Copy + PartialEq;
    /// Key of the flow maps.
    type Tuple;
    /// Value of the flow maps.
    type Endpoint: Copy;

    /// The fixed part of the header and the eight bytes behind it: what an error quotes.
    type Quotation: Wire + AsRef<[Word]> + 'static;

    /// IP protocol number of this version's control messages.
    const ICMP: u8;

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
    /// Length of the header with what belongs to it, in words of four bytes.
    fn header_words(ip: &Self::Header) -> usize;
    /// Length of what follows the header, in bytes, by its own word.
    fn payload_length(ip: &Self::Header) -> u16;
    /// Whether errors and resets may be sent to this source (RFC 1122 §3.2.2, RFC 4443 §2.4).
    fn is_answerable(source: Self::Bytes) -> bool;
    /// Finds what lies behind the header and puts the cursor there.
    fn payload(ip: &Self::Header, cursor: &mut Cursor<'_>) -> Payload;

    /// The address as the maps have it.
    fn address(bytes: Self::Bytes) -> Address;
    /// Key of `FRONTENDS`, in words.
    fn frontend_key(destination: Self::Bytes, ports: Ports) -> [u64; 3];
    /// The address out of the maps.
    fn bytes(address: &Address) -> Self::Bytes;
    /// Its place in the filter.
    fn bit(bytes: Self::Bytes) -> Bit;
    /// This family's address of a node.
    fn of_node(node: &Node) -> Self::Bytes;
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

    /// Looks up `FLOWS4` or `FLOWS6`.
    fn flow(tuple: &Self::Tuple) -> Option<Self::Endpoint>;
    /// Writes both directions of a connection; false where a map refused.
    fn record(
        flow: &Self::Tuple,
        backend: &Self::Endpoint,
        reply: &Self::Tuple,
        vip: &Self::Endpoint,
    ) -> bool;
    /// Writes the way back alone; false where the map refused.
    fn record_reply(reply: &Self::Tuple, vip: &Self::Endpoint) -> bool;
    /// Looks up `REVERSE4` or `REVERSE6`.
    fn reverse(tuple: &Self::Tuple) -> Option<Self::Endpoint>;
    /// Sets [`DIRECT`] on the record of a reply.
    fn mark_direct(reply: &Self::Tuple);
    /// Whether [`DIRECT`] is set.
    fn is_direct(reply: &Self::Endpoint) -> bool;
    /// Forgets both directions of a connection.
    fn forget(flow: &Self::Tuple, reply: &Self::Tuple);

    /// Changes the source of a packet that leaves, with the checksums of both headers; the
    /// transport's is at `check`.
    fn replace_source(
        ctx: &TcContext,
        check: usize,
        old: Self::Bytes,
        new: Self::Bytes,
        udp: bool,
    ) -> Result<(), i64>;
}

/// IPv4 (RFC 791).
pub struct V4;

/// IPv6 (RFC 8200).
pub struct V6;

/// An IPv6 address as two numbers, bytes as they lie in memory: sixteen single bytes would each take
/// a register or a place on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Halves {
    high: u64,
    low: u64,
}

impl Halves {
    /// Out of memory.
    #[inline(always)]
    pub fn of(bytes: &[u8; 16]) -> Self {
        let [high, low] = frame::numbers(bytes);
        Self { high, low }
    }

    /// The bytes.
    #[inline(always)]
    pub fn octets(self) -> [u8; 16] {
        frame::octets([self.high, self.low])
    }

    /// Four numbers, for sums.
    #[inline(always)]
    pub fn numbers(self) -> [u32; 4] {
        let Self { high, low } = self;
        [high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]
    }
}

/// Where the IP header begins.
const NETWORK: usize = size_of::<EthHdr>();

/// More fragments, or an offset: a part of a packet (RFC 791 §3.1).
const FRAGMENT: [u8; 2] = [0x3f, 0xff];
/// More fragments, no offset.
const MORE_FRAGMENTS: [u8; 2] = [0x20, 0];

impl Family for V4 {
    type Header = Ipv4Hdr;
    type Bytes = [u8; 4];
    type Tuple = Tuple4;
    type Endpoint = Endpoint4;
    type Quotation = [Word; 7];

    const ICMP: u8 = protocol::ICMP;

    #[inline(always)]
    fn source(ip: &Ipv4Hdr) -> [u8; 4] {
        ip.src_addr
    }

    #[inline(always)]
    fn destination(ip: &Ipv4Hdr) -> [u8; 4] {
        ip.dst_addr
    }

    #[inline(always)]
    fn ttl(ip: &Ipv4Hdr) -> u8 {
        ip.ttl
    }

    #[inline(always)]
    fn set_ttl(ip: &mut Ipv4Hdr, ttl: u8) {
        // TTL shares its 16-bit word with the protocol.
        let old = u16::from_ne_bytes([ip.ttl, ip.proto]);
        let new = u16::from_ne_bytes([ttl, ip.proto]);
        let change = Sum::default().remove(old.into()).add(new.into());
        ip.check = change.update(u16::from_ne_bytes(ip.check)).to_ne_bytes();
        ip.ttl = ttl;
    }

    #[inline(always)]
    fn set_destination(ip: &mut Ipv4Hdr, destination: [u8; 4]) {
        let change = Self::change(ip.dst_addr, destination);
        ip.check = change.update(u16::from_ne_bytes(ip.check)).to_ne_bytes();
        ip.dst_addr = destination;
    }

    #[inline(always)]
    fn turn(ip: &mut Ipv4Hdr) {
        (ip.src_addr, ip.dst_addr) = (ip.dst_addr, ip.src_addr);
    }

    #[inline(always)]
    fn write(ip: &mut Ipv4Hdr, source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16) {
        let [high, low] = (length + size_of::<Ipv4Hdr>() as u16).to_be_bytes();
        // Version 4, five words; don't fragment, so that the identification may be 0 (RFC 6864).
        let first = [0x45, 0, high, low];
        let second = [0, 0, 0x40, 0];
        let third = [ORDINARY_TTL, protocol, 0, 0];
        let sum = [first, second, third, source, destination]
            .into_iter()
            .fold(Sum::default(), |sum, word| sum.add(u32::from_ne_bytes(word)));
        *ip = Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: [high, low],
            id: [0, 0],
            frags: [0x40, 0],
            ttl: ORDINARY_TTL,
            proto: protocol,
            check: sum.checksum().to_ne_bytes(),
            src_addr: source,
            dst_addr: destination,
        };
    }

    #[inline(always)]
    fn pseudo(source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16) -> Sum {
        let [high, low] = length.to_be_bytes();
        Sum::default()
            .add(u32::from_ne_bytes(source))
            .add(u32::from_ne_bytes(destination))
            .add(u32::from_ne_bytes([0, protocol, high, low]))
    }

    #[inline(always)]
    fn header_words(ip: &Ipv4Hdr) -> usize {
        usize::from(ip.vihl & 0xf)
    }

    #[inline(always)]
    fn payload_length(ip: &Ipv4Hdr) -> u16 {
        let header = u16::from(ip.vihl & 0xf) * 4;
        u16::from_be_bytes(ip.tot_len).saturating_sub(header)
    }

    #[inline(always)]
    fn is_answerable([first, ..]: [u8; 4]) -> bool {
        // Not "this network", not loopback, not multicast, reserved or broadcast (RFC 1122 §3.2.1.3).
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn payload(ip: &Ipv4Hdr, cursor: &mut Cursor<'_>) -> Payload {
        let words = usize::from(ip.vihl & 0xf);
        if words < 5 {
            return Payload::Malformed;
        }
        // Options are stepped over, not judged.
        cursor.skip((words - 5) * 4);
        match u16::from_ne_bytes(ip.frags) & u16::from_ne_bytes(FRAGMENT) {
            0 => Payload::Protocol(ip.proto),
            more if more == u16::from_ne_bytes(MORE_FRAGMENTS) => Payload::FirstFragment(ip.proto),
            _ => Payload::LaterFragment,
        }
    }

    #[inline(always)]
    fn address(bytes: [u8; 4]) -> Address {
        Address::from_v4(bytes)
    }

    #[inline(always)]
    fn frontend_key([a, b, c, d]: [u8; 4], ports: Ports) -> [u64; 3] {
        [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]), ports.frontend_word()]
    }

    #[inline(always)]
    fn bytes(address: &Address) -> [u8; 4] {
        address.v4()
    }

    #[inline(always)]
    fn bit(bytes: [u8; 4]) -> Bit {
        Bit::of_v4(u32::from_ne_bytes(bytes))
    }

    #[inline(always)]
    fn of_node(node: &Node) -> [u8; 4] {
        node.v4.v4()
    }

    #[inline(always)]
    fn change(old: [u8; 4], new: [u8; 4]) -> Sum {
        Sum::default().remove(u32::from_ne_bytes(old)).add(u32::from_ne_bytes(new))
    }

    #[inline(always)]
    fn hash_client(seed: u64, source: [u8; 4]) -> FlowHash {
        FlowHash::new(seed).mix(u32::from_be_bytes(source).into())
    }

    #[inline(always)]
    fn hash_flow(seed: u64, source: [u8; 4], destination: [u8; 4], p: Ports) -> FlowHash {
        FlowHash::new(seed)
            .mix(addresses4(u32::from_be_bytes(source), u32::from_be_bytes(destination)))
            .mix(ports(p.source, p.destination, p.protocol))
    }

    #[inline(always)]
    fn tuple(source: [u8; 4], destination: [u8; 4], p: Ports) -> Tuple4 {
        let [a, b, c, d] = source;
        let [e, f, g, h] = destination;
        Tuple4::from_words([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), p.word()])
    }

    #[inline(always)]
    fn tuple_parts(tuple: &Tuple4) -> ([u8; 4], [u8; 4], Ports) {
        let ports = Ports {
            source: tuple.source_port,
            destination: tuple.destination_port,
            protocol: tuple.protocol as u8,
        };
        (tuple.source, tuple.destination, ports)
    }

    #[inline(always)]
    fn endpoint(address: [u8; 4], port: u16, backend: u32) -> Endpoint4 {
        Endpoint4 { address, port, flags: 0, backend, pad: 0 }
    }

    #[inline(always)]
    fn parts(endpoint: &Endpoint4) -> ([u8; 4], u16, u32) {
        (endpoint.address, endpoint.port, endpoint.backend)
    }

    #[inline(always)]
    fn flow(tuple: &Tuple4) -> Option<Endpoint4> {
        maps::endpoint(&FLOWS4, tuple)
    }

    #[inline(always)]
    fn record(flow: &Tuple4, backend: &Endpoint4, reply: &Tuple4, vip: &Endpoint4) -> bool {
        REVERSE4.insert(reply, vip, 0).is_ok() && FLOWS4.insert(flow, backend, 0).is_ok()
    }

    #[inline(always)]
    fn record_reply(reply: &Tuple4, vip: &Endpoint4) -> bool {
        REVERSE4.insert(reply, vip, 0).is_ok()
    }

    #[inline(always)]
    fn reverse(tuple: &Tuple4) -> Option<Endpoint4> {
        maps::endpoint(&REVERSE4, tuple)
    }

    #[inline(always)]
    fn mark_direct(reply: &Tuple4) {
        maps::change(&REVERSE4, reply, |endpoint| endpoint.flags |= DIRECT);
    }

    #[inline(always)]
    fn is_direct(reply: &Endpoint4) -> bool {
        reply.flags & DIRECT != 0
    }

    #[inline(always)]
    fn forget(flow: &Tuple4, reply: &Tuple4) {
        // Not there any more is just as well.
        let _ = FLOWS4.remove(flow);
        let _ = REVERSE4.remove(reply);
    }

    #[inline(always)]
    fn replace_source(
        ctx: &TcContext,
        check: usize,
        old: [u8; 4],
        new: [u8; 4],
        udp: bool,
    ) -> Result<(), i64> {
        helpers::replace_v4(ctx, check, old, new, udp)?;
        let [from, to] = [old, new].map(|address| u32::from_ne_bytes(address).into());
        ctx.l3_csum_replace(NETWORK + offset_of!(Ipv4Hdr, check), from, to, 4)?;
        ctx.store(NETWORK + offset_of!(Ipv4Hdr, src_addr), &new, 0)
    }
}

impl Family for V6 {
    type Header = Ipv6Hdr;
    type Bytes = Halves;
    type Tuple = Tuple6;
    type Endpoint = Endpoint6;
    type Quotation = [Word; 12];

    const ICMP: u8 = protocol::ICMPV6;

    #[inline(always)]
    fn source(ip: &Ipv6Hdr) -> Halves {
        Halves::of(&ip.src_addr)
    }

    #[inline(always)]
    fn destination(ip: &Ipv6Hdr) -> Halves {
        Halves::of(&ip.dst_addr)
    }

    #[inline(always)]
    fn ttl(ip: &Ipv6Hdr) -> u8 {
        ip.hop_limit
    }

    #[inline(always)]
    fn set_ttl(ip: &mut Ipv6Hdr, ttl: u8) {
        ip.hop_limit = ttl;
    }

    #[inline(always)]
    fn set_destination(ip: &mut Ipv6Hdr, destination: Halves) {
        ip.dst_addr = destination.octets();
    }

    #[inline(always)]
    fn turn(ip: &mut Ipv6Hdr) {
        (ip.src_addr, ip.dst_addr) = (ip.dst_addr, ip.src_addr);
    }

    #[inline(always)]
    fn write(ip: &mut Ipv6Hdr, source: Halves, destination: Halves, protocol: u8, length: u16) {
        *ip = Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len: length.to_be_bytes(),
            next_hdr: protocol,
            hop_limit: ORDINARY_TTL,
            src_addr: source.octets(),
            dst_addr: destination.octets(),
        };
    }

    #[inline(always)]
    fn pseudo(source: Halves, destination: Halves, protocol: u8, length: u16) -> Sum {
        let [high, low] = length.to_be_bytes();
        let ([a, b, c, d], [e, f, g, h]) = (source.numbers(), destination.numbers());
        let addresses = Sum::default().add(a).add(b).add(c).add(d).add(e).add(f).add(g).add(h);
        addresses
            .add(u32::from_ne_bytes([0, 0, high, low]))
            .add(u32::from_ne_bytes([0, 0, 0, protocol]))
    }

    #[inline(always)]
    fn header_words(_ip: &Ipv6Hdr) -> usize {
        size_of::<Ipv6Hdr>() / 4
    }

    #[inline(always)]
    fn payload_length(ip: &Ipv6Hdr) -> u16 {
        u16::from_be_bytes(ip.payload_len)
    }

    #[inline(always)]
    fn is_answerable(source: Halves) -> bool {
        // Not multicast; the upper half of the unspecified and the loopback address is zero.
        source.high.to_be() >> 56 != 0xff && source.high != 0
    }

    #[inline(always)]
    fn payload(ip: &Ipv6Hdr, cursor: &mut Cursor<'_>) -> Payload {
        /// RFC 8200 §4.5.
        const FRAGMENT: u8 = 44;
        if ip.next_hdr != FRAGMENT {
            return Payload::Protocol(ip.next_hdr);
        }
        match cursor.take::<[u8; 8]>() {
            Some([protocol, _, high, low, ..]) if u16::from_be_bytes([*high, *low]) & !7 == 0 => {
                Payload::FirstFragment(*protocol)
            }
            Some(_) => Payload::LaterFragment,
            None => Payload::Malformed,
        }
    }

    #[inline(always)]
    fn address(bytes: Halves) -> Address {
        Address::from_v6(bytes.octets())
    }

    #[inline(always)]
    fn frontend_key(destination: Halves, ports: Ports) -> [u64; 3] {
        [destination.high, destination.low, ports.frontend_word()]
    }

    #[inline(always)]
    fn bytes(address: &Address) -> Halves {
        Halves::of(&address.octets)
    }

    #[inline(always)]
    fn bit(bytes: Halves) -> Bit {
        Bit::of_v6(bytes.high, bytes.low)
    }

    #[inline(always)]
    fn of_node(node: &Node) -> Halves {
        Halves::of(&node.v6.octets)
    }

    #[inline(always)]
    fn change(old: Halves, new: Halves) -> Sum {
        let ([a, b, c, d], [e, f, g, h]) = (old.numbers(), new.numbers());
        Sum::default().remove(a).add(e).remove(b).add(f).remove(c).add(g).remove(d).add(h)
    }

    #[inline(always)]
    fn hash_client(seed: u64, source: Halves) -> FlowHash {
        FlowHash::new(seed).mix(source.high.to_be()).mix(source.low.to_be())
    }

    #[inline(always)]
    fn hash_flow(seed: u64, source: Halves, destination: Halves, p: Ports) -> FlowHash {
        let (high, low) = (destination.high.to_be(), destination.low.to_be());
        Self::hash_client(seed, source).mix(high ^ low.rotate_left(32)).mix(ports(
            p.source,
            p.destination,
            p.protocol,
        ))
    }

    #[inline(always)]
    fn tuple(source: Halves, destination: Halves, p: Ports) -> Tuple6 {
        let (from, to) = (source, destination);
        Tuple6::from_words([from.high, from.low, to.high, to.low, p.word()])
    }

    #[inline(always)]
    fn tuple_parts(tuple: &Tuple6) -> (Halves, Halves, Ports) {
        let ports = Ports {
            source: tuple.source_port,
            destination: tuple.destination_port,
            protocol: tuple.protocol as u8,
        };
        (Halves::of(&tuple.source), Halves::of(&tuple.destination), ports)
    }

    #[inline(always)]
    fn endpoint(address: Halves, port: u16, backend: u32) -> Endpoint6 {
        Endpoint6 { address: address.octets(), port, flags: 0, backend }
    }

    #[inline(always)]
    fn parts(endpoint: &Endpoint6) -> (Halves, u16, u32) {
        (Halves::of(&endpoint.address), endpoint.port, endpoint.backend)
    }

    #[inline(always)]
    fn flow(tuple: &Tuple6) -> Option<Endpoint6> {
        maps::endpoint(&FLOWS6, tuple)
    }

    #[inline(always)]
    fn record(flow: &Tuple6, backend: &Endpoint6, reply: &Tuple6, vip: &Endpoint6) -> bool {
        REVERSE6.insert(reply, vip, 0).is_ok() && FLOWS6.insert(flow, backend, 0).is_ok()
    }

    #[inline(always)]
    fn record_reply(reply: &Tuple6, vip: &Endpoint6) -> bool {
        REVERSE6.insert(reply, vip, 0).is_ok()
    }

    #[inline(always)]
    fn reverse(tuple: &Tuple6) -> Option<Endpoint6> {
        maps::endpoint(&REVERSE6, tuple)
    }

    #[inline(always)]
    fn mark_direct(reply: &Tuple6) {
        maps::change(&REVERSE6, reply, |endpoint| endpoint.flags |= DIRECT);
    }

    #[inline(always)]
    fn is_direct(reply: &Endpoint6) -> bool {
        reply.flags & DIRECT != 0
    }

    #[inline(always)]
    fn forget(flow: &Tuple6, reply: &Tuple6) {
        // Not there any more is just as well.
        let _ = FLOWS6.remove(flow);
        let _ = REVERSE6.remove(reply);
    }

    #[inline(always)]
    fn replace_source(
        ctx: &TcContext,
        check: usize,
        old: Halves,
        new: Halves,
        udp: bool,
    ) -> Result<(), i64> {
        let new = new.octets();
        helpers::replace_v6(ctx, check, &old.octets(), &new, udp)?;
        ctx.store(NETWORK + offset_of!(Ipv6Hdr, src_addr), &new, 0)
    }
}
