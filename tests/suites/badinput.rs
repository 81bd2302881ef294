//! What cannot work is refused in one line that names it, and nothing on the host is changed.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, Config, Connection, Lab, Launch, PATIENCE, Refusal, STATE_DIR, Server, VIPS, by_quorum,
    eventually, owner, web,
};

/// What is put in place of what, and what the message has to name.
struct Case {
    what: &'static str,
    from: &'static str,
    to: &'static str,
    named: &'static [&'static str],
}

const CASES: [Case; 21] = [
    Case {
        what: "a mistyped key",
        from: "  port: 80\n",
        to: "  prot: 80\n",
        named: &["loadBalancers[0].prot", "unknown key \"prot\"", "\"port\"", "wrong.yaml, line 1"],
    },
    Case {
        what: "a key of nobody's",
        from: "interface: eth0",
        to: "colour: blue\ninterface: eth0",
        named: &["unknown key \"colour\""],
    },
    Case {
        what: "a bad VIP",
        from: "10.77.0.100",
        to: "10.77.0.999",
        named: &["vip", "10.77.0.999"],
    },
    Case {
        what: "a bad backend address",
        from: "{address: \"10.77.0.11\", port: 8080}",
        to: "{address: \"10.77.0\", port: 8080}",
        named: &["loadBalancers[0].backends[0].address", "10.77.0"],
    },
    Case {
        what: "no such interface",
        from: "interface: eth0",
        to: "interface: eth7",
        named: &["interface", "eth7", "does not exist", "eth0"],
    },
    Case {
        what: "the loopback",
        from: "interface: eth0",
        to: "interface: lo",
        named: &["interface", "\"lo\"", "eth0"],
    },
    Case {
        what: "port 0",
        from: "  port: 80\n",
        to: "  port: 0\n",
        named: &["loadBalancers[0].port", "0"],
    },
    Case {
        what: "a port too large",
        from: "  port: 80\n",
        to: "  port: 70000\n",
        named: &["loadBalancers[0].port", "70000"],
    },
    Case {
        what: "an id twice",
        from: "{id: n2,",
        to: "{id: n1,",
        named: &["remotePeers[0].id", "\"n1\"", "localPeer"],
    },
    Case {
        what: "another host's file",
        from: "localPeer: {id: n1, address: \"10.77.0.11,fd77::11\"",
        to: "localPeer: {id: n1, address: \"10.77.0.19,fd77::11\"",
        named: &["localPeer.address", "10.77.0.19", "10.77.0.11"],
    },
    Case {
        what: "a host's own address for a VIP",
        from: "vip: \"10.77.0.100,",
        to: "vip: \"10.77.0.11,",
        named: &["localPeer.address", "10.77.0.11", "VIP"],
    },
    Case {
        what: "a mode that is none",
        from: "xdpMode: native",
        to: "xdpMode: offload",
        named: &["xdpMode", "offload", "native"],
    },
    Case {
        what: "a name for an instance that cannot be",
        from: "interface: eth0",
        to: "instance: ../other\ninterface: eth0",
        named: &["instance", "../other"],
    },
    Case {
        what: "YAML that is none",
        from: "interface: eth0",
        to: "interface: [eth0",
        named: &["wrong.yaml, line "],
    },
    Case {
        what: "other hosts and no secret",
        from: "election: file\n",
        to: "",
        named: &["secret", "`kube-vip secret`", "secretFile", "vip_secret", "insecurePeers: true"],
    },
    Case {
        what: "a password for a secret",
        from: "election: file\n",
        to: "secret: hunter2\n",
        named: &["secret", "32 bytes", "`kube-vip secret`"],
    },
    Case {
        what: "a secret that is not there",
        from: "election: file\n",
        to: "secretFile: /etc/kube-vip/none\n",
        named: &["secretFile", "/etc/kube-vip/none", "kube-vip secret > /etc", "No such file"],
    },
    Case {
        what: "a lease that ends between two heartbeats",
        from: "election: file\n",
        to: "insecurePeers: true\nquorum: {heartbeat: 40ms, lease: 60ms}\n",
        named: &["quorum.lease", "60ms", "40ms", "120ms"],
    },
    Case {
        what: "a state directory that cannot be made",
        from: "election: file\n",
        to: "insecurePeers: true\nquorum: {stateDir: /proc/kube-vip}\n",
        named: &["/proc/kube-vip", "cannot make the directory"],
    },
    Case {
        what: "a preference for a VIP that is not there",
        from: "election: file\n",
        to: "insecurePeers: true\nquorum: {prefer: {10.77.0.99: [n1]}}\n",
        named: &["quorum.prefer", "10.77.0.99", "VIPs"],
    },
    Case {
        what: "something else where a list belongs",
        from: "loadBalancers:\n",
        to: "loadBalancers: 5\nx:\n",
        named: &["loadBalancers"],
    },
];

