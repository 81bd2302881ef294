//! The records of connections that hosts tell each other of: what is translated here (`NAT4`, `NAT6`),
//! what is delivered here (`FLOWS4`, `FLOWS6`), and what is elsewhere (`STRAYS4`, `STRAYS6`).
//!
//! They are read and written beside the driver, which has no part in them.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Pod;
use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use kube_vip_common::flow::{Endpoint4, Endpoint6, Tuple4, Tuple6, is_over};
use kube_vip_common::nat::{Nat4, Nat6, REPLY};
use kube_vip_common::stats::{Count, Reason};
use kube_vip_common::stray::Stray;

use super::clock;
use super::sys::{self, SysError};
use crate::view::Mac;

const NAT: &str = "a map of translated flows";
const FLOWS: &str = "a map of flows";
const STRAYS: &str = "a map of strays";

/// What whoever speaks with other hosts needs.
pub struct Travels {
    /// The records.
    pub records: Records,
    /// Keys of translated flows that have changed: `NAT_CHANGES4`, `NAT_CHANGES6`.
    pub changes: [RingBuf<MapData>; 2],
}

/// The maps.
pub struct Records {
    pub(super) nat4: OwnedFd,
    pub(super) nat6: OwnedFd,
    pub(super) flows4: OwnedFd,
    pub(super) flows6: OwnedFd,
    pub(super) strays4: OwnedFd,
    pub(super) strays6: OwnedFd,
    pub(super) stats: OwnedFd,
}

/// A connection, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The client.
    pub client: SocketAddr,
    /// The VIP and the balanced port.
    pub vip: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
}

/// The next hop of a translated flow's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface they leave through.
    pub interface: u32,
    /// Where they go.
    pub there: Mac,
    /// Their source.
    pub own: Mac,
}

/// A translated flow, both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The connection.
    pub flow: Flow,
    /// The port of the VIP that it comes from at the backend.
    pub port: u16,
    /// The backend.
    pub server: SocketAddr,
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// See [`kube_vip_common::nat`].
    pub state: u16,
    /// Second of `CLOCK` in which it was last used.
    pub seen: u32,
    /// To the client; nothing while that is unknown.
    pub to_client: Option<Link>,
    /// To the backend; nothing while that is unknown.
    pub to_server: Option<Link>,
}

/// A key of `NAT4` or `NAT6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Of `NAT4`.
    V4(Tuple4),
    /// Of `NAT6`.
    V6(Tuple6),
}

impl Key {
    /// The direction from one end to the other.
    pub fn of(from: SocketAddr, to: SocketAddr, protocol: u8) -> Self {
        match from {
            SocketAddr::V4(_) => Self::V4(V4::tuple(from, to, protocol)),
            SocketAddr::V6(_) => Self::V6(V6::tuple(from, to, protocol)),
        }
    }

    /// Out of a record of `NAT_CHANGES4` or `NAT_CHANGES6`.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() >= size_of::<Tuple6>() {
            sys::read(bytes).map(Self::V6)
        } else {
            sys::read(bytes).map(Self::V4)
        }
    }
}

/// What became of a translation that another host told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is written.
    Written,
    /// There is one of this host's own in its place.
    Kept,
}

impl Records {
    /// The second that `CLOCK` has, or will have.
    pub fn now() -> u32 {
        clock::seconds()
    }

