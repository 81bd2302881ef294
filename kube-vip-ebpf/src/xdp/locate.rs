//! Where a packet's TCP or UDP header is: a function of its own, so that what lies before it makes
//! no stage longer for the verifier.

use aya_ebpf::programs::XdpContext;
use network_types::eth::EthHdr;

use super::transport::{self, Transport};
use crate::family::{Family, protocol, walk};
use crate::frame::{Cursor, Frame};
use crate::stage::Stages;

/// Below this many bytes every header begins that [`Family::payload`] finds.
const PLACES: u64 = 1 << 14;

const PROTOCOL: u32 = 32;

/// A frame whose extension headers are walked where this is used: another function deeper, the stack
/// of all would be larger than 512 bytes.
struct Shallow<'a>(&'a XdpContext);

impl Frame for Shallow<'_> {
    #[inline(always)]
    fn start(&self) -> usize {
        self.0.start()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.0.end()
    }

    #[inline(always)]
    fn extensions(&self, start: usize, next: u8) -> u64 {
        walk(self, start as u64, next)
    }
}

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, _: u64) -> u64 {
    place::<F>(&ctx).unwrap_or(0)
}

/// Protocol and place, of a first fragment too; nothing where there is no such header.
#[inline(always)]
fn place<F: Family>(ctx: &XdpContext) -> Option<u64> {
    let mut cursor = Cursor::new(ctx);
    let _ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    match F::payload(&Shallow(ctx), ip, &mut cursor).protocol() {
        Some(protocol @ (protocol::TCP | protocol::UDP)) => {
            Some(u64::from(protocol) << PROTOCOL | cursor.place(ctx))
        }
        _ => None,
    }
}

/// The header, where the packet is TCP or UDP and has it.
#[inline(always)]
pub(super) fn transport<F: Family + Stages>(ctx: &XdpContext) -> Option<Transport<'_>> {
    let word = F::locate(ctx, 0);
    let mut cursor = Cursor::new(ctx);
    cursor.skip((word & (PLACES - 1)) as usize);
    transport::parse(&mut cursor, (word >> PROTOCOL) as u8).filter(|_| word != 0)
}
