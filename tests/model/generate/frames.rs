//! Frames of every kind, from so few addresses and ports that they meet one another's flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frame::{Body, Carries, Damage, Frame, Ip};
use super::random::Random;
use super::world::{CLOSED_PORT, HOSTS, PROBE_PORT, ROUTER, World, address, mac, pod, vip};
use crate::reference::checksum;
use crate::reference::host::Port;
use crate::reference::packet::{ACK, FIN, Mac, RST, SCTP, SYN, TCP, UDP, pseudo};

const CLIENTS: [Mac; 3] = [[2, 0, 0, 0, 0, 0xc1], [2, 0, 0, 0, 0, 0xc2], [2, 0, 0, 0, 0, 0xc3]];
const STRANGER: Mac = [2, 0, 0, 0, 0, 0xee];
const BROADCAST: Mac = [0xff; 6];
const GROUP: Mac = [0x33, 0x33, 0, 0, 0, 1];
const NOBODY: Mac = [0; 6];

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Who speaks to whom.
pub(crate) struct Traffic {
    ports: Vec<Port>,
    vips: Vec<IpAddr>,
    /// Address, port, protocol and host.
    backends: Vec<(Port, usize)>,
}

fn clients(v4: bool) -> Vec<(usize, IpAddr)> {
    if v4 {
        let [a, b, c] = [[10, 0, 0, 201], [10, 0, 0, 202], [192, 0, 2, 7]].map(Ipv4Addr::from);
        let odd = [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 5], [255, 255, 255, 255]];
        let mut all = vec![(30, a.into()), (20, b.into()), (10, c.into())];
        all.extend(odd.map(|odd| (1, Ipv4Addr::from(odd).into())));
        all
    } else {
        let client = |n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
        let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
        let mut all = vec![(30, client(0x201)), (20, client(0x202)), (10, far)];
        all.extend([Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, ALL_NODES].map(|odd| (1, odd)));
        all.into_iter().map(|(weight, ip)| (weight, ip.into())).collect()
    }
}

pub(super) fn client(v4: bool, random: &mut Random) -> IpAddr {
    match random.below(20) {
        0 => address(random.below(HOSTS + 1), v4),
        1 => pod(random.below(HOSTS + 1), random.below(2) as u8, v4),
        _ => random.weighted(&clients(v4)),
    }
}

pub(super) fn client_port(random: &mut Random) -> u16 {
    random.weighted(&[(30, 40000), (20, 40001), (10, 40002), (1, 0), (1, 80), (1, 65535)])
}

fn any_port(random: &mut Random) -> u16 {
    random.weighted(&[(4, 80), (2, 53), (2, 443), (3, 22), (2, 8080), (1, CLOSED_PORT), (1, 40000)])
}

fn data(random: &mut Random) -> Vec<u8> {
    let length = random.weighted(&[(20, 0), (10, 1), (10, 7), (5, 64), (1, 1200)]);
    match random.below(8) {
        0 => vec![0xff; length],
        1 => vec![0; length],
        _ => random.bytes(length),
    }
}

fn tcp_flags(random: &mut Random) -> u8 {
    let any = random.next() as u8;
    random.weighted(&[
        (30, SYN),
        (40, ACK),
        (10, ACK | 8),
        (8, FIN | ACK),
        (3, RST),
        (3, RST | ACK),
        (3, SYN | ACK),
        (1, SYN | FIN),
        (1, SYN | RST),
        (1, 0),
        (2, any),
    ])
}

fn tcp(ports: (u16, u16), random: &mut Random) -> Carries {
    // Often so that a handshake's last segment acknowledges what the backend chose.
    let numbers = [random.next(), random.next()].map(|any| random.one_of(&[0, 1, any as u32]));
    let words = random.weighted(&[(10, 0), (2, 1), (1, 5), (1, 10)]);
    Carries::Tcp {
        ports,
        flags: tcp_flags(random),
        numbers: numbers.into(),
        options: vec![1; words * 4],
        data: data(random),
    }
}

