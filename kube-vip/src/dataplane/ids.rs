//! Numbers for things the kernel knows by number only.

use std::collections::{BTreeMap, BTreeSet};

/// Gives each key a number below a limit and keeps it as long as the key is there.
#[derive(Clone, Debug)]
pub(super) struct Ids<K> {
    first: u32,
    limit: u32,
    next: u32,
    taken: BTreeMap<K, u32>,
    free: BTreeSet<u32>,
}

/// No number is left.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("all {limit} places for {what} are taken; raise `limits.{what}` and restart")]
pub struct Full {
    /// How many there are.
    pub limit: u32,
    /// What they are for, as the configuration names it.
    pub what: &'static str,
}

impl<K: Ord + Clone> Ids<K> {
    /// Numbers from `first` up to, not including, `limit`.
    pub(super) fn new(first: u32, limit: u32) -> Self {
        Self { first, limit, next: first, taken: BTreeMap::new(), free: BTreeSet::new() }
    }

    /// The number of a key that has one.
    pub(super) fn get(&self, key: &K) -> Option<u32> {
        self.taken.get(key).copied()
    }

    /// The number of a key, a new one where it has none.
    ///
    /// # Errors
    ///
    /// All numbers are taken.
    pub(super) fn get_or_take(&mut self, key: &K, what: &'static str) -> Result<u32, Full> {
        if let Some(id) = self.get(key) {
            return Ok(id);
        }
        let id = match self.free.pop_first() {
            Some(id) => id,
            None if self.next < self.limit => {
                self.next += 1;
                self.next - 1
            }
            None => return Err(Full { limit: self.limit, what }),
        };
        self.taken.insert(key.clone(), id);
        Ok(id)
    }

    /// Takes up a key that has that number already, after a restart.
    pub(super) fn adopt(&mut self, key: K, id: u32) {
        if id < self.first || id >= self.limit || self.taken.values().any(|taken| *taken == id) {
            return;
        }
        self.free.extend(self.next..id);
        self.free.remove(&id);
        self.next = self.next.max(id + 1);
        self.taken.insert(key, id);
    }

    /// Gives the number of a key back.
    pub(super) fn release(&mut self, key: &K) -> Option<u32> {
        let id = self.taken.remove(key)?;
        self.free.insert(id);
        Some(id)
    }

    /// Keys and their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.taken.iter().map(|(key, id)| (key, *id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_come_back() {
        let mut ids = Ids::new(1, 4);
        assert_eq!(ids.get_or_take(&"a", "backends"), Ok(1));
        assert_eq!(ids.get_or_take(&"b", "backends"), Ok(2));
        assert_eq!(ids.get_or_take(&"a", "backends"), Ok(1));
        assert_eq!(ids.release(&"a"), Some(1));
        assert_eq!(ids.get_or_take(&"c", "backends"), Ok(1));
        assert_eq!(ids.get_or_take(&"d", "backends"), Ok(3));
        assert_eq!(ids.get_or_take(&"e", "backends"), Err(Full { limit: 4, what: "backends" }));
    }

    #[test]
    fn adopted_numbers_are_not_given_twice() {
        let mut ids = Ids::new(1, 10);
        ids.adopt("c", 3);
        let more: Vec<_> =
            ["a", "b", "d"].iter().map(|key| ids.get_or_take(key, "backends")).collect();
        assert_eq!(more, [Ok(1), Ok(2), Ok(4)]);
    }
}