    /// The translated flow that has a key, where it comes from the VIP itself. Those that come from
    /// this host's own address end with it.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn translation(&self, key: &Key) -> Result<Option<Translation>, SysError> {
        match key {
            Key::V4(tuple) => V4::translation(&self.nat4, tuple),
            Key::V6(tuple) => V6::translation(&self.nat6, tuple),
        }
    }

    /// All of them, some at a time, as long as they are wanted.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn translations(
        &self,
        mut each: impl FnMut(Vec<Translation>) -> bool,
    ) -> Result<(), SysError> {
        let mut wanted = true;
        V4::translations(&self.nat4, &mut wanted, &mut each)?;
        V6::translations(&self.nat6, &mut wanted, &mut each)
    }

    /// Writes a translated flow; where `keeps`, one of this host's own stays.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn put_translation(&self, to: &Translation, keeps: bool) -> Result<Put, SysError> {
        match to.server.ip() {
            IpAddr::V4(_) => V4::put(&self.nat4, to, keeps),
            IpAddr::V6(_) => V6::put(&self.nat6, to, keeps),
        }
    }

    /// The connections that are delivered here and have not ended.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn flows(&self, mut each: impl FnMut(Flow)) -> Result<(), SysError> {
        sys::read_batches(self.flows4.as_fd(), FLOWS, |keys: &[Tuple4], values: &[Endpoint4]| {
            let live = keys.iter().zip(values).filter(|(_, value)| !is_over(value.flags));
            live.for_each(|(key, _)| each(flow::<V4>(key)));
        })?;
        sys::read_batches(self.flows6.as_fd(), FLOWS, |keys: &[Tuple6], values: &[Endpoint6]| {
            let live = keys.iter().zip(values).filter(|(_, value)| !is_over(value.flags));
            live.for_each(|(key, _)| each(flow::<V6>(key)));
        })
    }

    /// Writes connections that are on the host with that index into `NODES`.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn put_strays(&self, flows: &[Flow], node: u32) -> Result<(), SysError> {
        let of = |v4| flows.iter().filter(move |flow| flow.vip.is_ipv4() == v4);
        let v4: Vec<_> = of(true).map(|it| V4::tuple(it.client, it.vip, it.protocol)).collect();
        let v6: Vec<_> = of(false).map(|it| V6::tuple(it.client, it.vip, it.protocol)).collect();
        let stray = Stray { node };
        sys::update_batch(self.strays4.as_fd(), STRAYS, &v4, &vec![stray; v4.len()])?;
        sys::update_batch(self.strays6.as_fd(), STRAYS, &v6, &vec![stray; v6.len()])
    }

    /// How many changes there was no room to tell of.
    pub fn untold(&self) -> u64 {
        let count = || {
            let data = MapData::from_fd(self.stats.try_clone().ok()?).ok()?;
            let stats: PerCpuArray<_, Count> = Map::PerCpuArray(data).try_into().ok()?;
            let values = stats.get(&(Reason::NatUntold as u32), 0).ok()?;
            Some(values.iter().map(|count| count.packets).sum())
        };
        count().unwrap_or(0)
    }
}

/// A value of `NAT4` or `NAT6`.
struct Direction {
    source: SocketAddr,
    destination: SocketAddr,
    backend: u32,
    seen: u32,
    ifindex: u32,
    link: [u32; 3],
    state: u16,
    flags: u16,
}

/// An IP version.
trait Version {
    type Tuple: Pod + Default;
    type Nat: Pod + Default;

    fn tuple(from: SocketAddr, to: SocketAddr, protocol: u8) -> Self::Tuple;
    fn parts(tuple: &Self::Tuple) -> (SocketAddr, SocketAddr, u8);
    fn direction(nat: &Self::Nat) -> Direction;
    fn nat(direction: &Direction) -> Self::Nat;

    fn translation(map: &OwnedFd, key: &Self::Tuple) -> Result<Option<Translation>, SysError> {
        let read = |key: &Self::Tuple| sys::lookup::<_, Self::Nat>(map.as_fd(), NAT, key);
        let Some(nat) = read(key)? else { return Ok(None) };
        let (direction, protocol) = (Self::direction(&nat), Self::parts(key).2);
        if direction.flags & REPLY == 0 {
            return Self::whole(map, key, &direction);
        }
        let key = Self::tuple(direction.destination, direction.source, protocol);
        let Some(nat) = read(&key)? else { return Ok(None) };
        Self::whole(map, &key, &Self::direction(&nat))
    }