fn udp(ports: (u16, u16), random: &mut Random) -> Carries {
    Carries::Udp { ports, checked: random.percent(90), data: data(random) }
}

fn transport(protocol: u8, ports: (u16, u16), random: &mut Random) -> Carries {
    match protocol {
        TCP => tcp(ports, random),
        SCTP => sctp(ports, random),
        _ => udp(ports, random),
    }
}

/// With few tags, so that many are what a backend has answered.
fn sctp(ports: (u16, u16), random: &mut Random) -> Carries {
    let (chunk, tag) = (random.one_of(&[0, 1, 1, 2, 6]), random.one_of(&[0, 1]));
    let mut data = data(random);
    if random.percent(80) {
        data = [u32::to_be_bytes(random.one_of(&[0, 1])).to_vec(), data].concat();
    }
    Carries::Sctp { ports, tag, chunk, data }
}

/// A datagram whose checksum comes out as zero once it is between these two, with these ports.
fn vanishing(source: IpAddr, to: IpAddr, ports: (u16, u16), then: (u16, u16)) -> Carries {
    let segment = [then.0, then.1, 10, 0, 0].map(u16::to_be_bytes).concat();
    // What the rest lacks to all ones.
    let data = checksum(&pseudo(source, to, UDP, &segment)).to_be_bytes().to_vec();
    Carries::Udp { ports, checked: true, data }
}

/// IPv4 options or IPv6 extension headers.
fn decorate(ip: &mut Ip, random: &mut Random) {
    if ip.source.is_ipv4() {
        let words = random.weighted(&[(4, 1), (2, 2), (1, 9), (1, 10)]);
        ip.options = if random.percent(50) { vec![1; words * 4] } else { random.bytes(words * 4) };
    } else {
        let count = random.weighted(&[(6, 1), (3, 2), (1, 5), (1, 9)]);
        ip.extensions = (0..count)
            .map(|_| {
                let kind = random.weighted(&[(4, 0), (4, 60), (2, 43), (1, 51), (1, 135)]);
                let length = random.weighted(&[(4, 6), (2, 14), (1, 30)]);
                (kind, vec![1; length])
            })
            .collect();
    }
}

fn frame(from: Mac, to: Mac, body: Body) -> Frame {
    Frame { from, to, tags: vec![], body, damage: vec![] }
}

impl Traffic {
    pub(crate) fn new(world: &World, random: &mut Random) -> Self {
        let mut ports: Vec<Port> = world.frontends.iter().map(|(port, _)| *port).collect();
        if ports.is_empty() {
            ports.push((vip(0, random.percent(50)), 80, TCP));
        }
        let mut backends: Vec<_> = world
            .backends
            .iter()
            .filter(|(_, host)| *host < HOSTS)
            .map(|(backend, host)| ((backend.address, backend.port, backend.protocol), *host))
            .collect();
        if backends.is_empty() {
            backends.push(((pod(0, 0, true), 8080, TCP), 0));
        }
        Self { ports, vips: world.vips.clone(), backends }
    }

    /// A frame that arrives at that host.
    pub(crate) fn arriving(&self, host: usize, random: &mut Random) -> Frame {
        let mut frame = match random.below(100) {
            0..50 => self.balanced(random),
            50..56 => self.to_vip(random),
            56..60 => self.echo(random),
            60..66 => return self.arp(host, random),
            66..72 => return self.discovery(host, random),
            72..80 => self.straight(random),
            80..86 => self.error(random),
            86..92 => self.odd(random),
            92..95 => self.elsewhere(random),
            95..97 => self.tunnelled(host, random),
            97 => self.probe(host, random),
            _ => return self.foreign(host, random),
        };
        self.link(&mut frame, host, random);
        if random.percent(6) {
            let Body::Ip(ip) = &mut frame.body else { return frame };
            decorate(ip, random);
        }
        if random.percent(5) {
            let Body::Ip(ip) = &mut frame.body else { return frame };
            let offset = random.weighted(&[(3, 0), (2, 3), (1, 100), (1, 0x1fff)]);
            ip.fragment = Some((offset, random.percent(70)));
            ip.id = random.one_of(&[1, 2, 3]);
        }
        spoil(&mut frame, random);
        frame
    }

