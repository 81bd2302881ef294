//! The kernel programs' clock.

use std::fs;
use std::sync::OnceLock;

/// Nanoseconds of `CLOCK_BOOTTIME` as `bpf_ktime_get_boot_ns` reads it. A time namespace shows its
/// processes another one (`time_namespaces(7)`, Linux 5.6), the programs know none.
pub fn boot_time() -> u64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the struct; this clock exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    let shown = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
    // A process stays in the namespace that it was started in.
    let offset = OFFSET.get_or_init(|| {
        // Where there are no time namespaces there is no such file.
        offset(&fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default())
    });
    shown.wrapping_add_signed(offset.wrapping_neg())
}

/// Nanoseconds by which this clock is ahead of the host's.
fn offset(text: &str) -> i64 {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = words.into_iter().find_map(|words| match words[..] {
        ["boottime", seconds, nanoseconds] => {
            let (seconds, rest): (i64, i64) = (seconds.parse().ok()?, nanoseconds.parse().ok()?);
            seconds.checked_mul(1_000_000_000)?.checked_add(rest)
        }
        _ => None,
    });
    found.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_the_kernel_writes_them() {
        for (text, nanoseconds) in [
            (
                "monotonic           0         0\nboottime      1000000         7\n",
                1_000_000_000_000_007,
            ),
            ("monotonic          -5         0\nboottime           -2 500000000\n", -1_500_000_000),
            ("", 0),
            ("boottime 1\n", 0),
            ("boottime x y\n", 0),
        ] {
            assert_eq!(offset(text), nanoseconds, "{text:?}");
        }
    }

    #[test]
    fn time_goes_on() {
        let first = boot_time();
        assert!(boot_time() >= first && first > 0);
    }
}
