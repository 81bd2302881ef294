//! Where packets arrive, and how they are to be handled there.

use std::collections::BTreeMap;

use super::Uplink;
use crate::config::XdpMode;
use crate::view::{Link, View};

pub(super) fn plan(view: &View) -> BTreeMap<String, Uplink> {
    let name = &view.config.interface;
    let uplink = view.links.get(name).map(|link| {
        let (xdp, reason) = mode(view.config.xdp_mode, link);
        (name.clone(), Uplink { index: link.index, mac: link.mac, xdp, reason })
    });
    uplink.into_iter().collect()
}

/// A veth takes what a native program sends only where its other end has a program too
/// (`veth_xdp_flush`, drivers/net/veth.c), which cannot be seen from here: answers would vanish.
fn mode(wanted: XdpMode, link: &Link) -> (XdpMode, Option<String>) {
    if wanted == XdpMode::Auto && link.kind == "veth" {
        let reason = "a veth: native needs an XDP program at its other end too; \
                      if there is one, set xdpMode: native";
        return (XdpMode::Generic, Some(reason.to_owned()));
    }
    (wanted, None)
}
