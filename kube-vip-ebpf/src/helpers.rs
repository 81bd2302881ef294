//! Kernel helpers without a safe form in aya.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::Global;
use aya_ebpf::helpers::generated as raw;
use aya_ebpf::programs::{TcContext, XdpContext};

/// Nanoseconds of `CLOCK_BOOTTIME`. About 30 ns: only on rare paths.
///
/// Minimum kernel: 5.8.
#[inline(always)]
pub fn boot_time() -> u64 {
    // SAFETY: no arguments.
    unsafe { raw::bpf_ktime_get_boot_ns() }
}

/// A number that is different each time, not fit for secrets.
///
/// Minimum kernel: 4.1.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { raw::bpf_get_prandom_u32() }
}

/// Not 0 where the kernel has `bpf_set_retval`; set by the agent when it loads the programs.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: Global<u8> = Global::new(0);

/// Makes the system call that is refused end with `ECONNREFUSED`, where the kernel can; it ends with
/// `EPERM` otherwise.
///
/// Minimum kernel: 5.18. On older ones the verifier leaves the call out, because the number is
/// constant when it looks.
#[inline(always)]
pub fn connection_refused() {
    const ECONNREFUSED: i32 = 111;
    if HAS_SET_RETVAL.load() != 0 {
        // SAFETY: a number only.
        unsafe { raw::bpf_set_retval(-ECONNREFUSED) };
    }
}

/// Brings the frame to `length` bytes, all of them in its first buffer, by moving its end; `packet` is
/// the length of what it carries now, as in [`length`](crate::frame::length). Fails where there is no
/// room, and where the packet was not as long as it said.
///
/// Minimum kernel: 4.18 to shrink, 5.8 to grow.
#[inline(always)]
pub fn set_length(ctx: &mut XdpContext, packet: u32, length: u64) -> Option<()> {
    let delta = length as i64 - crate::frame::length(ctx, packet) as i64;
    if delta != 0 {
        // SAFETY: the context is the program's own; `&mut` ends every borrow of the frame.
        let result = unsafe { raw::bpf_xdp_adjust_tail(ctx.ctx, delta as i32) };
        if result != 0 {
            return None;
        }
    }
    (crate::frame::visible(ctx) == length).then_some(())
}

/// Makes room for `bytes` before the frame's first byte, or takes so many away where it is negative.
///
/// Minimum kernel: 4.10.
#[inline(always)]
pub fn grow_head(ctx: &mut XdpContext, bytes: i32) -> Option<()> {
    // SAFETY: as in `set_length`.
    let result = unsafe { raw::bpf_xdp_adjust_head(ctx.ctx, -bytes) };
    (result == 0).then_some(())
}

/// Sends the frame out through another interface; the value is what the program returns.
#[inline(always)]
pub fn redirect(ifindex: u32) -> u32 {
    // SAFETY: numbers only.
    unsafe { raw::bpf_redirect(ifindex, 0) as u32 }
}

/// What a change of 16 bytes means for a checksum, as `l4_csum_replace` takes it.
#[inline(always)]
fn checksum_difference(old: &[u8; 16], new: &[u8; 16]) -> u64 {
    // SAFETY: both are 16 readable bytes; the helper only reads.
    unsafe {
        raw::bpf_csum_diff(
            old.as_ptr().cast_mut().cast(),
            16,
            new.as_ptr().cast_mut().cast(),
            16,
            0,
        ) as u64
    }
}

/// Number of segments an skb stands for.
///
/// Minimum kernel: 5.1.
#[inline(always)]
pub fn segments(ctx: &TcContext) -> u64 {
    let skb: *const aya_ebpf::bindings::__sk_buff = ctx.as_ptr().cast();
    // SAFETY: the context is valid for the program's whole run; the field is a plain number.
    let segments = unsafe { (*skb).gso_segs };
    if segments == 0 { 1 } else { u64::from(segments) }
}

/// `BPF_F_PSEUDO_HDR`: the change is in the pseudo-header, so a partial checksum has it too.
const PSEUDO_HEADER: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`: a UDP checksum that is zero stays, one that becomes zero is all ones.
const ZERO_MEANS_NONE: u64 = 1 << 5;

#[inline(always)]
const fn kind(udp: bool) -> u64 {
    if udp { ZERO_MEANS_NONE } else { 0 }
}

/// Makes a checksum follow a change of the IPv4 address it covers.
#[inline(always)]
pub fn replace_v4(
    ctx: &TcContext,
    check: usize,
    old: [u8; 4],
    new: [u8; 4],
    udp: bool,
) -> Result<(), i64> {
    let [old, new] = [old, new].map(|address| u32::from_ne_bytes(address).into());
    ctx.l4_csum_replace(check, old, new, PSEUDO_HEADER | kind(udp) | 4)
}

/// Makes a checksum follow a change of the IPv6 address it covers.
#[inline(always)]
pub fn replace_v6(
    ctx: &TcContext,
    check: usize,
    old: &[u8; 16],
    new: &[u8; 16],
    udp: bool,
) -> Result<(), i64> {
    let difference = checksum_difference(old, new);
    ctx.l4_csum_replace(check, 0, difference, PSEUDO_HEADER | kind(udp))
}

/// Makes a checksum follow a change of port, given in the host's order.
#[inline(always)]
pub fn replace_port(
    ctx: &TcContext,
    check: usize,
    old: u16,
    new: u16,
    udp: bool,
) -> Result<(), i64> {
    ctx.l4_csum_replace(check, old.to_be().into(), new.to_be().into(), kind(udp) | 2)
}
