//! `TABLES`: frontend id → its table, replaced as a whole.
//!
//! A table is an array of cache lines: one header, then the slots, then the backends the slots
//! point to, then those of them that run here. Slots and backends are swapped together, so a packet
//! never sees a slot of one table with a backend of another.
//!
//! ```text
//! line 0            Header
//! line 1 …          slots, 32 to a line, each an index into the members (and a history bit)
//! then              members, 8 to a line
//! then              locals, 32 to a line: indices of members on this host
//! ```

use crate::assert_size;

/// Number of slots: a prime, by configuration only, so that it never changes with the backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableSize {
    /// 251 slots.
    S251,
    /// 1021 slots.
    S1021,
    /// 4093 slots, the default.
    #[default]
    S4093,
    /// 16381 slots.
    S16381,
    /// 65537 slots.
    S65537,
}

impl TableSize {
    /// All sizes, ascending.
    pub const ALL: [Self; 5] = [Self::S251, Self::S1021, Self::S4093, Self::S16381, Self::S65537];

    /// The number of slots.
    pub const fn slots(self) -> u32 {
        match self {
            Self::S251 => 251,
            Self::S1021 => 1021,
            Self::S4093 => 4093,
            Self::S16381 => 16381,
            Self::S65537 => 65537,
        }
    }

    /// The size with that many slots.
    pub const fn from_slots(slots: u32) -> Option<Self> {
        match slots {
            251 => Some(Self::S251),
            1021 => Some(Self::S1021),
            4093 => Some(Self::S4093),
            16381 => Some(Self::S16381),
            65537 => Some(Self::S65537),
            _ => None,
        }
    }
}

/// Slots in a line.
pub const SLOTS_PER_LINE: u32 = 32;
/// Members in a line.
pub const MEMBERS_PER_LINE: u32 = 8;

/// Bits of a slot that are the index.
pub const INDEX_MASK: u16 = 0x7fff;
/// Index of a slot without a backend; only a table without backends has any.
pub const NO_MEMBER: u16 = INDEX_MASK;
/// Most members a table can have.
pub const MAX_MEMBERS: usize = NO_MEMBER as usize;

/// Element of a table: what it holds follows from its place.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub union Line {
    /// Line 0.
    pub header: Header,
    /// Slots, or indices of local members.
    pub slots: [u16; SLOTS_PER_LINE as usize],
    /// Backends.
    pub members: [Member; MEMBERS_PER_LINE as usize],
}

/// First line of a table.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Number of slots.
    pub slots: u32,
    /// Number of members.
    pub members: u32,
    /// Number of members on this host.
    pub locals: u32,
    /// Always 0; fills the line, so that every byte of it is defined.
    pub pad: [u32; 13],
}

/// A backend of a table.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// Index into `NODES`: what forwarding needs, without another look-up.
    pub node: u16,
    /// Always 0.
    pub flags: u16,
}

assert_size!(Line: 64, Header: 64, Member: 8);

impl Member {
    /// No backend: no table has a member like it, because node 0 is never a host.
    pub const NONE: Self = Self { backend: 0, node: 0, flags: 0 };

    /// Whether there is a backend.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.node != 0
    }
}

/// Where the parts of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of slots.
    pub slots: u32,
    /// Number of members.
    pub members: u32,
    /// Number of members on this host.
    pub locals: u32,
}

impl Geometry {
    /// Number of lines.
    pub const fn lines(self) -> u32 {
        self.locals_start() + self.locals.div_ceil(SLOTS_PER_LINE)
    }

    /// First line with members.
    pub const fn members_start(self) -> u32 {
        members_start(self.slots)
    }

    /// First line with local members.
    pub const fn locals_start(self) -> u32 {
        self.members_start() + self.members.div_ceil(MEMBERS_PER_LINE)
    }

    /// Writes a table into `lines`, which must have [`lines`](Self::lines) elements.
    pub fn write(self, lines: &mut [Line], slots: &[u16], members: &[Member], locals: &[u16]) {
        let header =
            Header { slots: self.slots, members: self.members, locals: self.locals, pad: [0; 13] };
        lines[0] = Line { header };
        let (slot_lines, rest) = lines[1..].split_at_mut(self.members_start() as usize - 1);
        let (member_lines, local_lines) =
            rest.split_at_mut((self.locals_start() - self.members_start()) as usize);
        write_slots(slot_lines, slots);
        write_slots(local_lines, locals);
        for (line, chunk) in member_lines.iter_mut().zip(members.chunks(MEMBERS_PER_LINE as usize))
        {
            let mut members = [Member::default(); MEMBERS_PER_LINE as usize];
            members[..chunk.len()].copy_from_slice(chunk);
            *line = Line { members };
        }
    }
}

fn write_slots(lines: &mut [Line], slots: &[u16]) {
    for (line, chunk) in lines.iter_mut().zip(slots.chunks(SLOTS_PER_LINE as usize)) {
        let mut slots = [0; SLOTS_PER_LINE as usize];
        slots[..chunk.len()].copy_from_slice(chunk);
        *line = Line { slots };
    }
}

/// First line with members in a table of that many slots.
#[inline(always)]
pub const fn members_start(slots: u32) -> u32 {
    1 + slots.div_ceil(SLOTS_PER_LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_prime_and_name_themselves() {
        for size in TableSize::ALL {
            let slots = size.slots();
            assert!((2..slots).take_while(|d| d * d <= slots).all(|d| slots % d != 0), "{slots}");
            assert_eq!(TableSize::from_slots(slots), Some(size));
        }
        assert_eq!(TableSize::from_slots(4096), None);
    }

    #[test]
    fn parts_of_a_table_do_not_overlap() {
        let geometry = Geometry { slots: 251, members: 9, locals: 33 };
        assert_eq!(
            (geometry.members_start(), geometry.locals_start(), geometry.lines()),
            (1 + 8, 1 + 8 + 2, 1 + 8 + 2 + 2)
        );
        let empty = Geometry { slots: 251, members: 0, locals: 0 };
        assert_eq!(empty.lines(), 9);
    }
}