    /// Between whom on the link, and with which TTL.
    fn link(&self, frame: &mut Frame, host: usize, random: &mut Random) {
        frame.from = match random.below(20) {
            0..12 => random.one_of(&CLIENTS),
            12..17 => mac((host + 1 + random.below(HOSTS - 1)) % HOSTS),
            17 => ROUTER,
            18 => mac(random.below(HOSTS + 2)),
            _ => STRANGER,
        };
        frame.to = match random.below(25) {
            0..21 => mac(host),
            21 => mac(random.below(HOSTS + 1)),
            22 => BROADCAST,
            23 => GROUP,
            _ => STRANGER,
        };
        let agents = frame.from[5] <= HOSTS as u8;
        let Body::Ip(ip) = &mut frame.body else { return };
        ip.tos = random.weighted(&[(8, 0), (1, 2), (1, 0xb8)]);
        ip.ttl = if agents && random.percent(80) {
            random.weighted(&[
                (10, 240),
                (3, 241),
                (1, 242),
                (1, 243),
                (1, 247),
                (1, 248),
                (1, 239),
            ])
        } else {
            random.weighted(&[(10, 64), (2, 1), (2, 255), (1, 0), (2, 240), (1, 63), (2, 128)])
        };
    }

    fn balanced(&self, random: &mut Random) -> Frame {
        let (vip, port, protocol) = random.one_of(&self.ports);
        let source = client(vip.is_ipv4(), random);
        let ports = (client_port(random), port);
        let mut ip = Ip::new(source, vip, transport(protocol, ports, random));
        let ((backend, target, over), _) = random.one_of(&self.backends);
        let fits = (over, backend.is_ipv4()) == (UDP, vip.is_ipv4()) && protocol == UDP;
        if fits && random.percent(15) {
            ip.carries = vanishing(source, backend, ports, (ports.0, target));
        }
        frame(NOBODY, NOBODY, Body::Ip(ip))
    }

    /// To a VIP, not to a frontend.
    fn to_vip(&self, random: &mut Random) -> Frame {
        let vip = random.one_of(&self.vips);
        let source = client(vip.is_ipv4(), random);
        let protocol = random.one_of(&[TCP, UDP]);
        let port = if random.percent(50) { any_port(random) } else { client_port(random) };
        let carries = transport(protocol, (client_port(random), port), random);
        frame(NOBODY, NOBODY, Body::Ip(Ip::new(source, vip, carries)))
    }

    fn echo(&self, random: &mut Random) -> Frame {
        let vip = random.one_of(&self.vips);
        let v4 = vip.is_ipv4();
        let request = if v4 { 8 } else { 128 };
        let any = random.next() as u8;
        let kind = random.weighted(&[(10, request), (1, request + 1), (1, any)]);
        let code = random.weighted(&[(10, 0), (1, 1)]);
        let word = [0x11, 0x22, 0x33, random.next() as u8];
        let carries = Carries::Icmp { kind, code, word, data: data(random) };
        frame(NOBODY, NOBODY, Body::Ip(Ip::new(client(v4, random), vip, carries)))
    }

    /// Straight to a backend, or anything else at its address.
    fn straight(&self, random: &mut Random) -> Frame {
        let ((to, port, protocol), _) = random.one_of(&self.backends);
        let port = if random.percent(85) { port } else { any_port(random) };
        let source = client(to.is_ipv4(), random);
        let carries = transport(protocol, (client_port(random), port), random);
        frame(NOBODY, NOBODY, Body::Ip(Ip::new(source, to, carries)))
    }

