//! `natPorts` against the ports that the kernel gives to this host's own connections.

use kube_vip_common::nat::PortRange;

use super::Config;
use super::error::{ConfigError, Problem};

const LOCAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Checks that the kernel will not use `natPorts` itself. The settings are the network namespace's
/// and are for IPv6 too (Linux Documentation/networking/ip-sysctl.rst).
///
/// # Errors
/// It may, with the way out.
pub fn check_host_ports(config: &Config) -> Result<(), ConfigError> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    check(config, &read(LOCAL), &read(RESERVED))
}

fn check(config: &Config, local: &str, reserved: &str) -> Result<(), ConfigError> {
    let problem = |message| {
        let path = "natPorts".to_owned();
        Err(ConfigError::new("", vec![Problem { origin: None, line: None, path, message }]))
    };
    let Some(wanted) = config.nat_ports else { return Ok(()) };
    let balanced = config.load_balancers.iter().map(|lb| (lb.bind_to_vip, lb.port, &lb.name));
    let proxied = config.http_balancers.iter().map(|lb| (lb.bind_to_vip, lb.port, &lb.name));
    let mut own = balanced.chain(proxied).filter(|(on_vip, ..)| !on_vip);
    if let Some((_, port, name)) = own.find(|(_, port, _)| wanted.contains(*port)) {
        return problem(format!(
            "{port} is a port of load balancer {name:?} on the hosts' own addresses; take a range \
             without it"
        ));
    }
    let Some(local) = range(local, char::is_whitespace) else { return Ok(()) };
    let reserved: Vec<PortRange> = reserved.trim().split(',').filter_map(one_or_range).collect();
    let in_use = (wanted.first.max(local.first)..=wanted.last.min(local.last))
        .find(|port| !reserved.iter().any(|range| range.contains(*port)));
    match in_use {
        None => Ok(()),
        Some(port) => problem(format!(
            "{}-{} overlaps the ports the kernel gives to this host's own connections \
             ({}-{}, net.ipv4.ip_local_port_range), which may get {port}; take ports outside of \
             them, or reserve these: sysctl net.ipv4.ip_local_reserved_ports={}-{}",
            wanted.first, wanted.last, local.first, local.last, wanted.first, wanted.last
        )),
    }
}

fn range(text: &str, between: impl Fn(char) -> bool) -> Option<PortRange> {
    let mut numbers = text.split(between).filter(|word| !word.is_empty()).map(str::parse);
    Some(PortRange { first: numbers.next()?.ok()?, last: numbers.next()?.ok()? })
}

fn one_or_range(text: &str) -> Option<PortRange> {
    let one = |port| PortRange { first: port, last: port };
    text.trim().parse().ok().map(one).or_else(|| range(text.trim(), |c| c == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(ports: &str, reserved: &str) -> Result<(), String> {
        let text = format!(
            "localPeer: {{id: a, address: 10.0.0.1}}\ninterface: eth0\nsingleNode: true\n\
             natPorts: {ports}\nloadBalancers: [{{port: 20080, backends: [{{address: 10.0.0.9}}]}}]\n"
        );
        let config = Config::parse(&text, "f", "a").map_err(|error| error.to_string())?;
        check(&config, "32768\t60999\n", reserved)
            .map_err(|error| error.problems().first().map(ToString::to_string).unwrap_or_default())
    }

    #[test]
    fn ports_of_the_kernel_must_be_reserved() {
        for (ports, reserved) in [
            ("28000-31999", "\n"),
            ("61000-65535", "\n"),
            ("40000-40999", "40000-40999\n"),
            ("40000-40001", "8080,40000,40001\n"),
            ("30000-40000", "32768-40000,50000\n"),
        ] {
            assert_eq!(verdict(ports, reserved), Ok(()), "{ports} {reserved:?}");
        }
        for (ports, reserved, port) in [
            ("40000-40999", "\n", "may get 40000;"),
            ("30000-32768", "\n", "may get 32768;"),
            ("60999-65535", "1-60998\n", "may get 60999;"),
            ("40000-40002", "40000,40002\n", "may get 40001;"),
        ] {
            let message = verdict(ports, reserved).expect_err("refused");
            assert!(message.contains(port) && message.contains("sysctl"), "{message}");
        }
    }

    #[test]
    fn ports_of_the_hosts_own_load_balancers_are_taken() {
        let message = verdict("20000-20999", "\n").expect_err("refused");
        assert!(message.contains("20080 is a port of load balancer"), "{message}");
    }
}
