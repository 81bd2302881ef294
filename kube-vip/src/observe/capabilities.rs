//! What the process may do, looked at before anything is done.

use std::fs;

/// Numbers of include/uapi/linux/capability.h.
const NET_ADMIN: (u32, &str) = (12, "NET_ADMIN");
const NET_RAW: (u32, &str) = (13, "NET_RAW");

/// Says what is missing to hold and announce an address. What the kernel programs need besides is
/// found out by loading them: without them the agent works, and says so.
///
/// # Errors
/// The missing capability, by name.
pub fn check() -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = effective(&status);
    for (bit, name) in [NET_ADMIN, NET_RAW] {
        anyhow::ensure!(
            effective & (1 << bit) != 0,
            "capability {name} is missing: run as root, or grant it (in a manifest: \
             securityContext.capabilities.add: [NET_ADMIN, NET_RAW, BPF, PERFMON])"
        );
    }
    Ok(())
}

/// What is missing to load kernel programs, for whoever was refused.
pub fn missing_for_programs() -> Option<&'static str> {
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;
    let effective = effective(&fs::read_to_string("/proc/self/status").ok()?);
    match effective {
        _ if effective & SYS_ADMIN != 0 => None,
        _ if effective & BPF == 0 => Some("capability BPF is missing (SYS_ADMIN before Linux 5.8)"),
        _ if effective & PERFMON == 0 => Some("capability PERFMON is missing"),
        _ => None,
    }
}

fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_read() {
        assert_eq!(effective("Name:\tx\nCapInh:\t0\nCapEff:\t0000000000003000\n"), 0x3000);
        assert_eq!(effective(""), 0);
    }
}
