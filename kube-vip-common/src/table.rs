//! `TABLES`: one Maglev table per frontend.

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
