//! ARP for VIPs (RFC 826, RFC 5227).

use std::net::{IpAddr, Ipv4Addr};

use kube_vip_common::stats::Reason;

use super::host::Host;
use super::packet::{Frame, Mac, take};
use super::{Conflict, End, Verdict};

/// Ethernet, IPv4, and their lengths.
pub(crate) const TYPES: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// A message, with what follows it in the frame.
struct Arp {
    operation: u16,
    sender: (Mac, [u8; 4]),
    target: (Mac, [u8; 4]),
    rest: Vec<u8>,
}

impl Arp {
    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let types: [u8; 6] = take(&mut bytes)?;
        let operation = u16::from_be_bytes(take(&mut bytes)?);
        let sender = (take(&mut bytes)?, take(&mut bytes)?);
        let target = (take(&mut bytes)?, take(&mut bytes)?);
        (types == TYPES).then(|| Self { operation, sender, target, rest: bytes.to_vec() })
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { operation, sender, target, rest } = self;
        let sides = [&sender.0[..], &sender.1, &target.0, &target.1].concat();
        [&TYPES[..], &operation.to_be_bytes(), &sides, rest].concat()
    }
}

pub(super) fn judge(host: &Host, frame: &Frame) -> End {
    let Some(arp) = Arp::parse(&frame.rest) else { return End::Untouched };
    let (mac, sender) = (arp.sender.0, IpAddr::from(Ipv4Addr::from(arp.sender.1)));
    // Whatever the message is: its sender says that this address is at its place.
    if let Some(vip) = host.virtual_ip(sender) {
        if host.may_speak(vip, mac) {
            return End::Untouched;
        }
        return End::Conflict(Conflict { by_nd: false, address: sender, mac });
    }
    let wanted = Ipv4Addr::from(arp.target.1).into();
    let (1, Some(vip)) = (arp.operation, host.virtual_ip(wanted)) else { return End::Untouched };
    let (Some(own), true) = (host.is.uplink, host.owns(vip)) else {
        return End::Dropped(Reason::ArpSwallowed);
    };
    let answer =
        Arp { operation: 2, sender: (own, arp.target.1), target: arp.sender, rest: arp.rest };
    let frame = Frame { to: mac, from: own, rest: answer.bytes(), ..frame.clone() };
    End::Changed(Verdict::Transmit, frame, vec![Reason::ArpAnswered])
}

/// Who an ARP message of any kind says it is from.
pub(super) fn sender(frame: &Frame) -> Option<IpAddr> {
    let address = frame.rest.get(14..18).filter(|_| frame.rest.len() >= 28)?;
    Some(Ipv4Addr::new(address[0], address[1], address[2], address[3]).into())
}