    /// A flow by its direction to the backend.
    fn whole(
        map: &OwnedFd,
        key: &Self::Tuple,
        there: &Direction,
    ) -> Result<Option<Translation>, SysError> {
        let flow = flow::<Self>(key);
        if there.flags & REPLY != 0 || there.source.ip() != flow.vip.ip() {
            return Ok(None);
        }
        let back = Self::tuple(there.destination, there.source, flow.protocol);
        let back = sys::lookup::<_, Self::Nat>(map.as_fd(), NAT, &back)?;
        let back = back.map(|nat| Self::direction(&nat));
        // Another connection has its place by now.
        let back = back.filter(|back| back.destination == flow.client && back.source == flow.vip);
        let Some(back) = back else { return Ok(None) };
        Ok(Some(Translation {
            flow,
            port: there.source.port(),
            server: there.destination,
            backend: there.backend,
            state: there.state,
            seen: there.seen,
            to_client: link(&back),
            to_server: link(there),
        }))
    }

    fn translations(
        map: &OwnedFd,
        wanted: &mut bool,
        each: &mut impl FnMut(Vec<Translation>) -> bool,
    ) -> Result<(), SysError> {
        let mut failed = Ok(());
        sys::read_batches(map.as_fd(), NAT, |keys: &[Self::Tuple], values: &[Self::Nat]| {
            if !*wanted {
                return;
            }
            let mut some = Vec::new();
            for (key, nat) in keys.iter().zip(values) {
                match Self::whole(map, key, &Self::direction(nat)) {
                    Ok(whole) => some.extend(whole),
                    Err(error) => failed = Err(error),
                }
            }
            *wanted = some.is_empty() || each(some);
        })?;
        failed
    }

    /// A flow that this host knows and, as another one tells, has come further there.
    fn follow(map: &OwnedFd, known: &Translation, to: &Translation) -> Result<Put, SysError> {
        let same = (known.port, known.server) == (to.port, to.server);
        let further = known.state != to.state && known.state & to.state == known.state;
        if !same || !further {
            return Ok(Put::Kept);
        }
        Self::put(map, &Translation { state: to.state, ..*known }, false)
    }

    fn put(map: &OwnedFd, to: &Translation, keeps: bool) -> Result<Put, SysError> {
        let Flow { client, vip, protocol } = to.flow;
        let source = SocketAddr::new(vip.ip(), to.port);
        let link =
            |link: Option<Link>| link.map_or((0, [0; 3]), |link| (link.interface, words(&link)));
        let direction = |source, destination, (ifindex, link), flags| {
            let Translation { backend, seen, state, .. } = *to;
            Self::nat(&Direction {
                source,
                destination,
                backend,
                seen,
                ifindex,
                link,
                state,
                flags,
            })
        };
        let there = direction(source, to.server, link(to.to_server), 0);
        let back = direction(vip, client, link(to.to_client), REPLY);
        let there_key = Self::tuple(client, vip, protocol);
        let back_key = Self::tuple(to.server, source, protocol);
        if keeps {
            if let Some(known) = Self::translation(map, &there_key)? {
                return Self::follow(map, &known, to);
            }
            // The port's user first: without it the other direction would lead to somebody else.
            let free = sys::insert(map.as_fd(), NAT, &back_key, &back)?;
            let written = free && sys::insert(map.as_fd(), NAT, &there_key, &there)?;
            if free && !written {
                sys::remove(map.as_fd(), NAT, &back_key)?;
            }
            return Ok(if written { Put::Written } else { Put::Kept });
        }
        sys::update(map.as_fd(), NAT, &back_key, &back)?;
        sys::update(map.as_fd(), NAT, &there_key, &there)?;
        Ok(Put::Written)
    }
}

struct V4;
struct V6;

