//! A host: what its agent has written, and what its programs remember.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Verdict;
use super::packet::{ACK, FIN, Mac, RST, Transport};

/// Number of this host among the nodes.
pub(crate) const THIS: u32 = 1;

/// When ownership begins and ends, seen from now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lease {
    #[default]
    Never,
    Over,
    NotYet,
    Now,
    Forever,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vip {
    /// Its neighbours are answered by us.
    pub(crate) is_virtual: bool,
    /// The kernel has it as a local address.
    pub(crate) held: bool,
    /// Backends listen on it.
    pub(crate) served: bool,
    /// Other agents know this host by it: their probes and tunnels end here.
    pub(crate) own: bool,
    pub(crate) lease: u32,
    /// Node of the owner, 0 where it is not known.
    pub(crate) owner: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frontend {
    pub(crate) id: u32,
    pub(crate) seed: u64,
    pub(crate) by_client: bool,
    /// It is on the host's own address.
    pub(crate) host_address: bool,
    /// A client that finds no backend is not answered.
    pub(crate) silent: bool,
}

/// A backend and the node it is on; node 0 is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) backend: u32,
    pub(crate) node: u32,
    /// Nodes it led to before, most recent first, 0 behind the last; connections of its may still be
    /// there.
    pub(crate) past: [u32; 4],
}

impl Slot {
    pub(crate) fn was_here(&self) -> bool {
        self.past.contains(&THIS)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) slots: Vec<Slot>,
    /// Backends on this host.
    pub(crate) locals: Vec<Slot>,
    /// It has just changed.
    pub(crate) settling: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: u8,
    /// It fails its checks.
    pub(crate) down: bool,
}

/// The way of one version's packets to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The node's, or a router's.
    pub(crate) mac: Mac,
    /// This host's own on the way there.
    pub(crate) own: Mac,
    /// Interface it is reached through, 0 while there is no way.
    pub(crate) interface: u32,
    /// It is behind a router: in a tunnel, whose packets are at most so long.
    pub(crate) tunnel: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) hop4: Hop,
    pub(crate) hop6: Hop,
    pub(crate) v4: Option<[u8; 4]>,
    pub(crate) v6: Option<[u8; 16]>,
    /// Its place in the order of all.
    pub(crate) rank: u8,
}

impl Node {
    pub(crate) fn hop(&self, v4: bool) -> Hop {
        if v4 { self.hop4 } else { self.hop6 }
    }

    /// Its address of that family; the unspecified one where it has none.
    pub(crate) fn address(&self, v4: bool) -> IpAddr {
        if v4 { self.v4.unwrap_or_default().into() } else { self.v6.unwrap_or_default().into() }
    }
}

/// The Ethernet address of a frame that came out of a tunnel from that node.
pub(crate) const fn tunnelled(node: u32) -> Mac {
    let [.., high, low] = node.to_be_bytes();
    [0x06, b'k', b'v', b'i', high, low]
}

/// Address, port, protocol.
pub(crate) type Port = (IpAddr, u16, u8);

/// What the agent has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Configuration {
    pub(crate) vips: BTreeMap<IpAddr, Vip>,
    pub(crate) leases: Vec<Lease>,
    pub(crate) frontends: BTreeMap<Port, Frontend>,
    /// By the frontend's id.
    pub(crate) tables: BTreeMap<u32, Table>,
    pub(crate) backends: BTreeMap<u32, Backend>,
    pub(crate) nodes: BTreeMap<u32, Node>,
    pub(crate) peers: BTreeMap<Mac, u32>,
    /// By IP address, for what comes out of tunnels and for probes.
    pub(crate) peer_ips: BTreeMap<IpAddr, u32>,
    /// Connections that are said to be elsewhere, and on which node.
    pub(crate) strays: BTreeMap<Tuple, u32>,
    /// Own Ethernet address of the interface that everything arrives on.
    pub(crate) uplink: Option<Mac>,
    /// Addresses and ports whose replies are looked for.
    pub(crate) served: Vec<(IpAddr, u16)>,
    /// A port that the kernel refuses, 0 without.
    pub(crate) closed_port: u16,
    /// Where probes come to, 0 without.
    pub(crate) probe_port: u16,
    /// What answers to them say of the seeds.
    pub(crate) digest: u64,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination: IpAddr,
    pub(crate) destination_port: u16,
    pub(crate) protocol: u8,
}

impl Tuple {
    /// The flow of a reply, whose record is `vip`.
    pub(crate) fn flow_of(reply: &Self, vip: &Endpoint) -> Self {
        Self {
            source: reply.destination,
            source_port: vip.clients(reply.destination_port),
            destination: vip.address,
            destination_port: vip.port,
            protocol: reply.protocol,
        }
    }

    /// The replies to a flow, whose record is `backend`.
    pub(crate) fn reply_to(flow: &Self, backend: &Endpoint) -> Self {
        Self {
            source: backend.address,
            source_port: backend.port,
            destination: flow.source,
            destination_port: backend.clients(flow.source_port),
            protocol: flow.protocol,
        }
    }
}

/// Where a connection goes or its reply comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) backend: u32,
    /// The client has begun to speak to the backend straight.
    pub(crate) direct: bool,
    /// The client's port as the other side knows it, where that is another one; 0 where not.
    pub(crate) client_port: u16,
    /// What the client will acknowledge, once the backend has answered.
    pub(crate) answer: Option<u32>,
    /// Of a flow: what has been said of its end.
    pub(crate) ends: Ends,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) client_done: bool,
    pub(crate) backend_done: bool,
    pub(crate) reset: bool,
}

