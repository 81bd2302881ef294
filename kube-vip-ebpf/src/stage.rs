//! Stages that are global functions of the object.
//!
//! The verifier checks a global function once, for any arguments, instead of at every place and
//! state it is called from (Linux Documentation/bpf/verifier.rst; 5.6), so a stage that few packets
//! need costs the common way nothing. In return it takes the context and one number and parses
//! the packet again. Where it leaves another stage something to do it says so in its answer
//! ([`Verdict::pack`](crate::xdp::Verdict::pack)) instead of calling it: all frames of a chain of
//! calls share 512 bytes of stack.
//!
//! The names are the object's, for all stages together, and show up in `bpftool prog dump`.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::family::{V4, V6, walk};
use crate::{egress, xdp};

/// The number, of which LLVM does not know whether it matters: one that does not it would leave out
/// at the call, where the verifier misses it.
#[inline(always)]
fn used(word: u64) -> u64 {
    core::hint::black_box(word)
}

/// Declares global functions and the trait that finds them by family. That a packet is a first
/// fragment goes through all of them in the number's flag.
macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $stage:ident: $v4:ident, $v6:ident = $($function:ident)::+;)+) => {
        /// The stages of an IP version.
        pub trait Stages {
            $($(#[doc = $doc])+ fn $stage(ctx: &XdpContext, word: u64) -> u64;)+
        }

        impl Stages for V4 {
            $(#[inline(always)]
            fn $stage(ctx: &XdpContext, word: u64) -> u64 {
                $v4(ctx.ctx, word)
            })+
        }

        impl Stages for V6 {
            $(#[inline(always)]
            fn $stage(ctx: &XdpContext, word: u64) -> u64 {
                $v6(ctx.ctx, word)
            })+
        }

        $($(#[doc = $doc])+
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $v4(ctx: *mut xdp_md, word: u64) -> u64 {
            let flag = word & xdp::FIRST_FRAGMENT;
            $($function)::+::<V4>(XdpContext::new(ctx), used(word ^ flag)) | flag
        }

        $(#[doc = $doc])+
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $v6(ctx: *mut xdp_md, word: u64) -> u64 {
            let flag = word & xdp::FIRST_FRAGMENT;
            $($function)::+::<V6>(XdpContext::new(ctx), used(word ^ flag)) | flag
        })+
    };
}

stages! {
    /// For an address of ours and no plain TCP or UDP. The number is not used.
    unusual: unusual4, unusual6 = xdp::unusual::stage;
    /// A fragment that is not its packet's first. The number is not used.
    follow: follow4, follow6 = xdp::fragments::follow;
    /// An ICMP error to an address of ours. The number is not used.
    error: error4, error6 = xdp::error::stage;
    /// The same, first looked at as one about a translated flow. The number is not used.
    nat_error: nat_error4, nat_error6 = xdp::nat_error::stage;
    /// A first fragment is done with; the number is its packed verdict, and the answer too.
    remember: remember4, remember6 = xdp::fragments::remember;
    /// The first packets of a flow for a backend here; the number is a packed [`xdp::Chosen`].
    open: open4, open6 = xdp::open::stage;
    /// Records a flow to the backend in the slot; the number is a packed [`xdp::Verdict`].
    begin: begin4, begin6 = xdp::begin::stage;
    /// Delivers the packet that began a flow; the number is a packed [`xdp::Chosen`].
    recorded: recorded4, recorded6 = xdp::recorded::stage;
    /// Where the TCP or UDP header is: a number for [`xdp::locate`]. The number given is not used.
    locate: locate4, locate6 = xdp::locate::stage;
    /// To be translated, or perhaps translated before; the number is a packed [`xdp::Verdict`].
    nat: nat4, nat6 = xdp::nat::stage;
    /// The first packet of a flow to be translated; the number is a packed [`xdp::Chosen`].
    nat_open: nat_open4, nat_open6 = xdp::nat_open::stage;
    /// The same, here; the number is a packed [`xdp::Chosen`].
    nat_seek: nat_seek4, nat_seek6 = xdp::nat_seek::stage;
    /// The same, with a port; the number is a packed [`xdp::Verdict`].
    nat_begin: nat_begin4, nat_begin6 = xdp::nat_begin::stage;
    /// The middle of a connection without a record here; the number is a packed [`xdp::Chosen`].
    stray: stray4, stray6 = xdp::stray::stage;
    /// An IP packet inside another one, for an address of ours. The number is not used.
    decapsulate: decapsulate4, decapsulate6 = xdp::decapsulate::stage;
    /// To a peer behind a router; the number is a packed [`xdp::Onward`].
    tunnel: tunnel4, tunnel6 = xdp::tunnel::stage;
    /// Another agent's probe. The number is not used.
    probe: probe4, probe6 = xdp::probe::stage;
    /// For an address of ours, but no frontend's: perhaps a reply to a translated flow. The number is
    /// not used.
    nat_reply: nat_reply4, nat_reply6 = xdp::nat_reply::stage;
    /// For an address of ours, but no frontend's. The number is not used.
    unbalanced: unbalanced4, unbalanced6 = xdp::unbalanced::stage;
    /// Tells a client that nobody serves it; the number is a packed [`xdp::Refusal`].
    refuse: refuse4, refuse6 = xdp::refuse::stage;
}

/// Takes VLAN tags off a frame that may be ours; 0 where it stays as it is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pop_tags(ctx: *mut xdp_md) -> u64 {
    xdp::vlan::pop(XdpContext::new(ctx))
}

/// Puts VLAN tags on again; what to do with the frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn push_tags(ctx: *mut xdp_md, tags: u64, action: u32) -> u32 {
    xdp::vlan::push(XdpContext::new(ctx), tags, action)
}

/// What leaves behind VLAN tags, and where it begins.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn behind_tags(ctx: *mut __sk_buff) -> u32 {
    egress::unusual::behind_tags(TcContext::new(ctx))
}

