//! What events change, without a kernel.

use super::*;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn peer() -> IpAddr {
    [192, 0, 2, 2].into()
}

fn known() -> Table {
    let mut table = Table::default();
    table.want(&[peer()].into());
    table.found(peer().into(), Way::OnLink { interface: 3 }, Neighbour::Known(MAC));
    table
}

fn entry(interface: u32, state: NeighbourState, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = interface;
    message.header.state = state;
    message.attributes.push(NeighbourAttribute::Destination(peer().into()));
    let mac = mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.extend(mac);
    message
}

#[test]
fn states_with_an_address_are_known_and_others_are_not() {
    use NeighbourState as State;
    let neighbour = Hop::Neighbour { mac: MAC, interface: 3 };
    let unresolved = Hop::Unresolved { interface: 3 };
    for (state, mac, expected) in [
        (State::Reachable, Some(MAC), &neighbour),
        (State::Stale, Some(MAC), &neighbour),
        (State::Delay, Some(MAC), &neighbour),
        (State::Probe, Some(MAC), &neighbour),
        (State::Permanent, Some(MAC), &neighbour),
        (State::Noarp, Some(MAC), &neighbour),
        (State::Noarp, None, &unresolved),
        (State::Noarp, Some(Mac::default()), &unresolved),
        (State::Failed, Some(MAC), &unresolved),
        (State::Incomplete, None, &unresolved),
        (State::None, None, &unresolved),
    ] {
        let mut table = known();
        table.apply(&RouteNetlinkMessage::NewNeighbour(entry(3, state, mac)));
        assert_eq!(table.hops()[&peer()], *expected, "{state}");
    }
}

#[test]
fn an_entry_that_was_collected_stays_in_use_until_it_is_asked_for_again() {
    let mut table = known();
    let gone = entry(3, NeighbourState::Stale, Some(MAC));
    let effect = table.apply(&RouteNetlinkMessage::DelNeighbour(gone));
    assert_eq!(effect, Effect::Vanished(vec![peer().into()]));
    assert_eq!(table.hops(), known().hops());
    assert!(table.has_unresolved());
    table.apply(&RouteNetlinkMessage::NewNeighbour(entry(3, NeighbourState::Failed, None)));
    assert_eq!(table.hops()[&peer()], Hop::Unresolved { interface: 3 });
}

#[test]
fn the_same_address_on_another_link_is_somebody_else() {
    let mut table = known();
    table.apply(&RouteNetlinkMessage::NewNeighbour(entry(4, NeighbourState::Failed, None)));
    assert_eq!(table.hops(), known().hops());
}

#[test]
fn only_routes_that_cover_an_address_have_it_looked_up() {
    let route = |destination: Option<[u8; 4]>, length| {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = length;
        let destination =
            destination.map(|bytes| RouteAttribute::Destination(IpAddr::from(bytes).into()));
        message.attributes.extend(destination);
        RouteNetlinkMessage::NewRoute(message)
    };
    for (message, expected) in [
        (route(None, 0), true),
        (route(Some([192, 0, 2, 0]), 24), true),
        (route(Some([192, 0, 2, 2]), 32), true),
        (route(Some([10, 244, 0, 0]), 16), false),
    ] {
        let mut table = known();
        table.apply(&message);
        assert_eq!(table.is_dirty(), expected, "{message:?}");
    }
}

#[test]
fn the_router_on_the_way_is_resolved_too() {
    let far: IpAddr = [203, 0, 113, 7].into();
    let routed = |mac| Hop::Routed { gateway: peer(), interface: 3, mac, mtu: None };
    let mut table = Table::default();
    table.want(&[far].into());
    table.found(
        far.into(),
        Way::Via { gateway: peer(), interface: 3, mtu: None },
        Neighbour::Missing,
    );
    assert_eq!(table.hops(), [(far, routed(None))].into());
    let router = Target { address: peer(), router_on: Some(3) };
    assert_eq!(table.dirty_targets(), [router]);
    table.found(router, Way::OnLink { interface: 3 }, Neighbour::Missing);
    assert_eq!(table.unresolved(), [router]);
    // Of the same address on another link nothing is known.
    table.apply(&RouteNetlinkMessage::NewNeighbour(entry(4, NeighbourState::Stale, Some(MAC))));
    assert_eq!(table.hops(), [(far, routed(None))].into());
    table.apply(&RouteNetlinkMessage::NewNeighbour(entry(3, NeighbourState::Stale, Some(MAC))));
    assert_eq!(table.hops(), [(far, routed(Some(MAC)))].into());
    // No way leads through it any more.
    table.found(far.into(), Way::None, Neighbour::Missing);
    assert!(table.dirty_targets().is_empty() && !table.has_unresolved());
    assert!(table.confirmable().is_empty());
}
