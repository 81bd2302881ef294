//! What can go wrong between hosts. (What goes wrong inside: `Process::freeze`, `kill`.)

use std::fmt::Write as _;

use anyhow::Result;

use crate::build::Lab;

const TABLE: &str = "netdev faults";

impl Lab {
    /// Pulls a host's cable: it loses its carrier.
    pub fn unplug(&self, host: &str) -> Result<()> {
        self.wire().run(&["ip", "link", "set", host, "down"]).map(drop)
    }

    /// Plugs it in again.
    pub fn plug_in(&self, host: &str) -> Result<()> {
        self.wire().run(&["ip", "link", "set", host, "up"]).map(drop)
    }

    /// Nothing that `from` sends reaches `to` any more. The other direction is not touched.
    pub fn cut(&self, from: &str, to: &str) -> Result<()> {
        let mac = self.host(from).mac();
        self.fault(to, "egress", &format!("ether saddr {mac} drop"))
    }

    /// Nothing passes between the two groups any more, in either direction.
    pub fn partition(&self, one: &[&str], other: &[&str]) -> Result<()> {
        for a in one {
            for b in other {
                self.cut(a, b)?;
                self.cut(b, a)?;
            }
        }
        Ok(())
    }

    /// Loses this share (of a hundred) of all frames to and from a host.
    pub fn lose(&self, host: &str, percent: u8) -> Result<()> {
        let rule = format!("numgen random mod 100 < {percent} drop");
        self.fault(host, "ingress", &rule)?;
        self.fault(host, "egress", &rule)
    }

    /// Makes the link to a host slow, both ways: what is sent queues for up to 300 ms.
    pub fn slow_down(&self, host: &str) -> Result<()> {
        let line = "tc qdisc replace dev DEV root tbf rate 2mbit burst 16kb latency 300ms";
        self.wire().shell(&line.replace("DEV", host))?;
        self.host(host).shell(&line.replace("DEV", "eth0")).map(drop)
    }

    /// Ends that.
    pub fn speed_up(&self, host: &str) -> Result<()> {
        let line = "tc qdisc del dev DEV root";
        self.wire().shell(&line.replace("DEV", host))?;
        self.host(host).shell(&line.replace("DEV", "eth0")).map(drop)
    }

    /// Ends all cuts, partitions and losses.
    pub fn heal(&self) -> Result<()> {
        let input = format!("add table {TABLE}\ndelete table {TABLE}\n");
        self.wire().feed(&["nft", "-f", "-"], &input)
    }

    fn fault(&self, port: &str, hook: &str, rule: &str) -> Result<()> {
        let mut input = format!("add table {TABLE}\n");
        let chain = format!("{TABLE} {hook}_{port}");
        writeln!(
            input,
            "add chain {chain} {{ type filter hook {hook} device \"{port}\" priority 0; }}\n\
             add rule {chain} {rule}"
        )?;
        self.wire().feed(&["nft", "-f", "-"], &input)
    }
}