/// Writes a file, starts the agent with it and expects it to be refused without a trace.
fn refuse(lab: &Lab, content: &str, named: &[&str]) -> Result<()> {
    let node = lab.host("n1");
    let path = node.directory().join("wrong.yaml");
    fs::write(&path, content)?;
    let path = path.to_str().context("the lab's directory is not UTF-8")?;
    let before = node.snapshot()?;
    let refusal = Refusal::of(node, &["start", "-c", path], &Launch::default())?;
    println!("{}", refusal.said.trim_end());
    refusal.expect(named)?;
    before.expect_same(&node.snapshot()?)
}

#[test]
fn a_wrong_file_is_refused_in_one_line_that_names_the_thing() -> Result<()> {
    let lab = Lab::bridge(3, 0)?;
    // Addresses of IPv6 may still be looked for on the link.
    eventually(PATIENCE, "n1 to be at rest", || {
        let before = lab.host("n1").snapshot()?;
        std::thread::sleep(Duration::from_millis(500));
        before.expect_same(&lab.host("n1").snapshot()?)
    })?;
    let good = Config::of(&lab, lab.host("n1"), &web(&lab)).to_string();
    for Case { what, from, to, named } in CASES {
        ensure!(good.contains(from), "{what}: {from:?} is not in the file");
        let content = good.replacen(from, to, 1);
        refuse(&lab, &content, named).with_context(|| format!("{what}:\n{content}"))?;
    }
    Ok(())
}

#[test]
fn a_frontend_that_is_there_twice_is_refused() -> Result<()> {
    let lab = Lab::bridge(2, 0)?;
    let mut twice = web(&lab);
    twice.extend(web(&lab));
    twice[1].name = "again".to_owned();
    let config = Config::of(&lab, lab.host("n1"), &twice);
    refuse(&lab, &config.to_string(), &["loadBalancers[1].port", "80", "loadBalancers[0]"])?;
    twice[1].port = 81;
    twice[1].name = "web".to_owned();
    let config = Config::of(&lab, lab.host("n1"), &twice);
    refuse(&lab, &config.to_string(), &["loadBalancers[1]", "\"web\""])
}

#[test]
fn a_vip_without_an_address_of_its_family_on_the_interface_is_refused() -> Result<()> {
    let lab = Lab::bridge(1, 0)?;
    let node = lab.host("n1");
    let config = Config::of(&lab, node, &web(&lab)).to_string();
    // With every IPv6 address of the link gone, the host's own among them, there is one message.
    let config = config.replace("10.77.0.11,fd77::11", "10.77.0.11");
    node.shell("ip -6 addr flush dev eth0")?;
    refuse(&lab, &config, &["vip", "fd77::100", "eth0", "IPv6"])?;
    // A link-local one will do.
    node.shell("ip addr add fe80::11/64 dev eth0 nodad")?;
    let mut agent = Agent::start_with(node, &config)?;
    agent.wait_ready()?;
    ensure!(agent.stop()?.success());
    // And the other way round.
    node.shell("ip addr add fd77::11/64 dev eth0 nodad; ip -4 addr flush dev eth0")?;
    let config = config.replacen("\"10.77.0.11\"", "\"fd77::11\"", 1);
    refuse(&lab, &config, &["vip", "10.77.0.100", "eth0", "IPv4"])
}

#[test]
fn what_is_no_file_is_refused() -> Result<()> {
    let lab = Lab::bridge(1, 0)?;
    let node = lab.host("n1");
    refuse(&lab, "", &["empty", "kube-vip sample config"])?;
    refuse(&lab, "# nothing but this\n", &["empty"])?;
    refuse(&lab, "\0\u{1}", &[])?;
    let directory = node.directory().to_str().context("not UTF-8")?;
    let missing = format!("{directory}/nothing.yaml");
    for (path, named) in [(missing.as_str(), "sample config"), (directory, "directory")] {
        let before = node.snapshot()?;
        let refusal = Refusal::of(node, &["start", "-c", path], &Launch::default())?;
        println!("{}", refusal.said.trim_end());
        refusal.expect(&[path, named])?;
        before.expect_same(&node.snapshot()?)?;
    }
    let path = format!("{directory}/good.yaml");
    fs::write(&path, Config::of(&lab, node, &web(&lab)).to_string())?;
    let line = ["start", "-c", &path, "--log-level", "loud"];
    Refusal::of(node, &line, &Launch::default())?.expect(&["loud", "debug"])
}

/// The file of one of two instances, on a host of its own.
fn instance(lab: &Lab, name: &str, number: u8) -> String {
    let mut config = Config::of(lab, lab.host("n1"), &web(lab));
    let [v4, v6] = VIPS.map(|vip| vip.to_string());
    config.extra = format!("instance: {name}\n");
    let text = config.to_string();
    text.replace(&format!("\"{v4},{v6}\""), &format!("\"10.77.0.{number},fd77::{number}\""))
}

