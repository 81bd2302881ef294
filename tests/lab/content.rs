//! Content that can be checked without being kept: every byte follows from its offset.

use std::sync::LazyLock;

/// A prime, so that content shifted by any power of two is noticed.
const PERIOD: usize = 1_048_583;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(step).take(PERIOD).collect()
});

/// Some of the content that starts at `offset`; up to `most` bytes, at least one.
pub(crate) fn from_offset(offset: u64, most: u64) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    let length = (PERIOD - start).min(usize::try_from(most).unwrap_or(usize::MAX));
    &PATTERN[start..start + length]
}

/// Where `received`, which should be the content at `offset`, first differs.
pub(crate) fn first_difference(offset: u64, received: &[u8]) -> Option<u64> {
    let mut done = 0;
    while done < received.len() {
        let wanted = from_offset(offset + done as u64, (received.len() - done) as u64);
        let got = &received[done..done + wanted.len()];
        // Slices compare in one go; bytes are looked at only when there is something to find.
        if wanted != got {
            let at = wanted.iter().zip(got).position(|(a, b)| a != b).unwrap_or_default();
            return Some(offset + (done + at) as u64);
        }
        done += wanted.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_and_a_shift_are_found() {
        let offset = PERIOD as u64 - 10;
        let mut bytes = from_offset(offset, 100).to_vec();
        assert_eq!(bytes.len(), 10);
        bytes.extend(from_offset(offset + 10, 90));
        assert_eq!(first_difference(offset, &bytes), None);
        bytes[42] ^= 1;
        assert_eq!(first_difference(offset, &bytes), Some(offset + 42));
        assert!(first_difference(0, from_offset(4096, 4096)).is_some());
    }
}
