//! Where packets arrive, where replies leave besides, and how they are handled there.

use std::collections::BTreeMap;

use super::Uplink;
use crate::config::XdpMode;
use crate::view::{Link, Mac, View};

/// Kinds of devices that stand on other devices and have no driver for XDP (no `ndo_bpf` in
/// drivers/net/macvlan.c, `net/8021q/vlan_dev.c`, `net/bridge/br_device.c` …). Nor do they take what a
/// native program on another device sends there (no `ndo_xdp_xmit`).
const WITHOUT_NATIVE: [&str; 7] =
    ["bridge", "vlan", "macvlan", "macvtap", "ipvlan", "team", "macsec"];

/// Kinds of devices that overlay networks of clusters are made of, and that carry Ethernet frames.
const OVERLAYS: [&str; 2] = ["vxlan", "geneve"];

pub(super) fn plan(view: &View) -> BTreeMap<String, Uplink> {
    let config = &view.config;
    let links: Vec<_> =
        config.interfaces().filter_map(|name| Some((name, view.links.get(name)?))).collect();
    let wanted = config.xdp_mode;
    let obstacles: Vec<_> =
        links.iter().filter_map(|(name, link)| Some((*name, obstacle(wanted, link)?))).collect();
    links
        .iter()
        .map(|(name, link)| {
            let own = obstacles.iter().find(|(other, _)| other == name);
            let (xdp, reason) = match own.or(obstacles.first()) {
                None => (wanted, None),
                Some((other, reason)) if other == name => (XdpMode::Generic, Some(reason.clone())),
                Some((other, _)) => {
                    let reason = format!(
                        "{other} is generic, and takes nothing that a native program sends there"
                    );
                    (XdpMode::Generic, Some(reason))
                }
            };
            ((*name).clone(), Uplink { index: link.index, mac: link.mac, xdp, reason })
        })
        .collect()
}

/// Whether packets arrive there.
pub(super) fn is_one(view: &View, interface: u32) -> bool {
    let links = view.config.interfaces().filter_map(|name| view.links.get(name));
    links.into_iter().any(|link| link.index == interface)
}

/// Why a native program is not even tried.
fn obstacle(wanted: XdpMode, link: &Link) -> Option<String> {
    let kind = link.kind.as_str();
    match wanted {
        // A veth takes what a native program sends only where its other end has a program too
        // (`veth_xdp_flush`, drivers/net/veth.c), which cannot be seen from here: answers would
        // vanish.
        XdpMode::Auto if kind == "veth" => Some(
            "a veth: native needs an XDP program at its other end too; \
             if there is one, set xdpMode: native"
                .to_owned(),
        ),
        XdpMode::Auto if WITHOUT_NATIVE.contains(&kind) => {
            Some(format!("a {kind}: it stands on other devices and has no native XDP"))
        }
        _ => None,
    }
}

/// The devices that carry replies to other hosts' Pods instead of the uplinks.
pub(super) fn reply_devices(view: &View) -> BTreeMap<String, Uplink> {
    let config = &view.config;
    let wanted = |(name, link): &(&String, &Link)| {
        // What has no Ethernet header is not read by the program.
        let readable = link.mac != Mac::default();
        let by_kind = config.reply_devices.by_kind && OVERLAYS.contains(&link.kind.as_str());
        let named = config.reply_devices.name(name) || by_kind;
        readable && named && config.interfaces().all(|uplink| uplink != *name)
    };
    let devices = view.links.iter().filter(wanted);
    devices
        .map(|(name, link)| {
            let (index, mac) = (link.index, link.mac);
            (name.clone(), Uplink { index, mac, xdp: XdpMode::None, reason: None })
        })
        .collect()
}
