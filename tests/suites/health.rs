//! Backends that stop, hang, refuse or lie, and what agents do about it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, Attempt, Authority, BACKEND_PORT, Balancer, Burst, Cluster, Host, Lab, PATIENCE,
    Process, Server, Transport, VIPS, Web, backends, eventually,
};
use serde_json::Value;

/// Where the servers of the HTTP checks are, beside those that serve.
const WEB_PORT: u16 = 8081;

/// A check that is quick, and patient with a busy machine.
const QUICK: &str = "period: 300ms, timeout: 300ms, fall: 3, rise: 2";

fn balancer(lab: &Lab, check: &str) -> Balancer {
    Balancer::new("web", Transport::Tcp, 80, backends(lab.nodes(), BACKEND_PORT))
        .with(&format!("healthCheck: {{{check}, {QUICK}}}"))
}

fn on(host: &Host, port: u16) -> [SocketAddr; 2] {
    [(host.v4(), port).into(), (host.v6(), port).into()]
}

/// The backends of a node, as an agent's status has them, in all frontends.
fn of(status: &Value, node: &str) -> Vec<Value> {
    let all = status["frontends"].as_array().into_iter().flatten();
    let all = all.flat_map(|frontend| frontend["backends"].as_array().into_iter().flatten());
    all.filter(|backend| backend["node"] == node).cloned().collect()
}

/// Waits until every agent says that about the backends of a host.
fn all_say(cluster: &mut Cluster, node: &str, up: bool) -> Result<Vec<Value>> {
    let state = if up { "ready" } else { "not ready" };
    let mut seen = Vec::new();
    for agent in cluster.agents.all() {
        let status = agent.wait_until(&format!("the backends of {node} {state}"), |status| {
            let backends = of(status, node);
            let agrees = |one: &Value| one["health"]["up"] == up && one["state"] == state;
            !backends.is_empty() && backends.iter().all(agrees)
        })?;
        seen.push(status);
    }
    Ok(seen)
}

/// Every agent gives this as the error of the backends of a host.
fn because(statuses: &[Value], node: &str, error: &str) -> Result<()> {
    for backend in statuses.iter().flat_map(|status| of(status, node)) {
        let health = &backend["health"];
        let said = health["error"].as_str().is_some_and(|said| said.contains(error));
        ensure!(said && backend["reason"] == health["error"], "no {error:?}: {backend:#}");
    }
    Ok(())
}

fn served_by(cluster: &Cluster, nodes: &[&str]) -> Result<()> {
    // For a moment after a change hosts have different tables, and a connection that meets both is reset.
    std::thread::sleep(Duration::from_secs(1));
    for vip in VIPS {
        let report = cluster.client.connect(Burst::new((vip, 80), 600))?;
        report.expect_all(600)?;
        report.expect_even(nodes, 0.3)?;
    }
    Ok(())
}

#[test]
fn a_server_that_stops_is_left_out_until_it_is_back() -> Result<()> {
    Cluster::run(
        3,
        |lab| vec![balancer(lab, "type: tcp")],
        |cluster| {
            served_by(cluster, &["n1", "n2", "n3"])?;
            drop(cluster.servers.remove(1));
            let statuses = all_say(cluster, "n2", false)?;
            because(&statuses, "n2", "connect: connection refused")?;
            for agent in cluster.agents.all() {
                let log = agent.log();
                let said = "connecting to 10.77.0.12:8080 has failed 3 times, the backend is down";
                ensure!(log.contains(said), "{log}");
            }
            served_by(cluster, &["n1", "n3"])?;
            let held = cluster.client.connect(Burst::new((VIPS[0], 80), 300).hold())?;
            held.expect_all(300)?;
            let n2 = cluster.host("n2").clone();
            cluster.servers.push(Server::on_port(&n2, BACKEND_PORT)?);
            let statuses = all_say(cluster, "n2", true)?;
            ensure!(statuses.iter().flat_map(|s| of(s, "n2")).all(|b| b["reason"].is_null()));
            served_by(cluster, &["n1", "n2", "n3"])?;
            ensure!(held.held.len() == 300);
            Ok(())
        },
    )
}

