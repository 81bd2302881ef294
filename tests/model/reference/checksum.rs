//! The Internet checksum as RFC 1071 §4.1 has it: over everything, each time.

/// The one's complement sum.
fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2).map(|pair| [pair[0], *pair.get(1).unwrap_or(&0)]);
    fold(pairs.map(|pair| u32::from(u16::from_be_bytes(pair))).sum())
}

fn fold(mut sum: u32) -> u32 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// The checksum of a message whose checksum field is zero.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    !(sum(bytes) as u16)
}

/// The checksum of a message that was `before` and had the checksum `old`, and is `after` now; both
/// with zeros in the field.
///
/// If it was right it is computed anew. If it was wrong it must stay wrong, by just as much: nobody
/// on the way may repair what was damaged before (RFC 1624 §3).
pub(crate) fn follow(old: u16, before: &[u8], after: &[u8]) -> u16 {
    if checksum(before) == old {
        return checksum(after);
    }
    let complement = |word: u32| !word & 0xffff;
    complement(fold(complement(old.into()) + complement(sum(before)) + sum(after))) as u16
}

/// As [`follow`], for UDP over either version: zero means that there is none and stays; what comes
/// out as zero is all ones (RFC 768).
pub(crate) fn follow_udp(old: u16, before: &[u8], after: &[u8]) -> u16 {
    match old {
        0 => 0,
        _ => match follow(old, before, after) {
            0 => 0xffff,
            new => new,
        },
    }
}
