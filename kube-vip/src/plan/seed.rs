//! The seed of all tables: what all hosts know alike.

use kube_vip_common::hash::FlowHash;

use crate::view::View;

/// "kube-vip" as a number, so that an empty list is not a weak key.
const START: u64 = u64::from_be_bytes(*b"kube-vip");

/// A number from the secret that the hosts share, which stays when hosts come and go; from the sorted
/// list of hosts where they share none. The same on each of them, and after every restart.
pub(super) fn of(view: &View) -> u64 {
    if let Some(secret) = view.secret {
        return secret;
    }
    let mut peers: Vec<_> = view.config.peers().map(|peer| (&peer.id, &peer.addresses)).collect();
    peers.sort();
    let text: Vec<u8> = peers
        .iter()
        .flat_map(|(id, addresses)| {
            let addresses = addresses.iter().flat_map(|ip| ip.to_string().into_bytes());
            // 0 separates: no name and no address contains it.
            id.bytes().chain([0]).chain(addresses).chain([0])
        })
        .collect();
    let word = |chunk: &[u8]| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_be_bytes(bytes)
    };
    text.chunks(8).fold(FlowHash::new(START), |hash, chunk| hash.mix(word(chunk))).value()
}
