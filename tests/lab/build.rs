//! Making a lab: namespaces first, then the links between them.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::frame::Mac;
use crate::host::{Addresses, Host};
use crate::reaper::Reaper;
use crate::sys;
use crate::topology::{Spec, Topology};

/// The virtual addresses tests on one bridge use.
pub const VIPS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 100)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100)),
];

/// Hosts joined by links; everything is gone when it is dropped, or when its process dies.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    wire: Host,
    core: Option<Host>,
    reaper: Reaper,
}

impl Lab {
    /// Nodes n1.. and clients c1.. on one bridge.
    pub fn bridge(nodes: usize, clients: usize) -> Result<Self> {
        Self::new(&Topology::bridge(nodes, clients)?)
    }

    /// Builds what `topology` describes.
    pub fn new(topology: &Topology) -> Result<Self> {
        raise_file_limit();
        let reaper = Reaper::start()?;
        let outside = Addresses::on(255, 0);
        let wire = Host::start(&reaper, "wire", outside)?;
        let core = match topology.routed {
            true => Some(Host::start(&reaper, "core", Addresses::on(1, 1))?),
            false => None,
        };
        let specs = || topology.segments.iter().flatten();
        let hosts = specs()
            .map(|spec| Host::start(&reaper, &spec.name, spec.addresses))
            .collect::<Result<Vec<_>>>()?;
        let lab = Self { hosts, wire, core, reaper };
        // Links take these over when they are made.
        lab.core.iter().try_for_each(|core| before_links(core, true))?;
        lab.hosts
            .iter()
            .zip(specs())
            .try_for_each(|(host, spec)| before_links(host, spec.forwards))?;
        lab.lay_wires(topology)?;
        if let Some(core) = &lab.core {
            lab.set_up_core(core, topology.segments.len())?;
        }
        for (host, spec) in lab.hosts.iter().zip(specs()) {
            set_up_host(host, spec, topology.routed)?;
        }
        Ok(lab)
    }

    /// The host of that name; a panic when there is none, for that is a slip in the test.
    #[track_caller]
    pub fn host(&self, name: &str) -> &Host {
        let found = self.hosts.iter().chain(&self.core).find(|host| host.name() == name);
        found.unwrap_or_else(|| panic!("the lab has no host {name}: {:?}", self.hosts))
    }

    /// All hosts, in the order of the topology, without the router.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The hosts called n1, n2 ...
    pub fn nodes(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.name().starts_with('n'))
    }

    /// Where the bridges are; a host's port on its bridge is called like the host.
    pub fn wire(&self) -> &Host {
        &self.wire
    }

    /// Whose MAC address that is.
    pub fn name_of(&self, mac: Mac) -> String {
        let found = self.hosts.iter().find(|host| host.mac() == mac);
        found.map_or_else(|| mac.to_string(), |host| host.name().to_owned())
    }

    /// Where the lab keeps its files.
    pub fn directory(&self) -> &std::path::Path {
        &self.reaper.directory
    }

    /// Leaves the lab running when this process ends; killing the process whose number is
    /// returned ends it.
    pub fn keep(mut self) -> Result<u32> {
        self.reaper.hand_over()
    }

    fn lay_wires(&self, topology: &Topology) -> Result<()> {
        self.wire.sysctl(&[("net.ipv6.conf.default.disable_ipv6", "1")])?;
        let mut batch = String::new();
        let mut ports = Vec::new();
        for (number, segment) in topology.segments.iter().enumerate() {
            let bridge = format!("br{number}");
            writeln!(
                batch,
                "link add {bridge} type bridge mcast_snooping 0 stp_state 0 forward_delay 0\n\
                 link set {bridge} up"
            )?;
            for spec in segment {
                let host = self.host(&spec.name);
                join(&mut batch, &bridge, &spec.name, "eth0", host.holder(), spec.addresses.mac)?;
                ports.push(spec.name.clone());
            }
            if let Some(core) = &self.core {
                let port = format!("core{number}");
                let mac = Addresses::on(number as u8 + 1, 1).mac;
                join(&mut batch, &bridge, &port, &format!("eth{number}"), core.holder(), mac)?;
                ports.push(port);
            }
        }
        self.wire.feed(&["ip", "-batch", "-"], &batch)?;
        self.wire.in_net(|| ports.iter().try_for_each(|port| plain_frames(port)))?;
        if topology.bare { Ok(()) } else { self.wire.pass_through_xdp(&ports) }
    }

    fn set_up_core(&self, core: &Host, segments: usize) -> Result<()> {
        let mut batch = "link set lo up\n".to_owned();
        for number in 0..segments {
            let addresses = Addresses::on(number as u8 + 1, 1);
            uplink(&mut batch, &format!("eth{number}"), &addresses)?;
        }
        core.feed(&["ip", "-batch", "-"], &batch)?;
        core.in_net(|| (0..segments).try_for_each(|number| plain_frames(&format!("eth{number}"))))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The reaper goes first (see `Reaper::drop`) and kills the holders; they are waited for
        // here so that no zombies are left to a long test run.
        let kept = self.reaper.end();
        if !kept {
            self.hosts.iter().chain(&self.core).for_each(Host::reap);
            self.wire.reap();
        }
    }
}

