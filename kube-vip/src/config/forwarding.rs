//! How packets get to backends, by kube-vip's words, and where translated connections come from.

use kube_vip_common::nat::PortRange;

use super::reader::{Section, quote};

/// Which ways to its backends a load balancer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// For each backend the best there is.
    #[default]
    Auto,
    /// Only to backends on this host.
    Local,
    /// By address translation to every backend on another host.
    Masquerade,
    /// Tunnelled to every backend on another host.
    Tunnel,
    /// Only to backends here and on peers on this L2 network.
    DirectRoute,
    /// Not at all: packets are left to the kernel.
    Bypass,
}

/// Where connections that are translated come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatSource {
    /// The VIP.
    #[default]
    Vip,
    /// The owner's own address.
    Node,
}

/// What clients are told to send in a TCP segment at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssClamp {
    /// What the backend says.
    #[default]
    Off,
    /// What fits into the tunnels to the other hosts.
    Auto,
    /// This many bytes over IPv4, 20 less over IPv6.
    To(u16),
}

impl Forwarding {
    /// Word and way, in the order they are documented.
    pub const ALL: [(&'static str, Self); 6] = [
        ("auto", Self::Auto),
        ("local", Self::Local),
        ("masquerade", Self::Masquerade),
        ("tunnel", Self::Tunnel),
        ("directroute", Self::DirectRoute),
        ("bypass", Self::Bypass),
    ];

    /// The word.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, way)| *way == self).map_or("auto", |(word, _)| word)
    }
}

/// `forwardingMethod`.
pub(super) fn method(entry: &Section<'_>) -> Forwarding {
    let Some(text) = entry.text("forwardingMethod") else { return Forwarding::Auto };
    let word = text.value.to_ascii_lowercase();
    if let Some((_, way)) = Forwarding::ALL.iter().find(|(known, _)| *known == word) {
        return *way;
    }
    let words = Forwarding::ALL.map(|(word, _)| word).join(", ");
    let shown = quote(&text.value);
    entry.problem("forwardingMethod", format!("{shown} is not a method; write one of {words}"));
    Forwarding::Auto
}

/// `natSource`; `ports` is whether the file has `natPorts`.
pub(super) fn source(entry: &Section<'_>, ports: bool) -> NatSource {
    let Some(text) = entry.text("natSource") else { return NatSource::Vip };
    match text.value.to_ascii_lowercase().as_str() {
        "vip" => return NatSource::Vip,
        "node" if ports => return NatSource::Node,
        "node" => {
            let message = "node needs ports of the hosts that nobody else uses; \
                           write them at the top of the file, like `natPorts: 28000-31999`";
            entry.problem("natSource", message);
        }
        _ => {
            let shown = quote(&text.value);
            entry.problem("natSource", format!("{shown} is not a source; write vip or node"));
        }
    }
    NatSource::Vip
}

/// `natPorts`.
pub(super) fn ports(section: &Section<'_>) -> Option<PortRange> {
    let text = section.text("natPorts")?;
    let range = text.value.split_once('-').and_then(|(first, last)| {
        Some(PortRange { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
    });
    match range {
        Some(range) if !range.is_empty() && range.first >= 1024 => Some(range),
        _ => {
            let shown = quote(&text.value);
            let message = format!(
                "{shown} is not a range of ports from 1024 to 65535; write one like 28000-31999"
            );
            section.problem("natPorts", message);
            None
        }
    }
}

/// `mssClamp`.
pub(super) fn mss_clamp(section: &Section<'_>) -> MssClamp {
    /// What every host takes (RFC 9293 §3.7.1), and what a frame of any length leaves.
    const SIZES: std::ops::RangeInclusive<u16> = 536..=65_495;
    let Some(text) = section.text("mssClamp") else { return MssClamp::Off };
    match (text.value.as_str(), text.value.parse()) {
        ("off" | "false", _) => MssClamp::Off,
        ("auto" | "true", _) => MssClamp::Auto,
        (_, Ok(size)) if SIZES.contains(&size) => MssClamp::To(size),
        (other, _) => {
            let message = format!(
                "{} is no segment size; write auto, off, or a number from {} to {}",
                quote(other),
                SIZES.start(),
                SIZES.end()
            );
            section.problem("mssClamp", message);
            MssClamp::Off
        }
    }
}
