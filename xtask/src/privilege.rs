//! Who we are, and what to say to somebody who is not root.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, bail};

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Stops, naming the step and what to run instead, unless we may make network namespaces and load
/// kernel programs.
pub(crate) fn require_lab(step: &str, instead: &str) -> Result<()> {
    if !is_root() {
        bail!(
            "{step} needs root: it makes network namespaces and loads kernel programs.\n{instead}"
        );
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (bit, name) in [(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_SYS_ADMIN, "CAP_SYS_ADMIN")] {
        if !has_capability(&status, bit) {
            bail!(
                "{step} needs {name}, which root does not have here (a container?); run it on a \
                 host or in a virtual machine, or start the container with `--privileged`"
            );
        }
    }
    Ok(())
}

/// `command` with root, where cargo and rustup still find what is in the developer's home.
pub(crate) fn with_sudo(command: &str) -> String {
    format!("  sudo env \"HOME=$HOME\" \"PATH=$PATH\" {command}")
}

fn has_capability(status: &str, bit: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_none_or(|set| set & (1 << bit) != 0)
}

#[cfg(test)]
mod tests {
    use super::{CAP_NET_ADMIN, CAP_SYS_ADMIN, has_capability};

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "CapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n";
        assert!(has_capability(status, CAP_NET_ADMIN));
        assert!(!has_capability(status, CAP_SYS_ADMIN));
        assert!(has_capability("", CAP_SYS_ADMIN), "unknown is for the kernel to refuse");
    }
}
