//! The most that clients may be told to send in a TCP segment, where the file limits it.

use std::collections::BTreeMap;

use super::{Mss, Node, Through, Tunnel};
use crate::config::MssClamp;

/// Bytes of an IP header without options and extension headers.
const HEADER4: u32 = 20;
const HEADER6: u32 = 40;
const TCP: u32 = 20;

pub(super) fn plan(
    clamp: MssClamp,
    nodes: &BTreeMap<String, Node>,
    tunnels: &BTreeMap<String, Tunnel>,
) -> Mss {
    let narrowest = |v4| narrowest(nodes, tunnels, v4);
    match clamp {
        MssClamp::Off => Mss::default(),
        MssClamp::To(most) => Mss { v4: most, v6: most.saturating_sub((HEADER6 - HEADER4) as u16) },
        // What fits into the narrowest tunnel, with the packet's own header in the tunnel's.
        MssClamp::Auto => Mss {
            v4: narrowest(true).map_or(0, |mtu| fits(mtu, 2 * HEADER4 + TCP)),
            v6: narrowest(false).map_or(0, |mtu| fits(mtu, 2 * HEADER6 + TCP)),
        },
    }
}

fn fits(mtu: u32, headers: u32) -> u16 {
    u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
}

fn narrowest(
    nodes: &BTreeMap<String, Node>,
    tunnels: &BTreeMap<String, Tunnel>,
    v4: bool,
) -> Option<u32> {
    let hops = nodes.values().filter(|node| !node.local).filter_map(|node| node.hop(v4));
    let hops = hops.chain(tunnels.values().filter_map(|tunnel| tunnel.hop(v4)));
    hops.filter(|hop| hop.through == Through::Tunnel).map(|hop| hop.mtu).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::NextHop;
    use crate::view::Mac;

    fn peers(ways: &[(Through, u32)]) -> BTreeMap<String, Node> {
        let node = |(through, mtu): &(Through, u32)| {
            let (mac, through) = (Mac([2, 0, 0, 0, 0, 1]), *through);
            let hop = NextHop { mac, interface: 1, through, mtu: *mtu, full: *mtu };
            Node {
                local: false,
                hop4: Some(hop.clone()),
                hop6: Some(hop),
                addresses: vec![],
                pods: vec![],
            }
        };
        ways.iter().enumerate().map(|(n, way)| (format!("n{n}"), node(way))).collect()
    }

    #[test]
    fn the_narrowest_tunnel_limits() {
        let none = BTreeMap::new();
        let nodes =
            peers(&[(Through::Tunnel, 1500), (Through::Tunnel, 1400), (Through::Link, 1300)]);
        assert_eq!(plan(MssClamp::Auto, &nodes, &none), Mss { v4: 1340, v6: 1300 });
        assert_eq!(plan(MssClamp::Off, &nodes, &none), Mss::default());
        assert_eq!(plan(MssClamp::To(1200), &nodes, &none), Mss { v4: 1200, v6: 1180 });
    }

    #[test]
    fn without_a_tunnel_nothing_is_limited() {
        assert_eq!(
            plan(MssClamp::Auto, &peers(&[(Through::Link, 1500)]), &BTreeMap::new()),
            Mss::default()
        );
    }
}
