//! The kernel side of kube-vip: what arrives ([`xdp`]), what leaves ([`egress`]), and what processes
//! of this host ask for ([`cgroup`]).
//!
//! Each stage is a file and can be read alone. Packet bytes are reached through [`frame`], maps
//! through [`maps`]; those two, [`count`], [`helpers`] and `cgroup::socket` hold all the `unsafe` there is.
#![no_std]
#![expect(
    clippy::needless_pass_by_value,
    reason = "a stage that is a function of its own takes the context in a register, see frame::again"
)]

mod abandoned;
pub mod cgroup;
pub mod count;
pub mod egress;
mod ethertype;
pub mod event;
pub mod family;
pub mod frame;
pub mod helpers;
pub mod log;
pub mod maps;
pub mod ownership;
pub mod record;
pub mod stage;
pub mod xdp;

/// Programs cannot panic: the verifier refuses what could get here.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
