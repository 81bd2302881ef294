//! Looking at a host: counters, neighbours, and everything an agent must leave as it was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::ops::Sub;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::frame::Mac;
use crate::host::Host;

/// What passed an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes sent, what XDP sent included.
    pub tx_bytes: u64,
    /// Frames sent, what XDP sent included.
    pub tx_frames: u64,
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes - before.rx_bytes,
            rx_frames: self.rx_frames - before.rx_frames,
            tx_bytes: self.tx_bytes - before.tx_bytes,
            tx_frames: self.tx_frames - before.tx_frames,
        }
    }
}

/// How a neighbour entry is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Used, and checked soon after its use.
    Stale,
    /// Used until it is forgotten.
    Permanent,
}

impl Host {
    /// What passed an interface of this host so far.
    pub fn counters(&self, interface: &str) -> Result<Counters> {
        let table = self.in_net(|| {
            fs::read_to_string("/proc/thread-self/net/dev").context("reading the link counters")
        })?;
        let line =
            table.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
        let line = line.with_context(|| format!("{} has no {interface}", self.name()))?;
        let numbers = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        ensure!(numbers.len() >= 16, "the counters of {interface} are {line:?}");
        Ok(Counters {
            rx_bytes: numbers[0],
            rx_frames: numbers[1],
            tx_bytes: numbers[8],
            tx_frames: numbers[9],
        })
    }

    /// Makes this host believe that `address` is at `mac`.
    pub fn believe(&self, address: IpAddr, mac: Mac, entry: Entry) -> Result<()> {
        let state = match entry {
            Entry::Stale => "stale",
            Entry::Permanent => "permanent",
        };
        let (address, mac) = (address.to_string(), mac.to_string());
        let line =
            ["ip", "neigh", "replace", &address, "lladdr", &mac, "dev", "eth0", "nud", state];
        self.run(&line).map(drop)
    }

    /// Forgets the neighbour entry of `address`, if there is one.
    pub fn forget(&self, address: IpAddr) -> Result<()> {
        self.shell(&format!("ip neigh del {address} dev eth0 2>/dev/null || true")).map(drop)
    }

    /// The number of the XDP program on an interface.
    pub fn xdp_program(&self, interface: &str) -> Result<Option<u64>> {
        let text = self.run(&["ip", "-j", "link", "show", "dev", interface])?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        Ok(links[0]["xdp"]["prog"]["id"].as_u64())
    }

    /// Paths of everything pinned in this host's bpffs.
    pub fn pins(&self) -> Result<Vec<String>> {
        // bpffs shows two iterators of its own when its kernel has them.
        let text = self.shell("find /sys/fs/bpf -mindepth 1 ! -name '*.debug' | sort")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Everything about this host an agent could have changed.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut sections = BTreeMap::new();
        for line in [
            "ip addr",
            "ip route show table all",
            "ip -6 route show table all",
            "ip rule",
            "ip -6 rule",
            "ip maddr show dev eth0",
            "tc qdisc show dev eth0",
            "bpftool net show dev eth0",
            "bpftool cgroup tree /sys/fs/cgroup",
            "nft list ruleset",
            "ethtool -k eth0",
            "find /sys/fs/bpf /run /sys/fs/cgroup -mindepth 1 -type d",
            "find /sys/fs/bpf -mindepth 1 ! -name *.debug",
        ] {
            let words = line.split(' ').collect::<Vec<_>>();
            sections.insert(line.to_owned(), self.run(&words)?);
        }
        let mut parameters = String::new();
        self.in_net(|| {
            ["ipv4/conf", "ipv6/conf", "ipv4/neigh/eth0", "ipv6/neigh/eth0", "core"]
                .iter()
                .try_for_each(|part| {
                    collect(&Path::new("/proc/sys/net").join(part), &mut parameters)
                })
        })?;
        sections.insert("kernel parameters".to_owned(), parameters);
        Ok(Snapshot { host: self.name().to_owned(), sections })
    }
}

fn collect(directory: &Path, out: &mut String) -> Result<()> {
    let mut entries = fs::read_dir(directory)
        .with_context(|| format!("reading {}", directory.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, out)?;
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Some cannot be read (route/flush); those hold no state.
            writeln!(out, "{} = {}", path.display(), value.trim_end())?;
        }
    }
    Ok(())
}

/// What a host was like at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    host: String,
    sections: BTreeMap<String, String>,
}

impl Snapshot {
    /// An error showing the lines that differ, unless `later` is the same.
    pub fn expect_same(&self, later: &Self) -> Result<()> {
        let mut report = String::new();
        for (title, before) in &self.sections {
            let after = later.sections.get(title).map_or("", String::as_str);
            if before == after {
                continue;
            }
            writeln!(report, "{title}:")?;
            for (sign, one, other) in [('-', before.as_str(), after), ('+', after, before)] {
                let other = other.lines().collect::<Vec<_>>();
                for line in one.lines().filter(|line| !other.contains(line)) {
                    writeln!(report, "  {sign} {line}")?;
                }
            }
        }
        ensure!(report.is_empty(), "{} is not as it was found:\n{report}", self.host);
        Ok(())
    }
}