    /// An error about a packet of a frontend or backend, or of a client's.
    fn error(&self, random: &mut Random) -> Frame {
        let (vip, port, protocol) = random.one_of(&self.ports);
        let v4 = vip.is_ipv4();
        let to = client(v4, random);
        let mut about = Ip::new(vip, to, transport(protocol, (port, client_port(random)), random));
        if random.percent(5) {
            decorate(&mut about, random);
        }
        let (kind, code) = match v4 {
            true => random.one_of(&[(3, 4), (3, 1), (3, 3), (11, 0), (12, 0), (4, 0)]),
            false => random.one_of(&[(2, 0), (1, 4), (1, 0), (3, 0), (4, 1)]),
        };
        let word = [0, 0, 5, 0];
        let quoted = random.weighted(&[(4, 28), (6, 600), (2, 48), (1, 20), (1, 10), (1, 40)]);
        let about = Box::new(about);
        let carries = Carries::Error { kind, code, word, about, quoted };
        let source = match random.below(5) {
            0 | 1 => client(v4, random),
            2 | 3 => address(HOSTS + 1, v4),
            _ => to,
        };
        frame(NOBODY, NOBODY, Body::Ip(Ip::new(source, vip, carries)))
    }

    /// Other protocols, to addresses of ours.
    fn odd(&self, random: &mut Random) -> Frame {
        let (vip, port, _) = random.one_of(&self.ports);
        let source = client(vip.is_ipv4(), random);
        let carries = match random.below(4) {
            0 | 1 => sctp((client_port(random), port), random),
            2 => Carries::Other(random.one_of(&[2, 47, 50, 59, 255]), data(random)),
            _ => {
                let inner = Ip::new(source, vip, udp((client_port(random), port), random));
                Carries::Inner(Box::new(inner))
            }
        };
        frame(NOBODY, NOBODY, Body::Ip(Ip::new(source, vip, carries)))
    }

    /// To an address that is not ours.
    fn elsewhere(&self, random: &mut Random) -> Frame {
        let v4 = random.percent(50);
        let to = client(v4, random);
        let carries = tcp((client_port(random), any_port(random)), random);
        frame(NOBODY, NOBODY, Body::Ip(Ip::new(client(v4, random), to, carries)))
    }

    /// A packet for a frontend in a packet between hosts.
    fn tunnelled(&self, host: usize, random: &mut Random) -> Frame {
        let inner = match random.below(12) {
            0 => self.to_vip(random),
            1 => self.odd(random),
            2 => self.elsewhere(random),
            _ => self.balanced(random),
        };
        let Body::Ip(mut inner) = inner.body else { return self.elsewhere(random) };
        inner.ttl = random.weighted(&[(8, 240), (1, 64), (2, 241), (1, 245)]);
        let v4 = if random.percent(95) { inner.source.is_ipv4() } else { random.percent(50) };
        let from = random.below(HOSTS + 4);
        let to = if random.percent(90) { address(host, v4) } else { random.one_of(&self.vips) };
        if to.is_ipv4() != v4 {
            return self.elsewhere(random);
        }
        let carries = Carries::Inner(Box::new(inner));
        frame(NOBODY, NOBODY, Body::Ip(Ip::new(address(from, v4), to, carries)))
    }

    /// Another agent's question.
    fn probe(&self, host: usize, random: &mut Random) -> Frame {
        let v4 = random.percent(50);
        let mut data = b"kvip\x01\x01\x00\x01".to_vec();
        if random.percent(15) {
            data[random.below(6)] ^= 1 << random.below(3);
        }
        let more = random_length(random);
        data.extend(random.bytes(more));
        let port = random.weighted(&[(15, PROBE_PORT), (1, 0), (1, 80)]);
        let ports = (random.one_of(&[10000, 40000]), port);
        let from = address(random.below(HOSTS + 3), v4);
        let carries = Carries::Udp { ports, checked: true, data };
        frame(NOBODY, NOBODY, Body::Ip(Ip::new(from, address(host, v4), carries)))
    }

