//! Configurations: hosts that mostly agree, as agents make them do, and sometimes do not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frames;
use super::random::Random;
use crate::compare::kernel::{LEASES, LOCALS, TABLES};
use crate::reference::host::{
    Backend, Configuration, Frontend, Hop, Lease, Node, Port, Slot, THIS, Table, Tuple, Vip,
    tunnelled,
};
use crate::reference::packet::{Mac, SCTP, TCP, UDP};

/// Hosts with programs.
pub(crate) const HOSTS: usize = 3;

pub(crate) const CLOSED_PORT: u16 = 65000;

pub(crate) const PROBE_PORT: u16 = 10000;

/// Leads to hosts in other networks.
pub(crate) const ROUTER: Mac = [2, 0, 0, 0, 0, 0xf0];

/// Ethernet address of a host; those behind the last one run no programs.
pub(crate) const fn mac(host: usize) -> Mac {
    [2, 0, 0, 0, 0, host as u8 + 1]
}

pub(crate) fn address(host: usize, v4: bool) -> IpAddr {
    let n = host as u8 + 1;
    if v4 {
        Ipv4Addr::new(10, 0, 0, n).into()
    } else {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into()
    }
}

pub(crate) fn pod(host: usize, n: u8, v4: bool) -> IpAddr {
    let host = host as u8 + 1;
    if v4 {
        Ipv4Addr::new(10, 244, host, n).into()
    } else {
        Ipv6Addr::new(0xfd01, 0, 0, host.into(), 0, 0, 0, n.into()).into()
    }
}

pub(crate) fn vip(n: u8, v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::new(10, 0, 0, 100 + n).into()
    } else {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x00ff, 0x100 + u16::from(n)).into()
    }
}

/// What all hosts should agree on.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) vips: Vec<IpAddr>,
    pub(crate) frontends: Vec<(Port, Frontend)>,
    /// Where each runs; those on a host of ours answer.
    pub(crate) backends: Vec<(Backend, usize)>,
    owner: Option<usize>,
    tables: u64,
    /// Who shares a link, for good.
    links: u64,
}

impl World {
    pub(crate) fn random(random: &mut Random) -> Self {
        let mut vips = Vec::new();
        for v4 in [true, false] {
            vips.extend((0..1 + random.below(2) as u8).map(|n| vip(n, v4)));
        }
        let mut backends = Vec::new();
        for host in 0..HOSTS + 2 {
            for v4 in [true, false] {
                for protocol in [TCP, UDP, SCTP] {
                    for n in 0..random.below(3) as u8 {
                        let pod = pod(host, n, v4);
                        let address = if random.percent(20) { address(host, v4) } else { pod };
                        let port = random.one_of(&[80, 8080, 8080, 8081]);
                        let backend = Backend { address, port, protocol, down: false };
                        if !backends.iter().any(|(other, _)| *other == backend) {
                            backends.push((backend, host));
                        }
                    }
                }
            }
        }
        let mut frontends: Vec<(Port, Frontend)> = Vec::new();
        for id in 0..TABLES.len() as u32 {
            let protocol = random.one_of(&[TCP, TCP, TCP, UDP, UDP, SCTP]);
            let on_host = random.percent(10);
            let address = if on_host {
                address(random.below(HOSTS), random.percent(50))
            } else {
                random.one_of(&vips)
            };
            let port = (address, random.one_of(&[80, 80, 53, 443]), protocol);
            // The id without a table is rare: no agent leaves one.
            let rare = TABLES[id as usize] == 0 && random.percent(80);
            if rare || frontends.iter().any(|(other, _)| *other == port) {
                continue;
            }
            let by_client = random.percent(25);
            let (seed, silent) = (random.next(), random.percent(20));
            let frontend = Frontend { id, seed, by_client, host_address: on_host, silent };
            frontends.push((port, frontend));
        }
        let owner = if random.percent(80) { Some(random.below(HOSTS)) } else { None };
        Self { vips, frontends, backends, owner, tables: random.next(), links: random.next() }
    }

