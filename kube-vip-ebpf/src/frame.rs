//! Bytes of a packet as references that are checked once.
//!
//! A [`Cursor`] walks a frame from its start and hands out headers that never overlap; they borrow
//! the context, so nothing can keep one across a change of the frame's length.

use aya_ebpf::programs::{TcContext, XdpContext};
use network_types::arp::ArpHdr;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

/// Something that has a frame: where it starts and ends.
pub trait Frame {
    /// First byte.
    fn start(&self) -> usize;
    /// Behind the last byte that can be read directly.
    fn end(&self) -> usize;
}

impl Frame for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

impl Frame for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

/// Types that can lie anywhere in a frame.
///
/// # Safety
///
/// Alignment 1, no padding, and every byte pattern is a value.
pub unsafe trait Wire: Copy {}

// SAFETY: headers made of bytes, `repr(C)` or `repr(C, packed)`.
unsafe impl Wire for EthHdr {}
// SAFETY: as above.
unsafe impl Wire for ArpHdr {}
// SAFETY: as above.
unsafe impl Wire for Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Wire for Ipv6Hdr {}
// SAFETY: as above.
unsafe impl Wire for TcpHdr {}
// SAFETY: as above.
unsafe impl Wire for UdpHdr {}
// SAFETY: bytes.
unsafe impl Wire for u8 {}
// SAFETY: an array of values that may lie anywhere.
unsafe impl<T: Wire, const N: usize> Wire for [T; N] {}

/// A word of four bytes that may lie anywhere; checksums add these.
pub type Word = [u8; 4];

/// A place in a frame that moves towards its end.
pub struct Cursor<'a> {
    at: usize,
    end: usize,
    frame: core::marker::PhantomData<&'a mut [u8]>,
}

impl<'a> Cursor<'a> {
    /// At the start of the frame, which stays borrowed while headers of it are.
    #[inline(always)]
    pub fn new<F: Frame>(frame: &'a F) -> Self {
        Self { at: frame.start(), end: frame.end(), frame: core::marker::PhantomData }
    }

    /// The next bytes as a header, or nothing where the frame ends before.
    #[inline(always)]
    pub fn take<T: Wire>(&mut self) -> Option<&'a mut T> {
        let at = self.at;
        if at + size_of::<T>() > self.end {
            return None;
        }
        self.at = at + size_of::<T>();
        // SAFETY: inside the frame by the check above; aligned and valid by `Wire`; handed out
        // only once, because the cursor has moved on.
        Some(unsafe { &mut *(at as *mut T) })
    }

    /// The next bytes as a header, which stay next.
    #[inline(always)]
    pub fn peek<T: Wire>(&self) -> Option<T> {
        if self.at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: inside the frame by the check above; aligned and valid by `Wire`; copied.
        Some(unsafe { *(self.at as *const T) })
    }

    /// Leaves bytes out. Whether they exist is seen at the next `take`.
    #[inline(always)]
    pub fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

/// Length of the whole frame in bytes, Ethernet header included.
#[inline(always)]
pub fn length<F: Frame>(frame: &F) -> u64 {
    (frame.end() - frame.start()) as u64
}