/// Not a test: a server that the next one freezes.
#[test]
#[ignore = "runs forever; a test starts it in a host and kills it"]
fn a_server_in_a_process_of_its_own() -> Result<()> {
    let name = std::env::var("LAB_SERVER").context("started by hand")?;
    let own = std::env::var("LAB_ADDRESSES")?;
    let at = |port: u16| {
        own.split(',').map(move |ip| Ok((ip.parse::<std::net::IpAddr>()?, port).into()))
    };
    let _server = Server::here(&name, &at(BACKEND_PORT).collect::<Result<Vec<_>>>()?)?;
    let _web = Web::here(&at(WEB_PORT).collect::<Result<Vec<_>>>()?)?;
    loop {
        std::thread::park();
    }
}

fn server_process(host: &Host) -> Result<Process> {
    let mut command = host.command(std::env::current_exe()?);
    command.args(["--ignored", "--exact", "a_server_in_a_process_of_its_own"]);
    command.env("LAB_SERVER", host.name());
    command.env("LAB_ADDRESSES", format!("{},{}", host.v4(), host.v6()));
    let process = host.spawn("server", command)?;
    eventually(PATIENCE, "a server of its own", || {
        for address in on(host, WEB_PORT) {
            ensure!(Attempt::to(host, address, PATIENCE)? == Attempt::Accepted);
        }
        Ok(())
    })?;
    Ok(process)
}

/// A hung server's kernel goes on taking connections, so only a question that it must answer
/// finds out.
#[test]
fn a_server_that_hangs_is_found_by_an_http_check_and_not_by_connecting() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let process = server_process(lab.host("n2"))?;
    let _server = Server::on_port(lab.host("n1"), BACKEND_PORT)?;
    let _web = Web::start(lab.host("n1"), &on(lab.host("n1"), WEB_PORT))?;
    let mut http = balancer(&lab, &format!("type: http, port: {WEB_PORT}, path: /healthz"));
    let mut tcp = balancer(&lab, "type: tcp");
    tcp.port = 81;
    (http.name, tcp.name) = ("by HTTP".into(), "by TCP".into());
    let mut agents = lab::Agents::start(&lab, &[http, tcp])?;
    let n2 = lab.host("n2");
    let health = |status: &Value, name: &str| {
        let all = status["frontends"].as_array().into_iter().flatten();
        let all = all.filter(|frontend| frontend["name"] == name);
        let all = all.flat_map(|one| one["backends"].as_array().into_iter().flatten());
        let ours = all.filter(|one| {
            one["address"] == n2.v4().to_string().as_str()
                || one["address"] == n2.v6().to_string().as_str()
        });
        ours.map(|backend| backend["health"].clone()).collect::<Vec<_>>()
    };
    process.freeze()?;
    for agent in agents.all() {
        let status = agent.wait_until("the hung server found", |status| {
            let found = health(status, "by HTTP");
            found.len() == 2 && found.iter().all(|health| health["up"] == false)
        })?;
        for found in health(&status, "by HTTP") {
            ensure!(found["error"] == "http: nothing within 300ms", "{found}");
        }
        for found in health(&status, "by TCP") {
            ensure!(found["up"] == true, "{found}");
        }
    }
    process.thaw()?;
    for agent in agents.all() {
        agent.wait_until("the thawed server found", |status| {
            health(status, "by HTTP").iter().all(|health| health["up"] == true)
        })?;
    }
    Ok(())
}

#[test]
fn a_server_behind_a_wall_is_left_out() -> Result<()> {
    Cluster::run(
        3,
        |lab| vec![balancer(lab, "type: tcp")],
        |cluster| {
            cluster.host("n3").feed(
                &["nft", "-f", "-"],
                "add table inet wall\n\
                 add chain inet wall in { type filter hook input priority 0; }\n\
                 add rule inet wall in tcp dport 8080 drop\n",
            )?;
            let statuses = all_say(cluster, "n3", false)?;
            because(&statuses, "n3", "connect: nothing within 300ms")?;
            served_by(cluster, &["n1", "n2"])?;
            cluster.host("n3").shell("nft delete table inet wall")?;
            all_say(cluster, "n3", true)?;
            served_by(cluster, &["n1", "n2", "n3"])
        },
    )
}

