//! The programs as `cargo xtask bench` measures them: run over and over on one frame.
//!
//! A program changes its frame, so what runs again must first be made what it was. `run_*` is the
//! real program and then that work, `null_*` that work alone, so that its cost is known, `floor_*`
//! does nothing. The work comes behind the program, not before: a program that reads what was just
//! stored in other pieces waits for the processor's store buffer, and no real frame makes it wait.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand the context over by value")]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "aya's macros make the entry points public and undocumented"
)]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use kube_vip_common::stats::Count;
use kube_vip_ebpf as programs;
use network_types::arp::ArpHdr;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;
use programs::egress::Action;
use programs::frame::{Cursor, Frame};
use programs::{count, helpers, stage};

/// What the frame is made again.
#[repr(C)]
pub struct Original {
    /// Number of flows less one; the number is a power of two.
    mask: u32,
    /// 4, 6, or 0 for ARP.
    family: u32,
    ethernet: EthHdr,
    v4: Ipv4Hdr,
    v6: Ipv6Hdr,
    tcp: TcpHdr,
    arp: ArpHdr,
    /// Bytes that the program takes off the frame's head; less than 0 where it puts some there.
    missing: i32,
    /// Not 0 where the packet is inside another one.
    tunnelled: u32,
    outer4: Ipv4Hdr,
    outer6: Ipv6Hdr,
}

#[btf_map]
static ORIGINAL: Array<Original, 1> = Array::new();

/// Frames that were made, and that arrived.
#[btf_map]
static LIVE: PerCpuArray<Count, 2> = PerCpuArray::new();
const MADE: u32 = 0;
const ARRIVED: u32 = 1;

/// Which end of the packet the flows differ in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Source,
    Destination,
}

/// Makes the frame what it was, but for another flow. Without a number for it, flows are counted
/// where no stage on the measured ways looks: in the sequence number.
#[inline(always)]
fn renew<F: Frame>(frame: &F, client: Client, number: Option<u32>) -> Option<()> {
    renew_within::<F, false>(frame, client, number)
}

/// The same, of a packet that may be inside another one.
#[inline(always)]
fn renew_within<F: Frame, const TUNNEL: bool>(
    frame: &F,
    client: Client,
    number: Option<u32>,
) -> Option<()> {
    /// Any odd number visits all flows; this one in no order, so that the records of flows are not
    /// read in the order they lie in memory.
    const STRIDE: u32 = 0x9e37_79b1;
    let original = ORIGINAL.get(0)?;
    let mut cursor = Cursor::new(frame);
    *cursor.take()? = original.ethernet;
    if original.family == 0 {
        *cursor.take()? = original.arp;
        return Some(());
    }
    if TUNNEL && original.tunnelled != 0 {
        if original.family == 4 {
            *cursor.take()? = original.outer4;
        } else {
            *cursor.take()? = original.outer6;
        }
    }
    // The address changes in its last byte: a few bits above the port's sixteen.
    let address = if original.family == 4 {
        let ip = cursor.take::<Ipv4Hdr>()?;
        *ip = original.v4;
        match client {
            Client::Source => &mut ip.src_addr[3],
            Client::Destination => &mut ip.dst_addr[3],
        }
    } else {
        let ip = cursor.take::<Ipv6Hdr>()?;
        *ip = original.v6;
        match client {
            Client::Source => &mut ip.src_addr[15],
            Client::Destination => &mut ip.dst_addr[15],
        }
    };
    let tcp = cursor.take::<TcpHdr>()?;
    let count = number.unwrap_or_else(|| u32::from_ne_bytes(tcp.seq).wrapping_add(1));
    *tcp = original.tcp;
    // A datagram has its length and checksum there.
    if number.is_none() {
        tcp.seq = count.to_ne_bytes();
        // What came in the same place the other way.
        tcp.ack_seq = u32::from_be_bytes(tcp.seq).wrapping_add(1).to_be_bytes();
    }
    let flow = count.wrapping_mul(STRIDE) & original.mask;
    *address ^= (flow >> 16) as u8;
    let port = match client {
        Client::Source => &mut tcp.source,
        Client::Destination => &mut tcp.dest,
    };
    *port = (u16::from_ne_bytes(*port) ^ flow as u16).to_ne_bytes();
    Some(())
}

#[xdp]
pub fn floor_xdp(_: XdpContext) -> u32 {
    XDP_PASS
}

#[xdp]
pub fn null_xdp(ctx: XdpContext) -> u32 {
    renew(&ctx, Client::Source, None);
    XDP_PASS
}

#[xdp]
pub fn run_xdp(mut ctx: XdpContext) -> u32 {
    let action = programs::xdp::handle(&mut ctx);
    renew(&ctx, Client::Source, None);
    action as u32
}

/// The same for packets that come out longer or shorter.
#[xdp]
pub fn resized_xdp(mut ctx: XdpContext) -> u32 {
    let action = programs::xdp::handle(&mut ctx);
    if let Some(original) = ORIGINAL.get(0) {
        helpers::grow_head(&mut ctx, original.missing);
    }
    renew_within::<_, true>(&ctx, Client::Source, None);
    action as u32
}

