//! The old program's flags and variables, without a file and over one.

use anyhow::{Result, ensure};
use lab::{
    Agent, BACKEND_PORT, Config, Connection, Lab, Launch, Refusal, Server, VIPS, owner, web,
};

#[test]
fn flags_and_variables_do_without_a_file() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let (node, client) = (lab.host("n1"), lab.host("c1"));
    let before = node.snapshot()?;
    let _server = Server::on_port(node, BACKEND_PORT)?;
    let backends = format!("{}:{BACKEND_PORT},[{}]:{BACKEND_PORT}", node.v4(), node.v6());
    let launch = Launch::default()
        .environment("vip_address", &VIPS.map(|vip| vip.to_string()).join(","))
        .environment("lb_backends", &backends)
        .environment("lb_port", "0080")
        .flags(&["--interface=eth0", "--singleNode", "--arp=true", "--lbBindToVip", "--inCluster"]);
    let mut agent = Agent::start_as(node, "", &launch)?;
    let status = agent.wait_ready()?;
    let notices = status["notices"].to_string();
    ensure!(notices.contains("--inCluster: comes later"), "{notices}");
    ensure!(status["config"]["path"] == "the command line", "{}", status["config"]);
    for vip in VIPS {
        ensure!(owner(client, vip)? == node.mac(), "nobody answers for {vip}");
        ensure!(Connection::open(client, (vip, 80).into())?.who()?.host == "n1");
    }
    // It would end a program that does not expect it.
    agent.process().signal(nix::sys::signal::Signal::SIGHUP)?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    agent.process().expect_running()?;
    ensure!(agent.stop()?.success());
    before.expect_same(&node.snapshot()?)
}

#[test]
fn variables_override_a_file_also_when_it_changes() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let (node, client) = (lab.host("n1"), lab.host("c1"));
    let _server = Server::on_port(node, BACKEND_PORT)?;
    let mut config = Config::of(&lab, node, &web(&lab));
    config.interface = "eth7";
    let launch = Launch::default().environment("vip_interface", "eth0");
    let mut agent = Agent::start_as(node, &config.to_string(), &launch)?;
    agent.wait_for(&web(&lab))?;
    config.balancers[0].port = 81;
    agent.rewrite(&config)?;
    agent.wait_until("port 81", |status| status["frontends"][0]["port"] == 81)?;
    ensure!(Connection::open(client, (VIPS[0], 81).into())?.who()?.host == "n1");
    ensure!(agent.status()?["config"]["refused"].is_null());
    Ok(())
}

#[test]
fn a_wrong_flag_is_named() -> Result<()> {
    let lab = Lab::bridge(1, 0)?;
    let node = lab.host("n1");
    let refuse = |words: &[&str], environment: (&str, &str), named: &[&str]| -> Result<()> {
        let launch = Launch::default().environment(environment.0, environment.1);
        let refusal = Refusal::of(node, words, &launch)?;
        println!("{}", refusal.said.trim_end());
        refusal.expect(named)
    };
    let none = ("vip_interface", "");
    refuse(&["start"], none, &["-c", "sample config", "--help"])?;
    let flags = ["start", "--vip=10.77.0.999", "--interface=eth0", "--singleNode"];
    refuse(&flags, none, &["error: --vip: vip: ", "10.77.0.999"])?;
    let peers = ("vip_peers", "n2:10.77.0.12:99999");
    let flags = ["start", "--vip=10.77.0.100", "--interface=eth0", "--localPeer=n1:10.77.0.11:1"];
    refuse(&flags, peers, &["error: vip_peers: remotePeers[0].port", "99999"])?;
    refuse(&flags, ("vip_peers", "n2:10.77.0.12:1"), &["secret", "vip_secret"])?;
    Ok(())
}
