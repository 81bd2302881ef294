//! Bytes of a packet as references that are checked once.
//!
//! A [`Cursor`] walks a frame from its start and hands out headers that never overlap; they borrow
//! the context, so nothing can keep one across a change of the frame's length.

use aya_ebpf::programs::{TcContext, XdpContext};
use kube_vip_common::client::ClientKey;
use kube_vip_common::flow::{Endpoint4, Endpoint6, Tuple4, Tuple6};
use kube_vip_common::fragment::FragmentKey;
use kube_vip_common::frontend::FrontendKey;
use kube_vip_common::node::Hop;
use network_types::arp::ArpHdr;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::stage;

/// Something that has a frame: where it starts and ends.
pub trait Frame {
    /// First byte.
    fn start(&self) -> usize;
    /// Behind the last byte that can be read directly.
    fn end(&self) -> usize;
    /// Steps over IPv6 extension headers, see [`crate::family::V6`]: by a function of its own, so that
    /// the verifier walks every chain once and not at every place that meets one.
    fn extensions(&self, start: usize, next: u8) -> u64;
}

/// Reads a word of a context. Volatile, because LLVM would otherwise read it before a call and hand
/// the number to the function called: there the verifier does not know it for a packet's address.
macro_rules! word {
    ($context:expr, $field:ident) => {
        // SAFETY: the context is valid for the program's whole run.
        unsafe { (&raw const (*$context).$field).read_volatile() as usize }
    };
}

impl Frame for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        word!(self.ctx, data)
    }

    #[inline(always)]
    fn end(&self) -> usize {
        word!(self.ctx, data_end)
    }

    #[inline(always)]
    fn extensions(&self, start: usize, next: u8) -> u64 {
        stage::extensions(self.ctx, start as u64, next.into())
    }
}

impl Frame for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        word!(self.skb.skb, data)
    }

    #[inline(always)]
    fn end(&self) -> usize {
        word!(self.skb.skb, data_end)
    }

    #[inline(always)]
    fn extensions(&self, start: usize, next: u8) -> u64 {
        stage::extensions_leaving(self.skb.skb, start as u64, next.into())
    }
}