#[test]
fn https_asks_for_a_certificate_that_is_believed_and_a_good_status() -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    let (ours, other) = (Authority::new()?, Authority::new()?);
    let file = lab.directory().join("ca.pem");
    std::fs::write(&file, ours.pem())?;
    let start = |node: &str, by: &Authority| {
        Web::with_tls(lab.host(node), &on(lab.host(node), WEB_PORT), by)
    };
    let webs = [start("n1", &ours)?, start("n2", &ours)?];
    let mut third = Some(start("n3", &ours)?);
    let check = format!(
        "type: https, port: {WEB_PORT}, caFile: {}, path: /livez, status: 200",
        file.display()
    );
    let balancers = [balancer(&lab, &check)];
    let cluster = Cluster::start(lab, &balancers)?;
    let test = |cluster: &mut Cluster| {
        drop(third.take());
        let n3 = cluster.host("n3").clone();
        let liar = Web::with_tls(&n3, &on(&n3, WEB_PORT), &other)?;
        let statuses = all_say(cluster, "n3", false)?;
        because(&statuses, "n3", "tls: invalid peer certificate")?;
        served_by(cluster, &["n1", "n2"])?;
        webs[1].answer(503);
        let statuses = all_say(cluster, "n2", false)?;
        because(&statuses, "n2", "http: status 503")?;
        served_by(cluster, &["n1"])?;
        drop(liar);
        let _honest = Web::with_tls(&n3, &on(&n3, WEB_PORT), &ours)?;
        all_say(cluster, "n3", true)?;
        served_by(cluster, &["n1", "n3"])?;
        // Whoever is believed is looked up again when the file has changed.
        std::fs::write(&file, other.pem())?;
        for agent in cluster.agents.all() {
            agent.wait_until("n1 is not believed any more", |status| {
                of(status, "n1").iter().all(|one| {
                    let error = one["health"]["error"].as_str();
                    error.is_some_and(|error| error.contains("invalid peer certificate"))
                })
            })?;
        }
        Ok(())
    };
    cluster.explain(test)
}

#[test]
fn all_down_are_kept_or_refused_or_not_answered() -> Result<()> {
    let set = |lab: &Lab, settings: &[&str]| {
        let balancer = balancer(lab, "type: tcp");
        vec![settings.iter().fold(balancer, |balancer, setting| balancer.with(setting))]
    };
    Cluster::run(
        2,
        |lab| set(lab, &[]),
        |cluster| {
            cluster.servers.clear();
            for agent in cluster.agents.all() {
                let status = agent.wait_until("all are down and kept", |status| {
                    let notices = status["notices"].as_array().into_iter().flatten();
                    let kept = notices.filter(|notice| {
                        notice.as_str().is_some_and(|text| text.contains("so all are kept"))
                    });
                    kept.count() == 2
                })?;
                for backend in ["n1", "n2"].iter().flat_map(|name| of(&status, name)) {
                    ensure!(backend["state"] == "ready" && backend["health"]["up"] == false);
                    ensure!(backend["share"] == 0.5, "{backend}");
                }
                ensure!(agent.log().contains("so all are kept"), "{}", agent.log());
            }
            let clients = |cluster: &Cluster| -> Result<Vec<Attempt>> {
                let patience = Duration::from_millis(700);
                let one = |vip| Attempt::to(cluster.host("c1"), (vip, 80).into(), patience);
                VIPS.into_iter().map(one).collect()
            };
            // The backend's own kernel refuses.
            ensure!(clients(cluster)? == [Attempt::Refused; 2]);
            for (settings, expected, counter) in [
                (&["allDown: refuse"][..], Attempt::Refused, "no_backend_reset"),
                (&["allDown: refuse", "noBackend: drop"], Attempt::Silence, "no_backend_dropped"),
            ] {
                for agent in cluster.agents.all() {
                    let balancers = set(&cluster.lab, settings);
                    let config = lab::Config::of(&cluster.lab, agent.host(), &balancers);
                    agent.rewrite(&config)?;
                    agent.wait_until("all are down and left out", |status| {
                        ["n1", "n2"].iter().all(|name| {
                            let backends = of(status, name);
                            backends.iter().all(|one| one["state"] == "not ready")
                        })
                    })?;
                }
                eventually(PATIENCE, "clients are treated so", || {
                    let found = clients(cluster)?;
                    ensure!(found == [expected; 2], "{found:?}, not {expected:?}");
                    let status = cluster.agents.on("n1").status()?;
                    ensure!(status["counters"][counter].as_u64() > Some(0), "{status}");
                    Ok(())
                })?;
            }
            let nodes = cluster.lab.nodes().cloned().collect::<Vec<_>>();
            for node in &nodes {
                cluster.servers.push(Server::on_port(node, BACKEND_PORT)?);
                all_say(cluster, node.name(), true)?;
            }
            served_by(cluster, &["n1", "n2"])
        },
    )
}