    fn foreign(&self, host: usize, random: &mut Random) -> Frame {
        let kind = random.one_of(&[0x88cc, 0x8863, 0x0800, 0x86dd, 0x0806, 0x0600]);
        let length = random.weighted(&[(1, 0), (2, 8), (2, 27), (3, 46)]);
        frame(STRANGER, mac(host), Body::Other(kind, random.bytes(length)))
    }

    fn arp(&self, host: usize, random: &mut Random) -> Frame {
        let v4s: Vec<_> = self.vips.iter().copied().chain([address(host, true)]).collect();
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(_) => [10, 0, 0, 250],
        };
        let who = |random: &mut Random| match random.below(8) {
            0 | 1 => octets(random.one_of(&v4s)),
            2 => [0; 4],
            _ => octets(client(true, random)),
        };
        let speaker = |random: &mut Random| match random.below(3) {
            0 => mac(random.below(HOSTS + 1)),
            1 => STRANGER,
            _ => random.one_of(&CLIENTS),
        };
        let from = speaker(random);
        let said = if random.percent(80) { from } else { speaker(random) };
        let mut types = [0, 1, 8, 0, 6, 4];
        if random.percent(4) {
            types[random.below(6)] ^= 1;
        }
        let body = Body::Arp {
            types,
            operation: random.weighted(&[(12, 1), (6, 2), (1, 3)]),
            sender: (said, who(random)),
            target: (
                NOBODY,
                if random.percent(80) { octets(random.one_of(&v4s)) } else { who(random) },
            ),
        };
        let to = random.one_of(&[BROADCAST, BROADCAST, mac(host)]);
        let mut frame = frame(from, to, body);
        spoil(&mut frame, random);
        if random.percent(30) {
            frame.damage.push(Damage::Padding(18));
        }
        frame
    }

    fn discovery(&self, host: usize, random: &mut Random) -> Frame {
        let v6s = self.vips.iter().copied().filter(IpAddr::is_ipv6).chain([address(host, false)]);
        let v6s: Vec<_> = v6s.collect();
        let speaker = |random: &mut Random| match random.below(3) {
            0 => mac(random.below(HOSTS + 1)),
            1 => STRANGER,
            _ => random.one_of(&CLIENTS),
        };
        let from = speaker(random);
        let target = if random.percent(90) { random.one_of(&v6s) } else { client(false, random) };
        let IpAddr::V6(target6) = target else { return self.elsewhere(random) };
        let source = match random.below(8) {
            0 => random.one_of(&v6s),
            1 | 2 => Ipv6Addr::UNSPECIFIED.into(),
            _ => client(false, random),
        };
        let [.., a, b, c] = target6.octets();
        let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
        if random.percent(3) {
            group[random.below(13)] ^= 1;
        }
        let destination = match random.below(6) {
            0 => target,
            1 => ALL_NODES.into(),
            _ => Ipv6Addr::from(group).into(),
        };
        let kind = random.weighted(&[(12, 135), (6, 136), (2, 133), (1, 134), (1, 137)]);
        let link_layer = |random: &mut Random| {
            let said = if random.percent(70) { from } else { speaker(random) };
            [&[if kind == 136 { 2 } else { 1 }, 1], &said[..]].concat()
        };
        let mut options = match random.below(10) {
            0..2 => vec![],
            2 => [&[14, 1, 1, 2, 3, 4, 5, 6][..], &link_layer(random)].concat(),
            3 => [link_layer(random), vec![14, 1, 9, 9, 9, 9, 9, 9]].concat(),
            4 => [&[200, 2], &[1; 14][..], &link_layer(random)].concat(),
            5 => link_layer(random).repeat(1 + random.below(9)),
            6 => random.bytes(8),
            _ => link_layer(random),
        };
        if random.percent(5) && options.len() > 1 {
            options[1] = random.one_of(&[0, 2, 3, 255]);
        }
        let word = [random.one_of(&[0, 0x20, 0x60]), 0, 0, 0];
        let code = random.weighted(&[(30, 0), (1, 1)]);
        let data = [&target6.octets()[..], &options].concat();
        let mut ip = Ip::new(source, destination, Carries::Icmp { kind, code, word, data });
        ip.ttl = random.weighted(&[(30, 255), (1, 254), (1, 64)]);
        let to = random.one_of(&[[0x33, 0x33, 0xff, a, b, c], GROUP, mac(host)]);
        let mut frame = frame(from, to, Body::Ip(ip));
        spoil(&mut frame, random);
        frame
    }

    /// A frame that leaves that host.
    pub(crate) fn leaving(&self, host: usize, random: &mut Random) -> Frame {
        let mut frame = match random.below(20) {
            0..11 => self.reply(host, random),
            11..14 => self.arp(host, random),
            14..17 => self.discovery(host, random),
            17 => self.error(random),
            18 => self.elsewhere(random),
            _ => return self.foreign(host, random),
        };
        (frame.from, frame.to) = (mac(host), random.one_of(&CLIENTS));
        if random.percent(10) {
            let Body::Ip(ip) = &mut frame.body else { return frame };
            decorate(ip, random);
        }
        if random.percent(5) {
            let Body::Ip(ip) = &mut frame.body else { return frame };
            let offset = random.weighted(&[(3, 0), (2, 3), (1, 100)]);
            ip.fragment = Some((offset, random.percent(70)));
            ip.id = random.one_of(&[1, 2, 3]);
        }
        spoil(&mut frame, random);
        frame
    }

    fn reply(&self, host: usize, random: &mut Random) -> Frame {
        let here: Vec<_> = self.backends.iter().filter(|(_, at)| *at == host).collect();
        let closed = ((address(host, random.percent(50)), CLOSED_PORT, TCP), host);
        let ((from, port, protocol), _) = match random.below(10) {
            0 => closed,
            1 => random.one_of(&self.backends),
            _ if here.is_empty() => closed,
            _ => *random.one_of(&here),
        };
        let to = client(from.is_ipv4(), random);
        let ports = (port, client_port(random));
        let mut carries = transport(protocol, ports, random);
        let (vip, balanced, over) = random.one_of(&self.ports);
        let fits = (over, vip.is_ipv4()) == (UDP, from.is_ipv4()) && protocol == UDP;
        if fits && random.percent(15) {
            carries = vanishing(vip, to, ports, (balanced, ports.1));
        }
        frame(NOBODY, NOBODY, Body::Ip(Ip::new(from, to, carries)))
    }
}