macro_rules! version {
    ($version:ty, $tuple:ident, $nat:ident, $socket:ident, $socket_of:expr) => {
        impl Version for $version {
            type Tuple = $tuple;
            type Nat = $nat;

            fn tuple(from: SocketAddr, to: SocketAddr, protocol: u8) -> $tuple {
                match (from, to) {
                    (SocketAddr::$socket(from), SocketAddr::$socket(to)) => $tuple {
                        source: from.ip().octets(),
                        destination: to.ip().octets(),
                        source_port: from.port(),
                        destination_port: to.port(),
                        protocol: protocol.into(),
                    },
                    // Of no packet.
                    _ => $tuple::default(),
                }
            }

            fn parts(tuple: &$tuple) -> (SocketAddr, SocketAddr, u8) {
                let from = $socket_of(tuple.source.into(), tuple.source_port);
                let to = $socket_of(tuple.destination.into(), tuple.destination_port);
                (from, to, tuple.protocol as u8)
            }

            fn direction(nat: &$nat) -> Direction {
                Direction {
                    source: $socket_of(nat.source.into(), nat.source_port),
                    destination: $socket_of(nat.destination.into(), nat.destination_port),
                    backend: nat.backend,
                    seen: nat.seen,
                    ifindex: nat.ifindex,
                    link: nat.link,
                    state: nat.state,
                    flags: nat.flags,
                }
            }

            fn nat(direction: &Direction) -> $nat {
                let ends = Self::tuple(direction.source, direction.destination, 0);
                $nat {
                    source: ends.source,
                    destination: ends.destination,
                    source_port: ends.source_port,
                    destination_port: ends.destination_port,
                    backend: direction.backend,
                    seen: direction.seen,
                    ifindex: direction.ifindex,
                    link: direction.link,
                    state: direction.state,
                    flags: direction.flags,
                }
            }
        }
    };
}

version!(V4, Tuple4, Nat4, V4, |ip, port| SocketAddr::V4(SocketAddrV4::new(ip, port)));
version!(V6, Tuple6, Nat6, V6, |ip, port| SocketAddr::V6(SocketAddrV6::new(ip, port, 0, 0)));

fn flow<V: Version + ?Sized>(key: &V::Tuple) -> Flow {
    let (client, vip, protocol) = V::parts(key);
    Flow { client, vip, protocol }
}

/// The first twelve bytes of a frame, out of words in the host's order.
fn link(direction: &Direction) -> Option<Link> {
    let [a, b, c] = direction.link.map(u32::to_ne_bytes);
    let there = Mac([a[0], a[1], a[2], a[3], b[0], b[1]]);
    let own = Mac([b[2], b[3], c[0], c[1], c[2], c[3]]);
    (direction.ifindex != 0).then_some(Link { interface: direction.ifindex, there, own })
}

fn words(link: &Link) -> [u32; 3] {
    let (Mac(t), Mac(o)) = (link.there, link.own);
    [[t[0], t[1], t[2], t[3]], [t[4], t[5], o[0], o[1]], [o[2], o[3], o[4], o[5]]]
        .map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn tuples_and_links_survive_the_way_through_the_maps() {
        let (a, b) = (at("10.0.0.1:1000"), at("10.0.0.2:80"));
        assert_eq!(V4::parts(&V4::tuple(a, b, 6)), (a, b, 6));
        let (c, d) = (at("[fd00::1]:1000"), at("[fd00::2]:80"));
        assert_eq!(V6::parts(&V6::tuple(c, d, 17)), (c, d, 17));
        let own =
            Link { interface: 3, there: Mac([1, 2, 3, 4, 5, 6]), own: Mac([7, 8, 9, 10, 11, 12]) };
        let direction = Direction {
            source: a,
            destination: b,
            backend: 1,
            seen: 2,
            ifindex: 3,
            link: words(&own),
            state: 4,
            flags: REPLY,
        };
        let read = V4::direction(&V4::nat(&direction));
        assert_eq!((read.source, read.destination, read.flags), (a, b, REPLY));
        assert_eq!(link(&read), Some(own));
        assert_eq!(link(&Direction { ifindex: 0, ..read }), None);
    }

    #[test]
    fn keys_are_told_apart_by_their_length() {
        let bytes = |words: usize| vec![7; words * 8];
        assert!(matches!(Key::read(&bytes(2)), Some(Key::V4(_))));
        assert!(matches!(Key::read(&bytes(5)), Some(Key::V6(_))));
        assert_eq!(Key::read(&bytes(1)), None);
    }
}