    /// Something happens to it.
    pub(crate) fn changed(&self, random: &mut Random) -> Self {
        let mut world = self.clone();
        match random.below(5) {
            0 if !world.backends.is_empty() => {
                // A number once given stays, so that no other backend takes it over unnoticed.
                let at = random.below(world.backends.len());
                world.backends[at].1 = usize::MAX;
            }
            1 => world.tables = random.next(),
            2 => world.owner = random.one_of(&[None, Some(0), Some(1), Some(2)]),
            3 if !world.frontends.is_empty() => {
                let at = random.below(world.frontends.len());
                world.frontends.remove(at);
            }
            _ => return Self { tables: random.next(), links: self.links, ..Self::random(random) },
        }
        world
    }

    /// The number that `host` knows another one by.
    pub(crate) fn node(host: usize, other: usize) -> u32 {
        match other {
            _ if other == host => THIS,
            _ if other < host => THIS + 1 + other as u32,
            _ => THIS + other as u32,
        }
    }

    /// What the agent of a host writes.
    pub(crate) fn configuration(&self, host: usize, random: &mut Random) -> Configuration {
        let mut leases = vec![Lease::Never; LEASES];
        let mut vips = BTreeMap::new();
        let owned = random.weighted(&[
            (8, Lease::Now),
            (2, Lease::Forever),
            (2, Lease::Over),
            (1, Lease::NotYet),
            (1, Lease::Never),
        ]);
        let lease = random.below(LEASES) as u32;
        leases[lease as usize] = if self.owner == Some(host) { owned } else { Lease::Never };
        let owner = self.owner.map_or(0, |owner| Self::node(host, owner));
        let held = if random.percent(90) { self.owner == Some(host) } else { random.percent(50) };
        for address in &self.vips {
            let vip = Vip { is_virtual: true, held, lease, owner, ..Vip::default() };
            vips.insert(*address, vip);
        }
        let own = [address(host, true), address(host, false)];
        let mut frontends = BTreeMap::new();
        for (port, frontend) in &self.frontends {
            if frontend.host_address && !own.contains(&port.0) || random.percent(5) {
                continue;
            }
            frontends.insert(*port, *frontend);
            if frontend.host_address {
                let vip = Vip { held: true, lease, ..Vip::default() };
                vips.insert(port.0, vip);
            }
        }
        let mut served = Vec::new();
        for (backend, _) in self.backends.iter().filter(|(_, at)| *at == host) {
            served.push((backend.address, backend.port));
        }
        let closed_port = if random.percent(80) { CLOSED_PORT } else { 0 };
        served.extend(own.iter().filter(|_| closed_port != 0).map(|ip| (*ip, closed_port)));
        for (address, _) in &served {
            let other = Vip { held: true, lease, ..Vip::default() };
            vips.entry(*address).or_insert(other).served = true;
        }
        let probe_port = if random.percent(80) { PROBE_PORT } else { 0 };
        for address in own.iter().filter(|_| random.percent(90)) {
            let other = Vip { held: true, lease, ..Vip::default() };
            vips.entry(*address).or_insert(other).own = true;
        }
        let backends = (1..).zip(&self.backends).filter(|(_, (_, at))| *at != usize::MAX);
        let backends = backends
            .map(|(id, (backend, _))| (id, Backend { down: random.percent(10), ..*backend }))
            .collect();
        let (nodes, peers) = self.nodes(host, random);
        let others = (0..HOSTS + 2).filter(|other| *other != host);
        let peer_ips = others
            .flat_map(|other| [true, false].map(|v4| (address(other, v4), Self::node(host, other))))
            .filter(|_| random.percent(95))
            .collect();
        let uplink = random.percent(95).then_some(mac(host));
        let mut configuration = Configuration {
            vips,
            leases,
            frontends,
            tables: BTreeMap::new(),
            backends,
            nodes,
            peers,
            peer_ips,
            strays: BTreeMap::new(),
            uplink,
            served,
            closed_port,
            probe_port,
            digest: random.next(),
        };
        configuration.tables = self.tables(host, &configuration, random);
        configuration.strays = self.strays(random);
        configuration
    }

    /// Some clients' connections are said to be somewhere, or nowhere.
    fn strays(&self, random: &mut Random) -> BTreeMap<Tuple, u32> {
        if self.frontends.is_empty() || random.percent(50) {
            return BTreeMap::new();
        }
        let stray = |_| {
            let ((destination, destination_port, protocol), _) = random.one_of(&self.frontends);
            let source = frames::client(destination.is_ipv4(), random);
            let source_port = frames::client_port(random);
            let tuple = Tuple { source, source_port, destination, destination_port, protocol };
            let other = 1 + random.below(HOSTS + 2) as u32;
            let node = random.weighted(&[(8, other), (1, 0), (1, 256)]);
            (tuple, node)
        };
        (0..12).map(stray).collect()
    }

