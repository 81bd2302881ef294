//! Several agents on one host are told apart by the name of their instance.

/// A number that is the same at each start of an instance and differs between two: FNV-1a. What it
/// marks in the kernel is known again after a `kill -9`.
pub(crate) fn tag(instance: &str) -> u32 {
    let hash = instance
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // Zero means "no mark" wherever it is put.
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_told_apart() {
        assert_ne!(tag("control-plane"), tag("services"));
        assert_ne!(tag(""), 0);
    }
}
