//! IPv6 (RFC 8200).

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use kube_vip_common::address::Address;
use kube_vip_common::checksum::Sum;
use kube_vip_common::filter::Bit;
use kube_vip_common::flow::{Endpoint6, Tuple6};
use kube_vip_common::hash::{FlowHash, ports};
use kube_vip_common::mark::ORDINARY_TTL;
use kube_vip_common::nat::{Nat6, REPLY};
use kube_vip_common::node::{Hop, Node};
use network_types::ip::Ipv6Hdr;

use super::{Family, Life, Link, Payload, Ports, Records, Translation, protocol};
use crate::frame::{self, Cursor, Frame, Key as _, Word};
use crate::helpers;
use crate::maps::{self, FLOWS6, HALF6, NAT_CHANGES6, NAT6, REVERSE6, STRAYS6};

/// IPv6 (RFC 8200).
pub struct V6;

/// Extension headers (RFC 8200 §4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Most extension headers that are stepped over: each once, destination options twice (RFC 8200
/// §4.1). What a longer chain carries is taken for a protocol of its own.
const EXTENSIONS: usize = 5;

/// Parts of the fragment header's first word (RFC 8200 §4.5).
const OFFSET: u16 = !7;
const MORE: u16 = 1;

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// What a chain of extension headers leads to, in a number: its length, the protocol behind it, what
/// it is, and the identification out of a fragment header.
struct Chain(u64);

const LENGTH: u64 = 0x3fff;
const PROTOCOL: u32 = 16;
const KIND: u32 = 24;
const ID: u32 = 32;

const WHOLE: u8 = 0;
const FIRST: u8 = 1;
const LATER: u8 = 2;
const MALFORMED: u8 = 3;

impl Chain {
    #[inline(always)]
    fn length(&self) -> usize {
        (self.0 & LENGTH) as usize
    }

    #[inline(always)]
    fn id(&self) -> u32 {
        (self.0 >> ID) as u32
    }

    #[inline(always)]
    fn payload(&self) -> Payload {
        let protocol = (self.0 >> PROTOCOL) as u8;
        match (self.0 >> KIND) as u8 {
            WHOLE => Payload::Protocol(protocol),
            FIRST => Payload::FirstFragment(protocol),
            LATER => Payload::LaterFragment,
            _ => Payload::Malformed,
        }
    }
}

/// Steps over the extension headers that begin at `start` with one of kind `next`: a packed [`Chain`].
#[inline(always)]
pub(crate) fn walk(frame: &impl Frame, start: u64, mut next: u8) -> u64 {
    let mut cursor = Cursor::new(frame);
    cursor.skip((start & LENGTH) as usize);
    let (mut length, mut kind, mut id) = (0, WHOLE, 0);
    for _ in 0..EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                // Stepped over, not judged.
                let Some([protocol, units]) = cursor.peek::<[u8; 2]>() else {
                    kind = MALFORMED;
                    break;
                };
                next = protocol;
                length += (u64::from(units) + 1) * 8;
                cursor.skip((usize::from(units) + 1) * 8);
            }
            FRAGMENT => {
                let Some([[protocol, _, high, low], word]) = cursor.take::<[Word; 2]>() else {
                    kind = MALFORMED;
                    break;
                };
                next = *protocol;
                length += 8;
                let place = u16::from_be_bytes([*high, *low]);
                if place & OFFSET != 0 {
                    (kind, id) = (LATER, u32::from_ne_bytes(*word));
                    break;
                }
                // Neither offset nor more: it is the whole packet (RFC 6946).
                if place & MORE != 0 {
                    (kind, id) = (FIRST, u32::from_ne_bytes(*word));
                }
            }
            _ => break,
        }
    }
    length | u64::from(next) << PROTOCOL | u64::from(kind) << KIND | u64::from(id) << ID
}

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

impl Family for V6 {
    type Header = Ipv6Hdr;
    type Bytes = Halves;
    type Tuple = Tuple6;
    type Endpoint = Endpoint6;
    type Nat = Nat6;

    const ICMP: u8 = protocol::ICMPV6;
    const ENCAPSULATED: u8 = protocol::IPV6;

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
    fn set_source(ip: &mut Ipv6Hdr, source: Halves) {
        ip.src_addr = source.octets();
    }