pub(crate) fn join(
    batch: &mut String,
    bridge: &str,
    port: &str,
    name: &str,
    pid: u32,
    mac: Mac,
) -> Result<()> {
    writeln!(
        batch,
        "link add dev {port} type veth peer name {name} address {mac} netns {pid}\n\
         link set {port} master {bridge} up"
    )?;
    Ok(())
}

fn set_up_host(host: &Host, spec: &Spec, routed: bool) -> Result<()> {
    let mut batch = "link set lo up\n".to_owned();
    uplink(&mut batch, "eth0", &spec.addresses)?;
    if routed {
        let segment = spec.addresses.v4.octets()[2];
        let router = Addresses::on(segment, 1);
        writeln!(
            batch,
            "route add default via {}\nroute add default via {}",
            router.v4, router.v6
        )?;
    }
    host.feed(&["ip", "-batch", "-"], &batch)?;
    host.in_net(|| plain_frames("eth0"))
}

fn uplink(batch: &mut String, link: &str, addresses: &Addresses) -> Result<()> {
    let Addresses { v4, v6, .. } = addresses;
    writeln!(
        batch,
        "link set {link} up\naddr add {v4}/24 dev {link}\naddr add {v6}/64 dev {link} nodad"
    )?;
    Ok(())
}

/// What has to be said before there are links: addresses are usable at once, the reverse path
/// is judged as distributions do, clients have enough ports.
fn before_links(host: &Host, forwards: bool) -> Result<()> {
    let forwarding = if forwards { "1" } else { "0" };
    let mut values = vec![
        ("net.ipv4.ip_forward", forwarding),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "2"),
        ("net.ipv4.ip_local_port_range", "10000 65000"),
        ("net.ipv6.conf.all.forwarding", forwarding),
    ];
    let names = ["all", "default"].iter().flat_map(|link| {
        [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")]
            .map(|(name, value)| (format!("net.ipv6.conf.{link}.{name}"), value))
    });
    let names = names.collect::<Vec<_>>();
    values.extend(names.iter().map(|(name, value)| (name.as_str(), *value)));
    host.sysctl(&values)
}

/// veth would leave checksums to a card that is not there, and drops what XDP sends unless the
/// receiving end polls.
pub(crate) fn plain_frames(link: &str) -> Result<()> {
    sys::set_offload(link, sys::TX_CHECKSUM, false)
        .and_then(|()| sys::set_offload(link, sys::GRO, true))
        .with_context(|| format!("switching the offloads of {link}"))
}

/// Ten thousand connections are twenty thousand descriptors when both ends live here.
fn raise_file_limit() {
    const WANTED: u64 = 200_000;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let hard = hard.max(WANTED);
        // Not being allowed shows later, in an error that names descriptors.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(WANTED), hard);
    }
}
