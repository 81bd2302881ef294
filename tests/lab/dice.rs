//! Numbers that look random and are the same in every run with the same seed.

/// Marsaglia's xorshift.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From that seed on.
    pub fn new(seed: u64) -> Self {
        // Of 0 nothing but 0 would come. Seeds that are near each other are far apart after this.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1))
    }

    /// A number below that one.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}
