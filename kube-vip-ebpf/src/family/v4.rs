//! IPv4 (RFC 791).

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use kube_vip_common::address::Address;
use kube_vip_common::checksum::Sum;
use kube_vip_common::filter::Bit;
use kube_vip_common::flow::{Endpoint4, Tuple4};
use kube_vip_common::hash::{FlowHash, addresses4, ports};
use kube_vip_common::mark::ORDINARY_TTL;
use kube_vip_common::nat::{Nat4, REPLY};
use kube_vip_common::node::{Hop, Node};
use network_types::ip::Ipv4Hdr;

use super::{Family, Life, Link, Payload, Ports, Records, Translation, protocol};
use crate::frame::{Cursor, Frame, Key as _};
use crate::helpers;
use crate::maps::{self, FLOWS4, HALF4, NAT_CHANGES4, NAT4, REVERSE4, STRAYS4};

/// IPv4 (RFC 791).
pub struct V4;

/// More fragments, or an offset: a part of a packet (RFC 791 §3.1).
const FRAGMENT: [u8; 2] = [0x3f, 0xff];
/// More fragments, no offset.
const MORE_FRAGMENTS: [u8; 2] = [0x20, 0];

/// What lies behind the header.
#[inline(always)]
fn content(ip: &Ipv4Hdr, cursor: &mut Cursor<'_>) -> Payload {
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

impl Family for V4 {
    type Header = Ipv4Hdr;
    type Bytes = [u8; 4];
    type Tuple = Tuple4;
    type Endpoint = Endpoint4;
    type Nat = Nat4;

    const ICMP: u8 = protocol::ICMP;
    const ENCAPSULATED: u8 = protocol::IPV4;

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
    fn set_source(ip: &mut Ipv4Hdr, source: [u8; 4]) {
        let change = Self::change(ip.src_addr, source);
        ip.check = change.update(u16::from_ne_bytes(ip.check)).to_ne_bytes();
        ip.src_addr = source;
    }

    #[inline(always)]
    fn translate(ip: &mut Ipv4Hdr, source: [u8; 4], destination: [u8; 4], ttl: u8, change: Sum) {
        let old = u16::from_ne_bytes([ip.ttl, ip.proto]);
        let new = u16::from_ne_bytes([ttl, ip.proto]);
        let change = change.remove(old.into()).add(new.into());
        ip.check = change.update(u16::from_ne_bytes(ip.check)).to_ne_bytes();
        ip.ttl = ttl;
        ip.src_addr = source;
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
    fn length(ip: &Ipv4Hdr) -> u32 {
        u16::from_be_bytes(ip.tot_len).into()
    }

    #[inline(always)]
    fn is_answerable([first, ..]: [u8; 4]) -> bool {
        // Not "this network", not loopback, not multicast, reserved or broadcast (RFC 1122 §3.2.1.3).
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn plain(ip: &Ipv4Hdr, cursor: &mut Cursor<'_>) -> Option<u8> {
        match content(ip, cursor) {
            Payload::Protocol(protocol) => Some(protocol),
            _ => None,
        }
    }

    #[inline(always)]
    fn payload(_: &impl Frame, ip: &Ipv4Hdr, cursor: &mut Cursor<'_>) -> Payload {
        // What tells fragments apart between the same two addresses (RFC 791 §3.2).
        let [high, low] = ip.id;
        cursor.fragment = u32::from_ne_bytes([high, low, ip.proto, 0]);
        content(ip, cursor)
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Unreachable, time exceeded, parameter problem (RFC 792).
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn error_change(_: [u8; 4], _: [u8; 4]) -> Sum {
        // The quoted header's own checksum changes by as much the other way, and there is no
        // pseudo-header.
        Sum::default()
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
    fn fragment_key(source: [u8; 4], destination: [u8; 4], id: u32, direction: u32) -> [u64; 5] {
        let word = |[a, b, c, d]: [u8; 4]| u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]);
        [0, word(source), 0, word(destination), super::halves(id, direction)]
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
    fn is_pod_of(node: &Node, address: [u8; 4]) -> bool {
        let [address, network, mask] =
            [address, node.pods4.network, node.pods4.mask].map(u32::from_ne_bytes);
        address & mask == network
    }

    #[inline(always)]
    fn hop(node: &Node) -> &Hop {
        &node.hop4
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
    fn endpoint([a, b, c, d]: [u8; 4], port: u16, backend: u32) -> Endpoint4 {
        let ([p, q], [e, f, g, h]) = (port.to_ne_bytes(), backend.to_ne_bytes());
        let words = [[a, b, c, d, p, q, 0, 0], [e, f, g, h, 0, 0, 0, 0], [0; 8]];
        Endpoint4::from_words(words.map(u64::from_ne_bytes))
    }

    #[inline(always)]
    fn parts(endpoint: &Endpoint4) -> ([u8; 4], u16, u32) {
        (endpoint.address, endpoint.port, endpoint.backend)
    }

    #[inline(always)]
    fn flows() -> &'static Records<Self> {
        &FLOWS4
    }

    #[inline(always)]
    fn replies() -> &'static Records<Self> {
        &REVERSE4
    }

    #[inline(always)]
    fn half() -> &'static Records<Self> {
        &HALF4
    }

    #[inline(always)]
    fn told(tuple: &Tuple4) -> Option<u32> {
        maps::read(&STRAYS4, tuple, |stray| stray.node)
    }

    #[inline(always)]
    fn translation(tuple: &Tuple4) -> Option<Translation<[u8; 4]>> {
        maps::read(&NAT4, tuple, |nat| Translation {
            source: nat.source,
            destination: nat.destination,
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
    fn nat_answers(tuple: &Tuple4, flow: &Tuple4) -> bool {
        let leads_back = |nat: &Nat4| {
            (nat.source_port, nat.destination_port) == (flow.destination_port, flow.source_port)
                && (nat.source, nat.destination) == (flow.destination, flow.source)
        };
        maps::read(&NAT4, tuple, leads_back).unwrap_or(false)
    }

    #[inline(always)]
    fn nat_life(tuple: &Tuple4) -> Option<Life> {
        maps::read(&NAT4, tuple, |nat| Life { state: nat.state, seen: nat.seen })
    }

    #[inline(always)]
    fn nat_other(tuple: &Tuple4) -> Option<Tuple4> {
        maps::read(&NAT4, tuple, |nat| {
            let ports = Ports {
                source: nat.destination_port,
                destination: nat.source_port,
                protocol: tuple.protocol as u8,
            };
            Self::tuple(nat.destination, nat.source, ports)
        })
    }

    #[inline(always)]
    fn nat_value(to: &Translation<[u8; 4]>) -> Nat4 {
        Nat4 {
            source: to.source,
            destination: to.destination,
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
    fn nat_insert(tuple: &Tuple4, value: &Nat4) -> bool {
        NAT4.insert(tuple, value, maps::NO_EXIST).is_ok()
    }

    #[inline(always)]
    fn nat_update(tuple: &Tuple4, life: Life, link: Link) {
        maps::change(&NAT4, tuple, |nat| {
            (nat.state, nat.seen) = (life.state, life.seen);
            if link.ifindex != 0 {
                nat.ifindex = link.ifindex;
                nat.link = link.addresses;
            }
        });
    }

    #[inline(always)]
    fn nat_remove(tuple: &Tuple4) -> bool {
        NAT4.remove(tuple).is_ok()
    }

    #[inline(always)]
    fn nat_tell(tuple: &Tuple4) -> bool {
        NAT_CHANGES4.output(tuple, 0).is_ok()
    }

    #[inline(always)]
    fn replace_in_pseudo(
        ctx: &TcContext,
        check: usize,
        old: [u8; 4],
        new: [u8; 4],
        udp: bool,
    ) -> Result<(), i64> {
        helpers::replace_v4(ctx, check, old, new, udp)
    }

    #[inline(always)]
    fn replace_in_error(_: &TcContext, _: usize, _: [u8; 4], _: [u8; 4]) -> Result<(), i64> {
        // As in `error_change`.
        Ok(())
    }

    #[inline(always)]
    fn replace_source(ctx: &TcContext, at: usize, old: [u8; 4], new: [u8; 4]) -> Result<(), i64> {
        replace(ctx, at, offset_of!(Ipv4Hdr, src_addr), old, new)
    }

    #[inline(always)]
    fn replace_destination(
        ctx: &TcContext,
        at: usize,
        old: [u8; 4],
        new: [u8; 4],
    ) -> Result<(), i64> {
        replace(ctx, at, offset_of!(Ipv4Hdr, dst_addr), old, new)
    }
}

/// Changes an address in the header at `at`, and the header's checksum.
#[inline(always)]
fn replace(
    ctx: &TcContext,
    at: usize,
    address: usize,
    old: [u8; 4],
    new: [u8; 4],
) -> Result<(), i64> {
    let [from, to] = [old, new].map(|address| u32::from_ne_bytes(address).into());
    ctx.l3_csum_replace(at + offset_of!(Ipv4Hdr, check), from, to, 4)?;
    ctx.store(at + address, &new, 0)
}