#[test]
fn a_vip_of_another_instance_on_this_host_is_refused() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let before = node.snapshot()?;
    let mut first =
        Agent::start_as(node, &instance(&lab, "a", 100), &Launch::default().instance("a"))?;
    first.wait_until("held", |status| status["vips"][1]["held"] == true)?;
    refuse(&lab, &instance(&lab, "b", 100), &["10.77.0.100", "\"a\"", "pid"])?;
    refuse(&lab, &instance(&lab, "a", 99), &["\"a\"", "running", "pid"])?;
    for vip in VIPS {
        ensure!(owner(lab.host("c1"), vip)? == node.mac());
    }
    ensure!(first.stop()?.success());
    before.expect_same(&node.snapshot()?)
}

#[test]
fn a_second_instance_with_another_vip_works_without_xdp_and_says_so() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let (node, client) = (lab.host("n1"), lab.host("c1"));
    let before = node.snapshot()?;
    let start = |name: &str, number| -> Result<Agent> {
        let launch = Launch::default().instance(name);
        let mut agent = Agent::start_as(node, &instance(&lab, name, number), &launch)?;
        let all = |status: &serde_json::Value| {
            let vips = status["vips"].as_array().into_iter().flatten();
            status["ready"] == true && vips.filter(|vip| vip["held"] == true).count() == 2
        };
        agent.wait_until("its addresses held", all)?;
        Ok(agent)
    };
    let mut first = start("a", 100)?;
    let program = node.xdp_program("eth0")?;
    ensure!(program.is_some(), "the first one has no XDP program");
    let mut second = start("b", 99)?;
    let uplink = &second.status()?["uplinks"][0];
    println!("{uplink}");
    ensure!(uplink["xdp"] == "none" && uplink["egress"] == "tcx", "{uplink}");
    let reason = uplink["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("another XDP program"), "{reason}");
    ensure!(second.log().contains(reason), "not in the log: {}", second.log());
    ensure!(node.xdp_program("eth0")? == program, "the first one's program was replaced");

    let their = ["10.77.0.99", "fd77::99"].map(str::parse::<std::net::IpAddr>);
    for vip in their {
        let vip = vip?;
        ensure!(owner(client, vip)? == node.mac(), "nobody answers for {vip}");
        let _ssh = Server::with_banner(node, &[(vip, 22).into()], "SSH-2.0-lab")?;
        ensure!(Connection::open(client, (vip, 22).into())?.read_line()?.starts_with("SSH"));
    }
    ensure!(second.stop()?.success());
    for vip in VIPS {
        ensure!(owner(client, vip)? == node.mac(), "the first one's {vip} went with the second");
    }
    ensure!(first.stop()?.success());
    before.expect_same(&node.snapshot()?)
}

/// Three hosts that elect; `change` makes one file out of another.
fn electing(lab: &Lab, name: &str, more: &str) -> String {
    let mut config = Config::of(lab, lab.host(name), &web(lab));
    by_quorum(&mut config);
    config.extra.push_str(more);
    config.to_string()
}

/// The first host's state is made and left; then it is tried with what does not fit.
#[test]
fn state_that_is_not_this_hosts_or_damaged_is_refused() -> Result<()> {
    let lab = Lab::bridge(3, 0)?;
    let node = lab.host("n1");
    let good = electing(&lab, "n1", "");
    let mut agent = Agent::start_as(node, &good, &Launch::default())?;
    agent.wait_until("outside or leading", |status| status["quorum"]["role"].is_string())?;
    ensure!(agent.stop()?.success());
    let state = format!("{STATE_DIR}/default");

    refuse(&lab, &good.replace("{id: n1,", "{id: n9,"), &["n1", "n9", "localPeer.id", &state])?;
    let _taken = Server::start(node, &[(node.v4(), 10000).into()])?;
    refuse(&lab, &good, &["cannot listen for peers at 10.77.0.11:10000", "localPeer"])?;
    drop(_taken);
    let shell = |line: &str| node.shell(line).map(drop);
    shell(&format!(
        "cp -a {state} {state}.good; printf x | dd of={state}/identity conv=notrunc bs=1 seek=20"
    ))?;
    refuse(&lab, &good, &["identity", "is damaged", "move the directory away"])?;
    shell(&format!("rm -r {state}; cp -a {state}.good {state}; rm {state}/log"))?;
    refuse(&lab, &good, &["/log is missing", "move the directory away"])?;
    shell(&format!("rm -r {state}; cp -a {state}.good {state}; : > {state}/identity"))?;
    refuse(&lab, &good, &["identity", "is damaged"])?;
    shell(&format!("rm -r {state}; mv {state}.good {state}"))?;
    let mut agent = Agent::start_as(node, &good, &Launch::default())?;
    agent.wait_ready()?;
    ensure!(agent.stop()?.success());
    Ok(())
}
