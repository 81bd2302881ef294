//! Which hosts a lab has and what joins them, before anything exists.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};

use crate::frame::Mac;
use crate::host::Addresses;

/// Hosts and the segments (bridges) they are on.
///
/// A host's name says what it is: `n1` is a node (forwards, as Kubernetes nodes do), `c1` a
/// client, `x1` any other host. Its number makes its addresses: n1 is .11, c1 .201, x1 .151.
#[derive(Clone, Debug)]
pub struct Topology {
    pub(crate) segments: Vec<Vec<Spec>>,
    pub(crate) routed: bool,
    pub(crate) bare: bool,
}

/// One host to be made.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) forwards: bool,
    pub(crate) addresses: Addresses,
}

impl Topology {
    /// Nodes n1.. and clients c1.. on one bridge: 10.77.0.0/24 and `fd77::/64`.
    pub fn bridge(nodes: usize, clients: usize) -> Result<Self> {
        let names =
            (1..=nodes).map(|i| format!("n{i}")).chain((1..=clients).map(|i| format!("c{i}")));
        let segment = names.map(|name| Spec::new(&name, 0)).collect::<Result<_>>()?;
        Ok(Self { segments: vec![segment], routed: false, bare: false })
    }

    /// One more host on the last segment.
    pub fn and(mut self, name: &str) -> Result<Self> {
        let number = if self.routed { self.segments.len() as u8 } else { 0 };
        let spec = Spec::new(name, number)?;
        match self.segments.last_mut() {
            Some(segment) => segment.push(spec),
            None => bail!("{name}: there is no segment for it"),
        }
        Ok(self)
    }

    /// Each group of hosts on a bridge of its own, joined by a router called `core`:
    /// 10.77.1.0/24 and `fd77:0:0:1::/64`, 10.77.2.0/24 and so on, the router at .1.
    pub fn routed(groups: &[&[&str]]) -> Result<Self> {
        let segments = groups
            .iter()
            .zip(1..)
            .map(|(group, number)| group.iter().map(|name| Spec::new(name, number)).collect())
            .collect::<Result<_>>()?;
        Ok(Self { segments, routed: true, bare: false })
    }

    /// With one host more on the first bridge.
    pub fn with(mut self, name: &str) -> Result<Self> {
        let number = u8::from(self.routed);
        let spec = Spec::new(name, number)?;
        self.segments.first_mut().context("a topology without a bridge")?.push(spec);
        Ok(self)
    }

    /// Without XDP programs at the wire's end of each link: as with any veth, what a host's native
    /// program sends is lost then.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }
}

impl Spec {
    fn new(name: &str, segment: u8) -> Result<Self> {
        let number = name.get(1..).and_then(|digits| digits.parse::<u8>().ok());
        let (base, most) = match (name.as_bytes().first(), number) {
            (Some(b'n'), Some(1..)) => (10, 80),
            (Some(b'x'), Some(1..)) => (150, 40),
            (Some(b'c'), Some(1..)) => (200, 50),
            _ => bail!("a host of the lab is called n1.., c1.. or x1.., not {name:?}"),
        };
        let number = number.unwrap_or_default();
        if number > most {
            bail!("{name}: the lab has room for {most} hosts of this kind");
        }
        Ok(Self {
            name: name.to_owned(),
            forwards: base == 10,
            addresses: Addresses::on(segment, base + number),
        })
    }
}

impl Addresses {
    /// The addresses of host `number` on a segment; the IPv6 one reads like the IPv4 one.
    pub(crate) fn on(segment: u8, number: u8) -> Self {
        let [hundreds, tens, ones] = [number / 100, number / 10 % 10, number % 10].map(u16::from);
        let low = hundreds << 8 | tens << 4 | ones;
        Self {
            v4: Ipv4Addr::new(10, 77, segment, number),
            v6: Ipv6Addr::new(0xfd77, 0, 0, segment.into(), 0, 0, 0, low),
            mac: Mac([0x02, 0x77, segment, 0, 0, number]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_names() {
        let lab = Topology::bridge(12, 1).expect("a small lab");
        let found = |name: &str| {
            lab.segments[0].iter().find(|spec| spec.name == name).expect("a host").addresses
        };
        assert_eq!(found("n1").v4.to_string(), "10.77.0.11");
        assert_eq!(found("n1").v6.to_string(), "fd77::11");
        assert_eq!(found("n12").v6.to_string(), "fd77::22");
        assert_eq!(found("c1").v4.to_string(), "10.77.0.201");
        assert_eq!(found("c1").v6.to_string(), "fd77::201");
        let routed = Topology::routed(&[&["n1"], &["c1"]]).expect("a small lab");
        assert_eq!(routed.segments[1][0].addresses.v6.to_string(), "fd77:0:0:2::201");
    }

    #[test]
    fn names_that_say_nothing_are_refused() {
        for name in ["", "n", "n0", "n81", "node1", "c51", "é1"] {
            assert!(Spec::new(name, 0).is_err(), "{name:?}");
        }
    }
}
