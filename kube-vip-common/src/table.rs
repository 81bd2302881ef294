//! `TABLES` and `TABLES_SIZED`: frontend id → its table, replaced as a whole.
//!
//! A table is an array of cache lines: one header, then the slots, then the backends that run here.
//! Arrays of one length are read without a call into the kernel, which is a fifth of what forwarding
//! costs. So the tables of the usual size lie in `TABLES`, each with room for everything a table can
//! have, and those of other sizes, as long as they need to be, in `TABLES_SIZED`.
//!
//! ```text
//! line 0            Header
//! line 1 …          slots, 16 to a line
//! then              locals, 16 to a line: backends on this host
//! then              histories of the slots, 16 to a line, where any slot has one
//! ```

use crate::assert_size;
use crate::history::Past;

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

    /// Whether tables of that size lie in `TABLES`.
    pub const fn is_usual(self) -> bool {
        self.slots() == USUAL_SLOTS
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

/// For so many seconds after a change a host may not have all of what others know: they look at
/// files twice a second, and some are slow.
const SETTLING: u32 = 2;

/// The hand of the clock may be so many seconds behind what a change was noted with.
const LATE: u32 = 60;

impl Header {
    /// Whether hosts may still differ, by the time of the clock.
    #[inline(always)]
    pub const fn is_settling(&self, now: u32) -> bool {
        // The clock's hand may be late.
        let late = now.wrapping_add(LATE).wrapping_sub(self.changed);
        self.changed != 0 && late <= LATE + SETTLING
    }
}

/// Slots in a line.
pub const SLOTS_PER_LINE: u32 = 16;

/// Slots of the tables in `TABLES`.
pub const USUAL_SLOTS: u32 = TableSize::S4093.slots();

/// Most backends on this host that a table in `TABLES` names. Only a new flow that another host sent
/// here for a backend unknown here falls back on them, so that those beyond get no less otherwise.
pub const USUAL_LOCALS: usize = 256;

/// Lines of each table in `TABLES`, histories included.
pub const USUAL_LINES: u32 =
    1 + 2 * USUAL_SLOTS.div_ceil(SLOTS_PER_LINE) + USUAL_LOCALS as u32 / SLOTS_PER_LINE;

/// Most backends a table can have.
pub const MAX_MEMBERS: usize = 0x7fff;

/// Element of a table: what it holds follows from its place.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub union Line {
    /// Line 0.
    pub header: Header,
    /// Slots, or local backends.
    pub slots: [Slot; SLOTS_PER_LINE as usize],
    /// Histories of slots.
    pub pasts: [Past; SLOTS_PER_LINE as usize],
}

/// First line of a table.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Number of slots.
    pub slots: u32,
    /// Number of local backends.
    pub locals: u32,
    /// First line with histories; 0 where no slot has one.
    pub histories: u32,
    /// Second by [`Clock`](crate::clock::Clock) in which the table took the place of another; 0: none.
    pub changed: u32,
    /// Always 0; fills the line, so that every byte of it is defined.
    pub pad: [u32; 12],
}

/// A backend in a table: its index into `BACKENDS` in the lower 22 bits, that of its node into
/// `NODES` in the 8 above, and in the upper two what forwarding must know of the slot's history.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    packed: u32,
}

assert_size!(Line: 64, Header: 64, Slot: 4);

impl Slot {
    /// No backend: no table has a member like it, because node 0 is never a host.
    pub const NONE: Self = Self { packed: 0 };

    const BACKEND_BITS: u32 = 22;
    const BACKEND_MASK: u32 = Self::MAX_BACKENDS - 1;
    const NODE_MASK: u32 = Self::MAX_NODES - 1;
    /// The slot's history names this host.
    const WAS_HERE: u32 = 1 << 31;
    /// The slot has a history.
    const HAS_HISTORY: u32 = 1 << 30;

    /// Most elements of `BACKENDS` that a slot can tell apart.
    pub const MAX_BACKENDS: u32 = 1 << Self::BACKEND_BITS;
    /// Most elements of `NODES` that a slot can tell apart.
    pub const MAX_NODES: u32 = 256;

    /// That backend on that node.
    pub const fn new(backend: u32, node: u16) -> Self {
        assert!(backend < Self::MAX_BACKENDS && (node as u32) < Self::MAX_NODES);
        Self { packed: backend | (node as u32) << Self::BACKEND_BITS }
    }

    /// As a number, for a stage of the programs.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        self.packed
    }

    /// The slot that this number is.
    #[inline(always)]
    pub const fn from_bits(packed: u32) -> Self {
        Self { packed }
    }

    /// The same backend by way of another node.
    #[inline(always)]
    #[must_use]
    pub const fn with_node(self, node: u32) -> Self {
        let rest = self.packed & !(Self::NODE_MASK << Self::BACKEND_BITS);
        Self { packed: rest | (node & Self::NODE_MASK) << Self::BACKEND_BITS }
    }

    /// Index into `BACKENDS`.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        self.packed & Self::BACKEND_MASK
    }

    /// Index into `NODES`: what forwarding needs, without another look-up.
    #[inline(always)]
    pub const fn node(self) -> u16 {
        (self.packed >> Self::BACKEND_BITS & Self::NODE_MASK) as u16
    }

    /// The same backend, in a slot that led to other nodes before; `here` where this host is one.
    #[must_use]
    pub const fn with_history(self, here: bool) -> Self {
        let bits = Self::HAS_HISTORY | if here { Self::WAS_HERE } else { 0 };
        Self { packed: self.packed | bits }
    }

    /// Whether connections of this slot may still be here: its history names this host.
    #[inline(always)]
    pub const fn was_here(self) -> bool {
        self.packed & Self::WAS_HERE != 0
    }

    /// Whether the slot led to other nodes before.
    #[inline(always)]
    pub const fn has_history(self) -> bool {
        self.packed & Self::HAS_HISTORY != 0
    }

    /// Whether there is a backend.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.node() != 0
    }
}