/// The same context once more, for a stage that is a function of its own: such a one takes it by
/// value, in a register, because the verifier does not follow a context through memory.
#[inline(always)]
pub fn again(ctx: &mut XdpContext) -> XdpContext {
    XdpContext::new(ctx.ctx)
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

// SAFETY: two values that may lie anywhere, one behind the other (`repr(C)`).
unsafe impl<A: Wire, B: Wire> Wire for Both<A, B> {}

/// A header and what follows it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Both<A, B>(pub A, pub B);

/// A word of four bytes that may lie anywhere; checksums add these.
pub type Word = [u8; 4];

/// Sixteen bytes as two numbers, in the order they lie in memory.
#[inline(always)]
pub fn numbers(bytes: &[u8; 16]) -> [u64; 2] {
    // SAFETY: sixteen readable bytes; any bytes are numbers; read unaligned.
    unsafe { core::ptr::from_ref(bytes).cast::<[u64; 2]>().read_unaligned() }
}

/// Two numbers as the sixteen bytes they are in memory.
#[inline(always)]
pub fn octets(numbers: [u64; 2]) -> [u8; 16] {
    // SAFETY: same size, and any bytes are bytes.
    unsafe { core::mem::transmute(numbers) }
}

/// Destination and source of a frame as three numbers: six single bytes each would have to lie on
/// the stack, where the verifier takes no word at an odd place.
pub type Addresses = [u32; 3];

/// Both addresses of a frame.
#[inline(always)]
pub fn addresses(ethernet: &EthHdr) -> Addresses {
    // SAFETY: the header begins with twelve readable bytes; any bytes are numbers; read unaligned.
    unsafe { core::ptr::from_ref(ethernet).cast::<Addresses>().read_unaligned() }
}

/// Sets both addresses of a frame.
#[inline(always)]
pub fn set_addresses(ethernet: &mut EthHdr, addresses: Addresses) {
    // SAFETY: as above, and the bytes are borrowed for writing.
    unsafe { core::ptr::from_mut(ethernet).cast::<Addresses>().write_unaligned(addresses) }
}

/// The two addresses of a next hop's entry, which lie there as in a frame.
#[inline(always)]
pub fn addresses_of(hop: &Hop) -> Addresses {
    const {
        assert!(core::mem::offset_of!(Hop, source_mac) == core::mem::offset_of!(Hop, mac) + 6);
    };
    // SAFETY: twelve readable bytes by the assertion; any bytes are numbers; read unaligned.
    unsafe { (&raw const hop.mac).cast::<Addresses>().read_unaligned() }
}

/// Destination and source, each as a number.
#[inline(always)]
fn halves([a, b, c]: Addresses) -> (u64, u64) {
    let (a, b, c) = (u64::from(a), u64::from(b), u64::from(c));
    if cfg!(target_endian = "little") {
        (a | (b & 0xffff) << 32, b >> 16 | c << 16)
    } else {
        (a << 16 | b >> 16, (b & 0xffff) << 32 | c)
    }
}

/// The addresses of a frame that goes back.
#[inline(always)]
pub fn turned(addresses: Addresses) -> Addresses {
    let (to, from) = halves(addresses);
    if cfg!(target_endian = "little") {
        [from as u32, (from >> 32 | to << 16) as u32, (to >> 16) as u32]
    } else {
        [(from >> 16) as u32, (from << 16 | to >> 32) as u32, to as u32]
    }
}

/// Whether a frame with these addresses arrived at the address that one with `own` leaves from.
#[inline(always)]
pub fn is_for(addresses: Addresses, own: Addresses) -> bool {
    halves(addresses).0 == halves(own).1
}

/// Keys and values of maps that consist of whole words of eight bytes: in words keys are hashed and
/// compared, and as such all lie on the stack in one piece, written in aligned ones.
///
/// # Safety
///
/// No padding, every byte pattern is a value, aligned to eight bytes.
pub unsafe trait Key<const WORDS: usize>: Copy {
    /// Its words in memory.
    #[inline(always)]
    fn to_words(&self) -> [u64; WORDS] {
        const { assert!(size_of::<Self>() == WORDS * 8) };
        // SAFETY: same size by the assertion, no padding and aligned by the trait.
        unsafe { *core::ptr::from_ref(self).cast() }
    }

    /// A copy made in whole words, whatever of it is used: pieces that LLVM puts together in another
    /// way than they lay end up on the stack in places the verifier calls misaligned.
    #[inline(always)]
    #[must_use]
    fn whole(&self) -> Self {
        const { assert!(size_of::<Self>() == WORDS * 8) };
        let words = core::ptr::from_ref(self).cast::<u64>();
        let word = |n| {
            // SAFETY: within the value by the assertion; aligned, and any bytes a number, by the trait.
            unsafe { words.add(n).read_volatile() }
        };
        Self::from_words(core::array::from_fn(word))
    }

    /// The key that these words are in memory.
    #[inline(always)]
    fn from_words(words: [u64; WORDS]) -> Self {
        const { assert!(size_of::<Self>() == WORDS * 8) };
        // SAFETY: same size by the assertion, and any bytes are a value by the trait.
        unsafe { core::mem::transmute_copy(&words) }
    }
}

// SAFETY: numbers and bytes, `repr(C)`, fields fill the size asserted beside the type.
unsafe impl Key<3> for FrontendKey {}
// SAFETY: as above.
unsafe impl Key<2> for Tuple4 {}
// SAFETY: as above.
unsafe impl Key<5> for Tuple6 {}
// SAFETY: as above.
unsafe impl Key<5> for FragmentKey {}
// SAFETY: as above.
unsafe impl Key<3> for Endpoint4 {}
// SAFETY: as above.
unsafe impl Key<4> for Endpoint6 {}
// SAFETY: as above.
unsafe impl Key<4> for ClientKey {}

/// A place in a frame that moves towards its end.
pub struct Cursor<'a> {
    at: usize,
    end: usize,
    /// What tells the fragments of a packet from others between the same two, where the cursor has
    /// stepped over the header that says it.
    pub fragment: u32,
    frame: core::marker::PhantomData<&'a mut [u8]>,
}

impl<'a> Cursor<'a> {
    /// At the start of the frame, which stays borrowed while headers of it are.
    #[inline(always)]
    pub fn new<F: Frame>(frame: &'a F) -> Self {
        Self { at: frame.start(), end: frame.end(), fragment: 0, frame: core::marker::PhantomData }
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

    /// Where it is, in bytes from the frame's start.
    #[inline(always)]
    pub fn offset<F: Frame>(&self, frame: &F) -> usize {
        // At once: the frame's start is half a register to LLVM, and kept until later it would be
        // stored as such, which the verifier does not allow with an address.
        core::hint::black_box(self.at - frame.start())
    }

    /// How many bytes of the frame it has left behind.
    #[inline(always)]
    pub fn place<F: Frame>(&self, frame: &F) -> u64 {
        (self.at - frame.start()) as u64
    }

    /// Leaves bytes out. Whether they exist is seen at the next `take`.
    #[inline(always)]
    pub fn skip(&mut self, bytes: usize) {
        let at = self.at + bytes;
        // LLVM likes to compute the sum again at each use; the verifier would take each for another
        // place and not see that its end was checked.
        // SAFETY: reads a local variable.
        self.at = unsafe { core::ptr::read_volatile(&raw const at) };
    }
}

/// Length of the frame in bytes, Ethernet header included, given that of its packet by its own word:
/// of a frame in several buffers (`xdp.frags`) only the first can be seen.
#[inline(always)]
pub fn length<F: Frame>(frame: &F, packet: u32) -> u64 {
    let (seen, told) = (visible(frame), u64::from(packet) + size_of::<EthHdr>() as u64);
    if seen > told { seen } else { told }
}

/// Bytes that can be read directly.
#[inline(always)]
pub fn visible<F: Frame>(frame: &F) -> u64 {
    (frame.end() - frame.start()) as u64
}
