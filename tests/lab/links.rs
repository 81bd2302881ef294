//! Links beyond the one each host begins with: a second network, devices on top of eth0, overlays.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::build::{Lab, join, plain_frames};
use crate::frame::Mac;
use crate::host::Host;

/// Numbers of the networks that do not belong to the topology.
const SIDE: u8 = 200;
const OVERLAY: u8 = 201;

/// What stands on eth0 and has its addresses instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacked {
    /// A bridge with eth0 as its port: `br0`.
    Bridge,
    /// A macvlan: `mv0`.
    Macvlan,
}

impl Stacked {
    /// The device's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "br0",
            Self::Macvlan => "mv0",
        }
    }
}

/// An address of a host on a network that does not belong to the topology.
fn on(network: u8, host: &Host) -> [IpAddr; 2] {
    let number = host.v4().octets()[3];
    let [.., low] = host.v6().segments();
    [
        Ipv4Addr::new(10, 77, network, number).into(),
        Ipv6Addr::new(0xfd77, 0, 0, network.into(), 0, 0, 0, low).into(),
    ]
}

impl Host {
    /// Its addresses on the network that `Lab::side_network` makes.
    pub fn side_addresses(&self) -> [IpAddr; 2] {
        on(SIDE, self)
    }

    /// Its addresses on the network that `Lab::overlay` makes.
    pub fn overlay_addresses(&self) -> [IpAddr; 2] {
        on(OVERLAY, self)
    }

    /// Its MAC address on the network that `Lab::side_network` makes.
    pub fn side_mac(&self) -> Mac {
        Mac([0x02, 0x77, SIDE, 0, 0, self.v4().octets()[3]])
    }

    /// Puts a device on eth0 that takes over its addresses and its MAC address.
    pub fn stack(&self, device: Stacked) -> Result<()> {
        let (name, mac, v4, v6) = (device.name(), self.mac(), self.v4(), self.v6());
        let made = match device {
            Stacked::Bridge => format!(
                "link add {name} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set eth0 master {name}"
            ),
            // The device below needs an address of its own: it keeps frames to that one.
            Stacked::Macvlan => format!(
                "link set eth0 address 02:77:ff:00:00:{:02x}\n\
                 link add {name} link eth0 address {mac} type macvlan mode bridge",
                v4.octets()[3]
            ),
        };
        let batch = format!(
            "addr flush dev eth0\n{made}\nlink set {name} up\n\
             addr add {v4}/24 dev {name}\naddr add {v6}/64 dev {name} nodad\n"
        );
        self.feed(&["ip", "-batch", "-"], &batch)
    }
}

impl Lab {
    /// A second bridge, and an eth1 on it for each of these hosts: 10.77.200.0/24 and
    /// `fd77:0:0:200::/64` read as decimal.
    pub fn side_network(&self, hosts: &[&str]) -> Result<()> {
        let mut batch = "link add side type bridge mcast_snooping 0 stp_state 0 forward_delay 0\n\
                         link set side up\n"
            .to_owned();
        let mut ports = Vec::new();
        for host in hosts.iter().map(|name| self.host(name)) {
            let port = format!("{}side", host.name());
            join(&mut batch, "side", &port, "eth1", host.holder(), host.side_mac())?;
            ports.push(port);
        }
        self.wire().feed(&["ip", "-batch", "-"], &batch)?;
        self.wire().in_net(|| ports.iter().try_for_each(|port| plain_frames(port)))?;
        self.wire().pass_through_xdp(&ports)?;
        for host in hosts.iter().map(|name| self.host(name)) {
            let [v4, v6] = host.side_addresses();
            let batch = format!(
                "link set eth1 up\naddr add {v4}/24 dev eth1\naddr add {v6}/64 dev eth1 nodad\n"
            );
            host.feed(&["ip", "-batch", "-"], &batch)?;
            host.in_net(|| plain_frames("eth1"))?;
        }
        Ok(())
    }

    /// A veth with an end in each of two hosts, ready for frames from XDP programs.
    pub fn cable(&self, (one, first): (&str, &str), (other, second): (&str, &str)) -> Result<()> {
        let (one, other) = (self.host(one), self.host(other));
        let pid = other.holder();
        let made = format!("ip link add {first} type veth peer name {second} netns {pid}");
        one.shell(&format!("{made}; ip link set {first} up"))?;
        other.shell(&format!("ip link set {second} up"))?;
        one.in_net(|| plain_frames(first))?;
        other.in_net(|| plain_frames(second))
    }

    /// A VXLAN over IPv4 between these hosts, as overlays of clusters are made.
    pub fn overlay(&self, name: &str, hosts: &[&str]) -> Result<()> {
        for host in hosts.iter().map(|name| self.host(name)) {
            let [v4, v6] = host.overlay_addresses();
            let local = host.v4();
            let mut line = format!(
                "ip link add {name} type vxlan id 77 local {local} dev eth0 dstport 4789 nolearning; \
                 ip link set {name} up; ip addr add {v4}/24 dev {name}; \
                 ip addr add {v6}/64 dev {name} nodad"
            );
            for other in hosts.iter().filter(|other| **other != host.name()) {
                let to = self.host(other).v4();
                write!(line, "; bridge fdb append 00:00:00:00:00:00 dev {name} dst {to}")?;
            }
            host.shell(&line)?;
            host.in_net(|| plain_frames(name))?;
        }
        Ok(())
    }
}