impl Endpoint {
    pub(crate) fn new(address: IpAddr, port: u16, backend: u32) -> Self {
        Self {
            address,
            port,
            backend,
            direct: false,
            client_port: 0,
            answer: None,
            ends: Ends::default(),
        }
    }

    /// The client's port as the other side knows it, which is `port` on this one.
    pub(crate) fn clients(&self, port: u16) -> u16 {
        if self.client_port == 0 { port } else { self.client_port }
    }
}

/// What all fragments of a packet have in common, and whether it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Parts {
    pub(crate) leaves: bool,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Of IPv4 with the protocol.
    pub(crate) id: (u32, u8),
}

/// What the first of them became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) verdict: Verdict,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) ttl: u8,
    /// Of a reply.
    pub(crate) backend: u32,
    /// Whose host it went to through a tunnel, and at which position.
    pub(crate) tunnel: Option<(Slot, u8)>,
}

/// The next hop of a translated flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// 0 while it is not known.
    pub(crate) interface: u32,
    pub(crate) mac: Mac,
    pub(crate) own: Mac,
}

/// What packets of a translated flow become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination: IpAddr,
    pub(crate) destination_port: u16,
    pub(crate) backend: u32,
    /// They are the backend's.
    pub(crate) reply: bool,
    pub(crate) link: Link,
    pub(crate) state: u16,
}

impl Translation {
    /// The tuple of the other direction.
    pub(crate) fn other(&self, protocol: u8) -> Tuple {
        Tuple {
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
            protocol,
        }
    }
}

/// Packets and bytes.
pub(crate) type Traffic = (u64, u64);

/// What the programs remember.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Client → VIP: the backend.
    pub(crate) flows: BTreeMap<Tuple, Endpoint>,
    /// Backend → client: the VIP.
    pub(crate) replies: BTreeMap<Tuple, Endpoint>,
    pub(crate) fragments: BTreeMap<Parts, Fate>,
    /// Where the packet that is looked at was to go through a tunnel, and at which position.
    pub(crate) onward: Option<(Slot, u8)>,
    /// Both directions of flows that this host translates.
    pub(crate) translations: BTreeMap<Tuple, Translation>,
    /// Number of the next try to find a port for one.
    pub(crate) next_try: u32,
    /// Both of flows whose client has not proved that it exists.
    pub(crate) half: BTreeMap<Tuple, Endpoint>,
    pub(crate) arrived: BTreeMap<u32, Traffic>,
    pub(crate) sent: BTreeMap<u32, Traffic>,
    pub(crate) replied: BTreeMap<u32, Traffic>,
}

impl Memory {
    /// The client speaks to the VIP again.
    pub(crate) fn not_direct(&mut self, reply: &Tuple) {
        for records in [&mut self.replies, &mut self.half] {
            if let Some(vip) = records.get_mut(reply) {
                vip.direct = false;
            }
        }
    }

    /// A segment of the client, or of the backend, that says something of a flow's end.
    pub(crate) fn ends(&mut self, flow: &Tuple, transport: &Transport, client: bool) {
        let Some(record) = self.flows.get_mut(flow) else { return };
        if transport.has(RST) {
            record.ends.reset = true;
        } else if transport.has(ACK) {
            record.ends.reset = false;
        }
        let done =
            if client { &mut record.ends.client_done } else { &mut record.ends.backend_done };
        *done |= transport.has(FIN);
    }

    /// Forgets both directions of a flow.
    pub(crate) fn forget(&mut self, flow: &Tuple, reply: &Tuple) {
        self.flows.remove(flow);
        self.replies.remove(reply);
        self.half.remove(flow);
        self.half.remove(reply);
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) is: Configuration,
    pub(crate) has: Memory,
    /// Seconds since the agent's last sign of life, as the program has just said: only it knows when
    /// it looked at the clock.
    pub(crate) age: u32,
}

impl Host {
    /// The entry of a VIP that moves between hosts.
    pub(crate) fn virtual_ip(&self, address: IpAddr) -> Option<Vip> {
        self.is.vips.get(&address).copied().filter(|vip| vip.is_virtual)
    }

    pub(crate) fn owns(&self, vip: Vip) -> bool {
        let lease = self.is.leases.get(vip.lease as usize).copied().unwrap_or_default();
        matches!(lease, Lease::Now | Lease::Forever)
    }

    /// Whether that Ethernet address may speak for the VIP: the owner's, or while the owner is not
    /// known any agent's.
    pub(crate) fn may_speak(&self, vip: Vip, mac: Mac) -> bool {
        self.is.peers.get(&mac).is_some_and(|node| vip.owner == 0 || vip.owner == *node)
    }

    /// The frame was for another host alone and is seen here because a switch did not know it.
    pub(crate) fn is_anothers(&self, to: Mac) -> bool {
        to[0] & 1 == 0 && self.is.uplink.is_some_and(|own| own != to)
    }
}

/// Adds a packet.
pub(crate) fn add(traffic: &mut BTreeMap<u32, Traffic>, id: u32, bytes: usize) {
    let (packets, sum) = traffic.entry(id).or_default();
    (*packets, *sum) = (*packets + 1, *sum + bytes as u64);
}