/// UDP has no checks unless told: here it is the host itself that is gone.
#[test]
fn a_host_that_is_gone_is_out_soon() -> Result<()> {
    let balancers = |lab: &Lab| {
        let all = || backends(lab.nodes(), BACKEND_PORT);
        vec![
            Balancer::new("web", Transport::Tcp, 80, all()).with("healthCheck: {type: none}"),
            Balancer::new("dns", Transport::Udp, 53, all()),
        ]
    };
    Cluster::run(3, balancers, |cluster| {
        cluster.lab.unplug("n3")?;
        let gone = Instant::now();
        let reported = |agent: &mut Agent| {
            agent.wait_until("n3 is out", |status| {
                let backends = of(status, "n3");
                backends.len() == 4 && backends.iter().all(|one| one["way"] == "none")
            })
        };
        for node in ["n1", "n2"] {
            reported(cluster.agents.on(node))?;
            println!("{node} left n3 out {:?} after it was unplugged", gone.elapsed());
        }
        served_by(cluster, &["n1", "n2"])?;
        for vip in VIPS {
            cluster.client.send(Burst::new((vip, 53), 300))?.expect_all(300)?;
        }
        cluster.lab.plug_in("n3")?;
        for node in ["n1", "n2"] {
            cluster.agents.on(node).wait_until("n3 is back", |status| {
                of(status, "n3").iter().all(|one| one["way"] == "peer")
            })?;
        }
        served_by(cluster, &["n1", "n2", "n3"])
    })
}

/// Where frontend and backend are the same address and port, looks at a backend are for that one.
#[test]
fn looks_at_backends_are_not_balanced_themselves() -> Result<()> {
    let own = |lab: &Lab| {
        let mut balancer = balancer(lab, "type: tcp").on_own_addresses();
        balancer.port = BACKEND_PORT;
        vec![balancer]
    };
    Cluster::run(2, own, |cluster| {
        // The agents' own sockets, too, are not led elsewhere.
        for agent in cluster.agents.all() {
            let status = agent.status()?;
            ensure!(status["clients"]["way"] == "led", "{}", status["clients"]);
        }
        drop(cluster.servers.remove(1));
        all_say(cluster, "n2", false)?;
        // And stays so: a look that was balanced would meet n1's server now and then.
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(100));
            for agent in cluster.agents.all() {
                let backends = of(&agent.status()?, "n2");
                ensure!(backends.iter().all(|one| one["health"]["up"] == false), "{backends:?}");
            }
        }
        let n2 = cluster.host("n2").clone();
        cluster.servers.push(Server::on_port(&n2, BACKEND_PORT)?);
        all_say(cluster, "n2", true)?;
        Ok(())
    })
}