    fn nodes(&self, host: usize, random: &mut Random) -> (BTreeMap<u32, Node>, BTreeMap<Mac, u32>) {
        let (mut nodes, mut peers) = (BTreeMap::new(), BTreeMap::new());
        for other in 0..HOSTS + 2 {
            let number = Self::node(host, other);
            let octets = |v4| match address(other, v4) {
                IpAddr::V4(ip) => (Some(ip.octets()), None),
                IpAddr::V6(ip) => (None, Some(ip.octets())),
            };
            let [hop4, hop6] = [true, false].map(|v4| self.hop((host, other, v4), random));
            for hop in [hop4, hop6].iter().filter(|hop| hop.tunnel.is_none()) {
                peers.insert(hop.mac, number);
            }
            if other != host {
                peers.insert(tunnelled(number), number);
            }
            let v4 = octets(true).0.filter(|_| random.percent(95));
            let v6 = octets(false).1.filter(|_| random.percent(95));
            let rank = if random.percent(90) { other as u8 } else { random.next() as u8 };
            nodes.insert(number, Node { hop4, hop6, v4, v6, rank });
        }
        (nodes, peers)
    }

    fn hop(&self, (host, other, v4): (usize, usize, bool), random: &mut Random) -> Hop {
        let interface = match other {
            _ if other == host => 0,
            // One host is reached through another interface, one not at all now and then.
            _ if other == HOSTS => 2,
            _ if random.percent(4) => 0,
            _ => 1,
        };
        // Both sides know whether they share a link, unless they disagree.
        let pair = (host.min(other) << 4 | host.max(other) << 1 | usize::from(v4)) as u64;
        let links = if random.percent(5) { random.next() } else { self.links };
        let routed = other != host && Random::new(links ^ pair << 32).percent(15);
        let routed = other == HOSTS + 1 || routed;
        let mtu = random.weighted(&[(6, 1500), (1, 1280), (1, 60), (1, 100), (1, 0)]);
        let mac = if routed { ROUTER } else { mac(other) };
        Hop { mac, own: self::mac(host), interface, tunnel: routed.then_some(mtu) }
    }

    fn tables(
        &self,
        host: usize,
        configuration: &Configuration,
        random: &mut Random,
    ) -> BTreeMap<u32, Table> {
        let mut tables = BTreeMap::new();
        for (port, frontend) in &configuration.frontends {
            let size = TABLES[frontend.id as usize];
            if size == 0 {
                continue;
            }
            let members: Vec<(Slot, usize)> = (1..)
                .zip(&self.backends)
                .filter(|(_, (backend, at))| {
                    let family = backend.address.is_ipv4() == port.0.is_ipv4();
                    // SCTP's port stays as it is, which every plan minds.
                    let reached = port.2 != SCTP || backend.port == port.1;
                    *at != usize::MAX && family && backend.protocol == port.2 && reached
                })
                .map(|(id, (_, at))| {
                    (Slot { backend: id, node: Self::node(host, *at), past: [0; 4] }, *at)
                })
                .collect();
            // The same on all hosts, unless they disagree.
            let seed = if random.percent(15) { random.next() } else { self.tables ^ frontend.seed };
            let mut dice = Random::new(seed);
            let empty = members.is_empty() || random.percent(3);
            let kinds = 1 + dice.below(members.len().max(1));
            let slots = (0..size).map(|_| match empty {
                true => Slot::default(),
                false => members[dice.below(kinds)].0,
            });
            let mut slots: Vec<Slot> = slots.collect();
            // Histories need not agree, nor make sense.
            let changed = random.one_of(&[0, 0, 30, 100]);
            for slot in &mut slots {
                if !random.percent(changed) {
                    continue;
                }
                let length = random.below(5);
                slot.past[..length].fill_with(|| 1 + random.below(HOSTS + 2) as u32);
            }
            let here = members.iter().filter(|(_, at)| *at == host && !empty);
            let locals = here.map(|(slot, _)| *slot).take(LOCALS).collect();
            tables.insert(frontend.id, Table { slots, locals, settling: random.percent(10) });
        }
        tables
    }
}