/// Of what follows the fixed part of a probe: as it should be, too short, longer.
fn random_length(random: &mut Random) -> usize {
    random.weighted(&[(10, 24), (1, 23), (1, 0), (3, 600)])
}

/// Some frames are cut short, lie about their length, or have met a bit error.
fn spoil(frame: &mut Frame, random: &mut Random) {
    if random.percent(2) {
        let tag = |random: &mut Random| {
            (random.one_of(&[0x8100, 0x88a8]), random.one_of(&[0, 7, 100, 0x6064]))
        };
        frame.tags = (0..random.weighted(&[(6, 1), (3, 2), (1, 3)])).map(|_| tag(random)).collect();
    }
    if !random.percent(7) {
        return;
    }
    let length = frame.bytes().len();
    // Where the headers are, mostly.
    let end = if random.percent(80) { length.min(78) } else { length };
    let at = random.below(end);
    frame.damage.push(match random.below(8) {
        0..2 => Damage::Cut(14 + random.below(length - 13)),
        2 => Damage::Padding(1 + random.below(20)),
        3..5 => Damage::Turn(at, 1 << random.below(8)),
        5 => Damage::Set(at, random.next() as u8),
        // Length of IPv4 and IPv6, and the length of the IPv4 header.
        6 => Damage::Set(random.one_of(&[16, 17, 18, 19]), random.next() as u8),
        _ => Damage::Set(14, 0x40 | random.below(16) as u8),
    });
}
