//! The programs as the agent loads them.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand the context over by value")]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "aya's macros make the entry points public and undocumented"
)]

use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use kube_vip_ebpf as programs;

/// What arrives on an uplink. Frames in several buffers too: all that is read or written is in the
/// first one, which has the headers.
///
/// Minimum kernel: 5.18; on older ones the agent loads it without such frames.
#[xdp(frags)]
pub fn kube_vip_xdp(mut ctx: XdpContext) -> u32 {
    programs::xdp::handle(&mut ctx) as u32
}

/// What leaves through an uplink.
#[classifier]
pub fn kube_vip_egress(ctx: TcContext) -> i32 {
    programs::egress::handle(&ctx) as i32
}

/// Declares the programs for sockets, each in both families.
macro_rules! sockets {
    ($($hook:ident: $v4:ident, $v6:ident;)+) => {
        $(
            #[cgroup_sock_addr($v4)]
            pub fn $v4(ctx: SockAddrContext) -> i32 {
                programs::cgroup::$hook::<programs::cgroup::V4>(ctx) as i32
            }

            #[cgroup_sock_addr($v6)]
            pub fn $v6(ctx: SockAddrContext) -> i32 {
                programs::cgroup::$hook::<programs::cgroup::V6>(ctx) as i32
            }
        )+
    };
}

sockets! {
    connect: connect4, connect6;
    sendmsg: sendmsg4, sendmsg6;
    recvmsg: recvmsg4, recvmsg6;
    getpeername: getpeername4, getpeername6;
}

/// No helper is used that the kernel keeps for GPL programs, so the string says what is true.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