/// As the agent loads it.
#[xdp(frags)]
pub fn kube_vip_xdp(mut ctx: XdpContext) -> u32 {
    programs::xdp::handle(&mut ctx) as u32
}

#[classifier]
pub fn floor_egress(_: TcContext) -> i32 {
    Action::Next as i32
}

#[classifier]
pub fn null_egress(ctx: TcContext) -> i32 {
    renew(&ctx, Client::Destination, None);
    Action::Next as i32
}

#[classifier]
pub fn run_egress(ctx: TcContext) -> i32 {
    let action = programs::egress::handle(&ctx);
    renew(&ctx, Client::Destination, None);
    action as i32
}

/// As the agent loads it.
#[classifier]
pub fn kube_vip_egress(ctx: TcContext) -> i32 {
    programs::egress::handle(&ctx) as i32
}

/// Sends one frame after the other, each of the next flow. The pages of frames are used again with
/// whatever their last receiver left in them, so all of the headers is written.
#[xdp]
pub fn generate_xdp(ctx: XdpContext) -> u32 {
    let number = count::next(&LIVE, MADE) as u32;
    renew(&ctx, Client::Source, Some(number));
    XDP_TX
}

/// Where frames end.
#[xdp]
pub fn sink_xdp(_: XdpContext) -> u32 {
    count::next(&LIVE, ARRIVED);
    XDP_DROP
}

/// Where they end when somebody else looks at them.
#[xdp]
pub fn seen_xdp(_: XdpContext) -> u32 {
    count::next(&LIVE, ARRIVED);
    XDP_PASS
}

/// The least a program can do that sends a frame on.
#[xdp]
pub fn bounce_xdp(_: XdpContext) -> u32 {
    XDP_TX
}

/// Programs that are one global function each, so that the verifier says what that one takes.
macro_rules! alone {
    ($($name:ident: $stage:ident($($argument:expr),*);)+) => {
        $(#[xdp]
        pub fn $name(ctx: XdpContext) -> u32 {
            stage::$stage(ctx.ctx, $($argument),*) as u32
        })+
    };
}

alone! {
    only_unusual4: unusual4(0);
    only_unusual6: unusual6(0);
    only_follow4: follow4(0);
    only_follow6: follow6(0);
    only_remember4: remember4(0);
    only_remember6: remember6(0);
    only_nat_error4: nat_error4(0);
    only_nat_error6: nat_error6(0);
    only_error4: error4(0);
    only_error6: error6(0);
    only_open4: open4(0);
    only_open6: open6(0);
    only_stray4: stray4(0);
    only_stray6: stray6(0);
    only_decapsulate4: decapsulate4(0);
    only_decapsulate6: decapsulate6(0);
    only_tunnel4: tunnel4(0);
    only_tunnel6: tunnel6(0);
    only_probe4: probe4(0);
    only_probe6: probe6(0);
    only_unbalanced4: unbalanced4(0);
    only_unbalanced6: unbalanced6(0);
    only_refuse4: refuse4(0);
    only_refuse6: refuse6(0);
    only_locate4: locate4(0);
    only_locate6: locate6(0);
    only_nat4: nat4(0);
    only_nat6: nat6(0);
    only_nat_open4: nat_open4(0);
    only_nat_open6: nat_open6(0);
    only_nat_seek4: nat_seek4(0);
    only_nat_seek6: nat_seek6(0);
    only_nat_begin4: nat_begin4(0);
    only_nat_begin6: nat_begin6(0);
    only_nat_reply4: nat_reply4(0);
    only_nat_reply6: nat_reply6(0);
    only_pop_tags: pop_tags();
    only_push_tags: push_tags(0, XDP_PASS);
    only_arp: arp();
    only_nd: nd();
}

#[classifier]
pub fn only_behind_tags(ctx: TcContext) -> i32 {
    stage::behind_tags(ctx.skb.skb) as i32
}

#[classifier]
pub fn only_clamp4(ctx: TcContext) -> i32 {
    stage::clamp4(ctx.skb.skb) as i32
}

#[classifier]
pub fn only_clamp6(ctx: TcContext) -> i32 {
    stage::clamp6(ctx.skb.skb) as i32
}

#[classifier]
pub fn only_error_leaving4(ctx: TcContext) -> i32 {
    stage::error_leaving4(ctx.skb.skb, 14)
}

#[classifier]
pub fn only_error_leaving6(ctx: TcContext) -> i32 {
    stage::error_leaving6(ctx.skb.skb, 14)
}

#[classifier]
pub fn only_unusual_reply4(ctx: TcContext) -> i32 {
    stage::unusual_reply4(ctx.skb.skb, 14)
}

#[classifier]
pub fn only_unusual_reply6(ctx: TcContext) -> i32 {
    stage::unusual_reply6(ctx.skb.skb, 14)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