    #[inline(always)]
    fn translate(
        ip: &mut Ipv6Hdr,
        source: Halves,
        destination: Halves,
        hop_limit: u8,
        _change: Sum,
    ) {
        ip.hop_limit = hop_limit;
        ip.src_addr = source.octets();
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
    fn length(ip: &Ipv6Hdr) -> u32 {
        u32::from(u16::from_be_bytes(ip.payload_len)) + size_of::<Ipv6Hdr>() as u32
    }

    #[inline(always)]
    fn is_answerable(source: Halves) -> bool {
        // Not multicast; the upper half of the unspecified and the loopback address is zero.
        source.high.to_be() >> 56 != 0xff && source.high != 0
    }

    #[inline(always)]
    fn plain(ip: &Ipv6Hdr, _: &mut Cursor<'_>) -> Option<u8> {
        Some(ip.next_hdr)
    }

    #[inline(always)]
    fn payload(frame: &impl Frame, ip: &Ipv6Hdr, cursor: &mut Cursor<'_>) -> Payload {
        let protocol = ip.next_hdr;
        if !is_extension(protocol) {
            return Payload::Protocol(protocol);
        }
        let chain = Chain(frame.extensions(cursor.offset(frame), protocol));
        cursor.skip(chain.length());
        cursor.fragment = chain.id();
        chain.payload()
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Unreachable, packet too big, time exceeded, parameter problem (RFC 4443 §3).
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn error_change(old: Halves, new: Halves) -> Sum {
        // What is quoted is part of the message, what is before it of the pseudo-header.
        Self::change(old, new)
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
    fn fragment_key(source: Halves, destination: Halves, id: u32, direction: u32) -> [u64; 5] {
        let (from, to) = (source, destination);
        [from.high, from.low, to.high, to.low, super::halves(id, direction)]
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
    fn is_pod_of(node: &Node, address: Halves) -> bool {
        let network = Halves::of(&node.pods6.network.octets);
        let mask = Halves::of(&node.pods6.mask.octets);
        address.high & mask.high == network.high && address.low & mask.low == network.low
    }

    #[inline(always)]
    fn hop(node: &Node) -> &Hop {
        &node.hop6
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
        let ([p, q], [a, b, c, d]) = (port.to_ne_bytes(), backend.to_ne_bytes());
        let third = u64::from_ne_bytes([p, q, 0, 0, a, b, c, d]);
        Endpoint6::from_words([address.high, address.low, third, 0])
    }

    #[inline(always)]
    fn parts(endpoint: &Endpoint6) -> (Halves, u16, u32) {
        (Halves::of(&endpoint.address), endpoint.port, endpoint.backend)
    }

    #[inline(always)]
    fn flows() -> &'static Records<Self> {
        &FLOWS6
    }

    #[inline(always)]
    fn replies() -> &'static Records<Self> {
        &REVERSE6
    }

    #[inline(always)]
    fn half() -> &'static Records<Self> {
        &HALF6
    }

    #[inline(always)]
    fn told(tuple: &Tuple6) -> Option<u32> {
        maps::read(&STRAYS6, tuple, |stray| stray.node)
    }

    #[inline(always)]
    fn translation(tuple: &Tuple6) -> Option<Translation<Halves>> {
        maps::read(&NAT6, tuple, |nat| Translation {
            source: Halves::of(&nat.source),
            destination: Halves::of(&nat.destination),
            ports: Ports {
                source: nat.source_port,
                destination: nat.destination_port,
                protocol: tuple.protocol as u8,
            },
            backend: nat.backend,
            reply: nat.flags & REPLY != 0,
            link: Link { ifindex: nat.ifindex, addresses: nat.link },
            life: Life { state: nat.state, seen: nat.seen },
        })
    }

    #[inline(always)]
    fn nat_answers(tuple: &Tuple6, flow: &Tuple6) -> bool {
        let leads_back = |nat: &Nat6| {
            (nat.source_port, nat.destination_port) == (flow.destination_port, flow.source_port)
                && (Halves::of(&nat.source), Halves::of(&nat.destination))
                    == (Halves::of(&flow.destination), Halves::of(&flow.source))
        };
        maps::read(&NAT6, tuple, leads_back).unwrap_or(false)
    }

    #[inline(always)]
    fn nat_life(tuple: &Tuple6) -> Option<Life> {
        maps::read(&NAT6, tuple, |nat| Life { state: nat.state, seen: nat.seen })
    }

    #[inline(always)]
    fn nat_other(tuple: &Tuple6) -> Option<Tuple6> {
        maps::read(&NAT6, tuple, |nat| {
            let ports = Ports {
                source: nat.destination_port,
                destination: nat.source_port,
                protocol: tuple.protocol as u8,
            };
            Self::tuple(Halves::of(&nat.destination), Halves::of(&nat.source), ports)
        })
    }

    #[inline(always)]
    fn nat_value(to: &Translation<Halves>) -> Nat6 {
        Nat6 {
            source: to.source.octets(),
            destination: to.destination.octets(),
            source_port: to.ports.source,
            destination_port: to.ports.destination,
            backend: to.backend,
            seen: to.life.seen,
            ifindex: to.link.ifindex,
            link: to.link.addresses,
            state: to.life.state,
            flags: if to.reply { REPLY } else { 0 },
        }
    }

    #[inline(always)]
    fn nat_insert(tuple: &Tuple6, value: &Nat6) -> bool {
        NAT6.insert(tuple, value, maps::NO_EXIST).is_ok()
    }

    #[inline(always)]
    fn nat_update(tuple: &Tuple6, life: Life, link: Link) {
        maps::change(&NAT6, tuple, |nat| {
            (nat.state, nat.seen) = (life.state, life.seen);
            if link.ifindex != 0 {
                nat.ifindex = link.ifindex;
                nat.link = link.addresses;
            }
        });
    }

    #[inline(always)]
    fn nat_remove(tuple: &Tuple6) -> bool {
        NAT6.remove(tuple).is_ok()
    }

    #[inline(always)]
    fn nat_tell(tuple: &Tuple6) -> bool {
        NAT_CHANGES6.output(tuple, 0).is_ok()
    }

    #[inline(always)]
    fn replace_in_pseudo(
        ctx: &TcContext,
        check: usize,
        old: Halves,
        new: Halves,
        udp: bool,
    ) -> Result<(), i64> {
        helpers::replace_v6(ctx, check, &old.octets(), &new.octets(), udp)
    }

    #[inline(always)]
    fn replace_in_error(
        ctx: &TcContext,
        check: usize,
        old: Halves,
        new: Halves,
    ) -> Result<(), i64> {
        helpers::replace_v6(ctx, check, &old.octets(), &new.octets(), false)
    }

    #[inline(always)]
    fn replace_source(ctx: &TcContext, at: usize, _: Halves, new: Halves) -> Result<(), i64> {
        ctx.store(at + offset_of!(Ipv6Hdr, src_addr), &new.octets(), 0)
    }

    #[inline(always)]
    fn replace_destination(ctx: &TcContext, at: usize, _: Halves, new: Halves) -> Result<(), i64> {
        ctx.store(at + offset_of!(Ipv6Hdr, dst_addr), &new.octets(), 0)
    }
}
