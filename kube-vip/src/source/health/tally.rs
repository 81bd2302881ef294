//! When a backend is down, and when up again: as many results of a kind in a row as it takes.

/// What became of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Up,
    Down,
}

/// The state of one check.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    up: bool,
    /// Results in a row that speak against the state.
    against: u32,
    fall: u32,
    rise: u32,
}

impl Tally {
    pub(super) fn new(up: bool, fall: u32, rise: u32) -> Self {
        Self { up, against: 0, fall, rise }
    }

    /// Takes in a result.
    pub(super) fn take(&mut self, passed: bool) -> Option<Change> {
        if passed == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let (needed, change) =
            if self.up { (self.fall, Change::Down) } else { (self.rise, Change::Up) };
        if self.against < needed {
            return None;
        }
        *self = Self { up: !self.up, against: 0, ..self.clone() };
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the words say it: down once the last `fall` results are failures, up once the last
    /// `rise` are successes; what came before the last change does not count again.
    fn by_definition(results: &[bool], fall: usize, rise: usize) -> Vec<bool> {
        let (mut up, mut since) = (true, 0);
        let mut states = Vec::new();
        for end in 1..=results.len() {
            let needed = if up { fall } else { rise };
            let last = &results[since..end];
            let tail = &last[last.len().saturating_sub(needed)..];
            if tail.len() == needed && tail.iter().all(|passed| *passed != up) {
                up = !up;
                since = end;
            }
            states.push(up);
        }
        states
    }

    proptest! {
        #[test]
        fn it_is_what_the_words_say(
            results in proptest::collection::vec(any::<bool>(), 0..200),
            fall in 1u32..6,
            rise in 1u32..6,
        ) {
            let mut tally = Tally::new(true, fall, rise);
            let mut up = true;
            let states: Vec<_> = results
                .iter()
                .map(|passed| {
                    if let Some(change) = tally.take(*passed) {
                        prop_assert_ne!(change == Change::Up, up, "a change to what it was");
                        up = change == Change::Up;
                    }
                    Ok(up)
                })
                .collect::<Result<_, TestCaseError>>()?;
            prop_assert_eq!(states, by_definition(&results, fall as usize, rise as usize));
        }

        #[test]
        fn fewer_failures_than_it_takes_change_nothing(
            runs in proptest::collection::vec(0u32..3, 1..50),
        ) {
            let mut tally = Tally::new(true, 3, 2);
            for run in runs {
                for _ in 0..run {
                    prop_assert_eq!(tally.take(false), None);
                }
                prop_assert_eq!(tally.take(true), None);
            }
        }
    }
}