/// A SYN-ACK that leaves over IPv4 and tells the client too much.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn clamp4(ctx: *mut __sk_buff) -> i64 {
    egress::clamp::stage::<V4>(TcContext::new(ctx))
}

/// As [`clamp4`], over IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn clamp6(ctx: *mut __sk_buff) -> i64 {
    egress::clamp::stage::<V6>(TcContext::new(ctx))
}

/// A control message that leaves over IPv4; the number says where its IP header is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn error_leaving4(ctx: *mut __sk_buff, network: u64) -> i32 {
    egress::error::handle::<V4>(TcContext::new(ctx), network as usize) as i32
}

/// As [`error_leaving4`], over IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn error_leaving6(ctx: *mut __sk_buff, network: u64) -> i32 {
    egress::error::handle::<V6>(TcContext::new(ctx), network as usize) as i32
}

/// What leaves and is no plain TCP or UDP over IPv4; the number says where its IP header is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unusual_reply4(ctx: *mut __sk_buff, network: u64) -> i32 {
    egress::unusual::handle::<V4>(TcContext::new(ctx), network as usize)
}

/// As [`unusual_reply4`], over IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unusual_reply6(ctx: *mut __sk_buff, network: u64) -> i32 {
    egress::unusual::handle::<V6>(TcContext::new(ctx), network as usize)
}

/// Steps over IPv6 extension headers: see [`walk`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn extensions(ctx: *mut xdp_md, start: u64, next: u64) -> u64 {
    walk(&XdpContext::new(ctx), start, next as u8)
}

/// As [`extensions`], of what leaves.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn extensions_leaving(ctx: *mut __sk_buff, start: u64, next: u64) -> u64 {
    walk(&TcContext::new(ctx), start, next as u8)
}

/// Whether no agent has touched the data plane for long.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn abandoned() -> u32 {
    u32::from(crate::abandoned::check())
}

/// ARP for VIPs.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn arp(ctx: *mut xdp_md) -> u32 {
    xdp::arp::handle(XdpContext::new(ctx)) as u32
}

/// Neighbour discovery for VIPs.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn nd(ctx: *mut xdp_md) -> u32 {
    xdp::nd::handle(XdpContext::new(ctx)) as u32
}