/// Where the parts of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of slots.
    pub slots: u32,
    /// Number of local backends.
    pub locals: u32,
    /// Whether any slot has a history.
    pub histories: bool,
}

impl Geometry {
    /// The parts of the table with that header.
    #[inline(always)]
    pub const fn of(header: &Header) -> Self {
        let Header { slots, locals, histories, .. } = *header;
        Self { slots, locals, histories: histories != 0 }
    }

    /// Number of lines.
    pub const fn lines(self) -> u32 {
        let histories = if self.histories { self.slots.div_ceil(SLOTS_PER_LINE) } else { 0 };
        self.histories_start() + histories
    }

    /// First line with histories, or the end of the table.
    const fn histories_start(self) -> u32 {
        self.locals_start() + self.locals.div_ceil(SLOTS_PER_LINE)
    }

    /// First line with local backends.
    #[inline(always)]
    pub const fn locals_start(self) -> u32 {
        1 + self.slots.div_ceil(SLOTS_PER_LINE)
    }

    /// Writes a table into `lines`, which must have [`lines`](Self::lines) elements. `pasts` are the
    /// histories of the slots, if any has one.
    pub fn write(
        self,
        lines: &mut [Line],
        slots: &[Slot],
        locals: &[Slot],
        pasts: &[Past],
        changed: u32,
    ) {
        let histories = if self.histories { self.histories_start() } else { 0 };
        let Self { slots: count, locals: here, .. } = self;
        let header = Header { slots: count, locals: here, histories, changed, pad: [0; 12] };
        lines[0] = Line { header };
        let (slot_lines, rest) = lines[1..].split_at_mut(self.locals_start() as usize - 1);
        let (local_lines, past_lines) =
            rest.split_at_mut((self.histories_start() - self.locals_start()) as usize);
        write_slots(slot_lines, slots);
        write_slots(local_lines, locals);
        for (line, chunk) in past_lines.iter_mut().zip(pasts.chunks(SLOTS_PER_LINE as usize)) {
            let mut pasts = [Past::NONE; SLOTS_PER_LINE as usize];
            pasts[..chunk.len()].copy_from_slice(chunk);
            *line = Line { pasts };
        }
    }
}

fn write_slots(lines: &mut [Line], slots: &[Slot]) {
    for (line, chunk) in lines.iter_mut().zip(slots.chunks(SLOTS_PER_LINE as usize)) {
        let mut slots = [Slot::NONE; SLOTS_PER_LINE as usize];
        slots[..chunk.len()].copy_from_slice(chunk);
        *line = Line { slots };
    }
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
    fn a_table_settles_after_a_change_by_a_clock_that_may_be_late() {
        let at = |changed, now| Header { changed, ..Header::default() }.is_settling(now);
        assert_eq!(
            [39, 40, 99, 100, 102, 103].map(|now| at(100, now)),
            [false, true, true, true, true, false]
        );
        assert!(!at(0, 0) && !at(0, 1), "it never changed");
    }

    #[test]
    fn parts_of_a_table_do_not_overlap() {
        let geometry = Geometry { slots: 251, locals: 33, histories: false };
        assert_eq!((geometry.locals_start(), geometry.lines()), (1 + 16, 1 + 16 + 3));
        assert_eq!(Geometry { locals: 0, ..geometry }.lines(), 17);
        let geometry = Geometry { histories: true, ..geometry };
        assert_eq!((geometry.histories_start(), geometry.lines()), (20, 20 + 16));
    }

    #[test]
    fn a_usual_table_has_room_for_all_it_can_have() {
        let full = Geometry { slots: USUAL_SLOTS, locals: USUAL_LOCALS as u32, histories: true };
        assert_eq!(full.lines(), USUAL_LINES);
        assert_eq!(TableSize::ALL.map(TableSize::is_usual), [false, false, true, false, false]);
        assert!(TableSize::default().is_usual());
    }

    #[test]
    fn slots_hold_any_backend_and_node() {
        for (backend, node) in [(0, 1), (1, 1), (Slot::MAX_BACKENDS - 1, 255), (12345, 77)] {
            let slot = Slot::new(backend, node);
            assert_eq!((slot.backend(), slot.node(), slot.is_some()), (backend, node, true));
        }
        assert!(!Slot::NONE.is_some());
        let all = Slot::new(12345, 77).with_history(true);
        assert_eq!(Slot::from_bits(all.to_bits()), all);
        let slot = Slot::new(12345, 77);
        let (before, here) = (slot.with_history(false), slot.with_history(true));
        assert_eq!((before.backend(), before.node()), (12345, 77));
        assert_eq!((here.backend(), here.node()), (12345, 77));
        assert_eq!([slot, before, here].map(Slot::has_history), [false, true, true]);
        assert_eq!([slot, before, here].map(Slot::was_here), [false, false, true]);
        let other = here.with_node(3);
        assert_eq!((other.backend(), other.node(), other.was_here()), (12345, 3, true));
    }
}
