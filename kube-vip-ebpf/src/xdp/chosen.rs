//! What balancing has found out about a packet, for the stage that finishes it.

use kube_vip_common::table::Slot;

use super::{Action, Refusal, Verdict};

/// The packet's slot and where the packet came from.
#[derive(Clone, Copy)]
pub struct Chosen {
    /// The slot, as the table has it.
    pub slot: Slot,
    /// The position that an agent gave the packet; nothing where it comes straight from a client.
    pub position: Option<u8>,
    /// The frontend is on a host's own address: what is refused is left to the kernel.
    pub host_address: bool,
}

const POSITION: u32 = 32;
const POSITION_MASK: u64 = 0xf;
const HOST_ADDRESS: u64 = 1 << 36;

impl Chosen {
    /// As a number of 56 bits: the slot below, then the position plus one.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        let position = match self.position {
            Some(position) => position as u64 + 1,
            None => 0,
        };
        let host_address = if self.host_address { HOST_ADDRESS } else { 0 };
        self.slot.to_bits() as u64 | position << POSITION | host_address
    }

    /// Out of the number.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        let position = match (word >> POSITION & POSITION_MASK) as u8 {
            0 => None,
            position => Some(position - 1),
        };
        let slot = Slot::from_bits(word as u32);
        Self { slot, position, host_address: word & HOST_ADDRESS != 0 }
    }

    /// Whether another agent sent the packet here.
    #[inline(always)]
    pub const fn from_agent(self) -> bool {
        self.position.is_some()
    }

    /// Whether a connection with the packet's tuple may have begun at another host, though one with
    /// that tuple is recorded here: the slot has moved, or another host has looked elsewhere already.
    #[inline(always)]
    pub(super) const fn may_be_elsewhere(self) -> bool {
        self.slot.has_history() || matches!(self.position, Some(1..))
    }

    /// The client is told, unless the kernel may know better.
    #[inline(always)]
    pub(super) const fn refuse(self, refusal: Refusal) -> Verdict {
        if self.host_address && !self.from_agent() {
            Verdict::Done(Action::Pass)
        } else {
            Verdict::Refuse(refusal)
        }
    }
}
