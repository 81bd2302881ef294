//! Records in a file: each with its place in the order and checksums. No I/O.
//!
//! ```text
//! length (4 bytes) | number (4) | checksum of the payload (4) | checksum of these 12 (4) | payload
//! ```
//!
//! All numbers are little-endian. The header has a checksum of its own so that a damaged length is
//! not taken for a record that was cut short.

const HEADER: usize = 16;

/// Longest payload.
pub(super) const MAX_PAYLOAD: usize = 16 << 20;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct Damage {
    /// Offset in the file.
    pub at: usize,
    /// What is there.
    pub what: &'static str,
}

/// Writes one record.
pub(super) fn encode(number: u32, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= MAX_PAYLOAD && payload.last() != Some(&0));
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The payloads in a file, and the length of what is whole. A last record that was not written to
/// its end is left out: cut short, or nothing but zeros from some place on. Payloads never end with
/// a zero byte, so a whole record does not look like that.
pub(super) fn decode(file: &[u8]) -> Result<(Vec<&[u8]>, usize), Damage> {
    let mut payloads = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let rest = &file[at..];
        let torn = rest.last() == Some(&0);
        let damage = |what| Damage { at, what };
        let Some((header, rest)) = rest.split_at_checked(HEADER) else { break };
        let word =
            |n: usize| u32::from_le_bytes(header[4 * n..4 * n + 4].try_into().unwrap_or_default());
        if crc32fast::hash(&header[..12]) != word(3) {
            if torn && rest.iter().all(|byte| *byte == 0) {
                break;
            }
            return Err(damage("the header of a record does not have its checksum"));
        }
        if word(1) as usize != payloads.len() {
            return Err(damage("a record is missing, or there twice"));
        }
        let length = word(0) as usize;
        if length > MAX_PAYLOAD {
            return Err(damage("a record is too long"));
        }
        let Some(payload) = rest.get(..length) else { break };
        if crc32fast::hash(payload) != word(2) {
            if torn && rest[length..].iter().all(|byte| *byte == 0) {
                break;
            }
            return Err(damage("a record does not have its checksum"));
        }
        payloads.push(payload);
        at += HEADER + length;
    }
    Ok((payloads, at.min(file.len())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(payloads: &[Vec<u8>]) -> Vec<u8> {
        (0..).zip(payloads).flat_map(|(number, payload)| encode(number, payload)).collect()
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let payload = prop::collection::vec(any::<u8>(), 0..40).prop_map(|mut bytes| {
            bytes.push(b'}');
            bytes
        });
        prop::collection::vec(payload, 1..6)
    }

    #[test]
    fn bytes_of_a_record() {
        let bytes = encode(1, b"{}");
        assert_eq!(bytes[..8], [2, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[16..], *b"{}");
        assert_eq!(bytes.len(), 18);
    }

    #[test]
    fn records_out_of_order_are_refused() {
        let (first, second) = (encode(0, b"a"), encode(1, b"b"));
        for file in [[&first[..], &first].concat(), second.clone(), [&second[..], &first].concat()]
        {
            assert_eq!(decode(&file).unwrap_err().what, "a record is missing, or there twice");
        }
    }

    proptest! {
        #[test]
        fn torn_tail_is_left_out(
            payloads in payloads(),
            cut in any::<prop::sample::Index>(),
            zeros in any::<bool>(),
        ) {
            let mut file = file(&payloads);
            let ends: Vec<_> = payloads
                .iter()
                .scan(0, |end, payload| {
                    *end += HEADER + payload.len();
                    Some(*end)
                })
                .collect();
            let cut = cut.index(file.len() + 1);
            if zeros {
                // The file had its length already, but not yet its bytes.
                file[cut..].fill(0);
            } else {
                file.truncate(cut);
            }
            let complete = ends.iter().filter(|end| **end <= cut).count();
            let begun = complete.checked_sub(1).map_or(0, |last| ends[last]);
            let (found, whole) = decode(&file).unwrap();
            prop_assert_eq!(&found[..], &payloads[..complete]);
            prop_assert_eq!(whole, begun);
        }

        #[test]
        fn damage_is_never_taken_for_a_torn_tail(
            payloads in payloads(),
            place in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let mut file = file(&payloads);
            let place = place.index(file.len());
            file[place] ^= 1 << bit;
            prop_assert!(decode(&file).is_err(), "byte {place} bit {bit}");
        }

        #[test]
        fn no_file_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
        }
    }
}
