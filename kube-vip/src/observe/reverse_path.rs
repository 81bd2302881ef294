//! Whether the kernel drops what arrives on one uplink from a client that is behind another.

use std::path::Path;

/// `rp_filter`: only what comes from where the answer would go (RFC 3704 §2.2).
const STRICT: u8 = 1;

/// One line for each interface where that is so.
pub(crate) fn notices<'a>(interfaces: impl Iterator<Item = &'a String>) -> Vec<String> {
    let interfaces: Vec<_> = interfaces.collect();
    if interfaces.len() < 2 {
        return Vec::new();
    }
    let all = read("all");
    let strict = |name: &&&String| all.max(read(name)) == STRICT;
    let notice = |name: &String| {
        format!(
            "net.ipv4.conf.{name}.rp_filter is 1 (strict): what arrives there for a backend here is \
             dropped if the way back to its client leads through another uplink; 2 (loose) is enough"
        )
    };
    interfaces.iter().filter(strict).map(|name| notice(name)).collect()
}

/// The larger of the interface's own and that of `all` counts
/// (Documentation/networking/ip-sysctl.rst); 0 where it cannot be read.
fn read(interface: &str) -> u8 {
    let path = Path::new("/proc/sys/net/ipv4/conf").join(interface).join("rp_filter");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
