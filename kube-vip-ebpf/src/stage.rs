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

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;

use crate::family::{V4, V6};
use crate::xdp;

/// The number, of which LLVM does not know whether it matters: one that does not it would leave out
/// at the call, where the verifier misses it.
#[inline(always)]
fn used(word: u64) -> u64 {
    core::hint::black_box(word)
}

/// Declares global functions and the trait that finds them by family.
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
            $($function)::+::<V4>(XdpContext::new(ctx), used(word))
        }

        $(#[doc = $doc])+
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $v6(ctx: *mut xdp_md, word: u64) -> u64 {
            $($function)::+::<V6>(XdpContext::new(ctx), used(word))
        })+
    };
}

stages! {
    /// The first packets of a flow for a backend here; the number is a packed [`xdp::Chosen`].
    open: open4, open6 = xdp::open::stage;
    /// Records a flow to the backend in the slot; the number is a packed [`xdp::Chosen`].
    begin: begin4, begin6 = xdp::begin::stage;
    /// Delivers the packet that began a flow; the number is a packed [`xdp::Chosen`].
    recorded: recorded4, recorded6 = xdp::recorded::stage;
    /// The middle of a connection without a record here; the number is a packed [`xdp::Chosen`].
    stray: stray4, stray6 = xdp::stray::stage;
    /// For an address of ours, but no frontend's. The number is not used.
    unbalanced: unbalanced4, unbalanced6 = xdp::unbalanced::stage;
    /// Tells a client that nobody serves it; the number is a packed [`xdp::Refusal`].
    refuse: refuse4, refuse6 = xdp::refuse::stage;
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
