//! `type: http`: the agent that owns the VIP passes requests on.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, Authority, Cluster, Config, Host, Lab, Setup, Site, VIPS, Web, by_quorum, eventually,
    owner,
};
use serde_json::Value;

/// What backends listen on, and what clients connect to.
const SITE: u16 = 8081;
const PORT: u16 = 8000;
/// The same of the hosts' own addresses.
const OWN: u16 = 8001;

const GENEROUS: Duration = Duration::from_secs(10);

fn adapt(config: &mut Config) {
    let mut text = String::from("loadBalancers:\n");
    for (name, port, on_vip, rest) in [
        ("app", PORT, true, "allDown: refuse, healthCheck: {period: 500ms, fall: 2}, "),
        ("own", OWN, false, ""),
    ] {
        let _ = writeln!(
            text,
            "- {{name: {name}, type: http, port: {port}, bindToVip: {on_vip}, {rest}backends: ["
        );
        let mut hosts: Vec<_> = std::iter::once(&config.local).chain(&config.remotes).collect();
        hosts.sort_by(|a, b| a.id.cmp(&b.id));
        for host in hosts {
            let _ = writeln!(text, "    {{url: 'http://{}:{SITE}'}},", host.addresses[0]);
        }
        text.push_str("  ]}\n");
    }
    config.extra.push_str(&text);
}

fn adapt_and_elect(config: &mut Config) {
    adapt(config);
    by_quorum(config);
}

/// Three nodes with a site on each.
fn start(adapt: fn(&mut Config)) -> Result<(Cluster, BTreeMap<String, Site>)> {
    let lab = Lab::bridge(3, 1)?;
    let sites = lab.nodes().map(|node| Ok((node.name().to_owned(), Site::start(node, SITE)?)));
    let sites = sites.collect::<Result<_>>()?;
    let cluster = Cluster::start_as(lab, &[], Setup { adapt, ..Setup::default() })?;
    Ok((cluster, sites))
}

fn url(address: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(address, port))
}

/// What `/who` says; each line is an answer.
fn ask(host: &Host, arguments: &[&str]) -> Result<Vec<Value>> {
    let said = host.run(&[&["curl", "-sS", "--fail", "-m", "20"], arguments].concat())?;
    let lines =
        said.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
    lines.collect()
}

fn status_of(host: &Host, url: &str) -> Result<String> {
    host.run(&["curl", "-sS", "-m", "10", "-w", " %{http_code}", url])
}

/// Sends bytes as they are and reads until the other end is done, or nothing comes for a while.
fn raw(host: &Host, text: &str) -> Result<String> {
    let text = text.to_owned();
    host.in_net(move || {
        let mut stream = TcpStream::connect(SocketAddr::new(VIPS[0], PORT))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..count]);
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
}

#[test]
fn requests_go_to_all_backends_in_turn_and_say_who_asked() -> Result<()> {
    let (cluster, _sites) = start(adapt)?;
    cluster.explain(|cluster| {
        let client = cluster.host("c1");
        for vip in VIPS {
            let many = url(vip, PORT, "/who?n=[1-1000]");
            let answers = ask(client, &["-g", "--globoff", &url(vip, PORT, "/who?n=1&m=%2F")])?;
            ensure!(answers[0]["target"] == "/who?n=1&m=%2F", "{}", answers[0]);
            let many = if vip.is_ipv6() {
                many.replacen('[', "\\[", 1).replacen("]:", "\\]:", 1)
            } else {
                many
            };
            let answers = ask(client, &[&many])?;
            ensure!(answers.len() == 1000, "{} of 1000 were answered", answers.len());
            let mut by_host: BTreeMap<&str, usize> = BTreeMap::new();
            let mut connections: Vec<(String, u64)> = Vec::new();
            for answer in &answers {
                let host = answer["host"].as_str().context("host")?;
                *by_host.entry(host).or_default() += 1;
                let number = answer["connection"].as_u64().context("connection")?;
                connections.push((host.to_owned(), number));
            }
            connections.sort();
            connections.dedup();
            println!("{vip}: {by_host:?} over {} connections", connections.len());
            ensure!(by_host.len() == 3 && by_host.values().all(|n| (330..=337).contains(n)));
            ensure!(connections.len() <= 12, "{} connections to backends", connections.len());
        }
        let fields = [
            "-H",
            "X-Forwarded-For: 192.0.2.1",
            "-H",
            "Connection: keep-alive, X-Hop",
            "-H",
            "X-Hop: 1",
            "-H",
            "Keep-Alive: 5",
            "-H",
            "TE: trailers",
            "-H",
            "X-End: 2",
            "-H",
            "Host: shop.example",
            "-H",
            "Expect: 100-continue",
        ];
        let target = url(VIPS[0], PORT, "/who");
        let answer = ask(client, &[&fields[..], &[target.as_str()]].concat())?.remove(0);
        let headers = answer["headers"].as_object().context("headers")?;
        println!("{answer}");
        let backend = cluster.host(answer["host"].as_str().context("host")?).v4();
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|it| it == value);
        ensure!(is("x-forwarded-for", &format!("192.0.2.1, {}", client.v4())));
        ensure!(is("x-forwarded-host", "shop.example") && is("x-forwarded-proto", "http"));
        ensure!(is("host", &format!("{backend}:{SITE}")) && is("x-end", "2"));
        for gone in ["connection", "x-hop", "keep-alive", "te", "expect", "transfer-encoding"] {
            ensure!(!headers.contains_key(gone), "{gone} was passed on");
        }
        let head = client.run(&["curl", "-sS", "-I", &target])?.to_lowercase();
        ensure!(head.starts_with("http/1.1 200") && head.contains("x-through: all"), "{head}");
        ensure!(!head.contains("x-between"), "{head}");
        // From hosts that do not own it too, and at the hosts' own addresses.
        for node in ["n1", "n2", "n3"] {
            let node = cluster.host(node);
            ensure!(ask(node, &[&target])?.len() == 1);
            ensure!(ask(client, &[&url(node.v4().into(), OWN, "/who")])?.len() == 1);
            ensure!(ask(client, &["-g", &url(node.v6().into(), OWN, "/who")])?.len() == 1);
        }
        ensure!(ask(client, &[&url(cluster.host("n2").v4().into(), PORT, "/who")]).is_err());
        let status = cluster.agents.on("n1").status()?;
        let proxy = status["proxies"].as_array().context("proxies")?;
        let app = proxy.iter().find(|it| it["name"] == "app" && it["listening"] == true);
        let app = app.context("no proxy listens")?;
        ensure!(app["requests"].as_u64() > Some(900) && app["failed"] == 0, "{app}");
        let text = cluster.agents.on("n2").cli(&["status"])?;
        ensure!(text.contains("10.77.0.100:8000/http") && text.contains("elsewhere"), "{text}");
        Ok(())
    })
}

#[test]
fn a_hundred_megabytes_arrive_whole_both_ways() -> Result<()> {
    let (cluster, _sites) = start(adapt)?;
    cluster.explain(|cluster| {
        let client = cluster.host("c1");
        let directory = client.directory().display().to_string();
        let (sent, back) = (format!("{directory}/sent"), format!("{directory}/back"));
        client.shell(&format!("head -c 104857600 /dev/urandom > {sent}"))?;
        let echo = url(VIPS[0], PORT, "/echo");
        for chunked in [&["-H", "Expect:"][..], &["-H", "Transfer-Encoding: chunked"]] {
            let line = ["curl", "-sS", "--fail", "-m", "120", "-T", &sent, "-o", &back, &echo];
            client.run(&[&line[..], chunked].concat())?;
            client.run(&["cmp", &sent, &back])?;
        }
        client.run(&["rm", &sent, &back]).map(drop)
    })
}

#[test]
fn a_backend_that_is_gone_gets_nothing_and_without_any_clients_are_told() -> Result<()> {
    let (cluster, mut sites) = start(adapt)?;
    cluster.explain(|cluster| {
        let client = &cluster.host("c1").clone();
        let many = url(VIPS[0], PORT, "/who?[1-200]");
        ask(client, &[&many])?;
        // Some connections to it rest at this moment.
        drop(sites.remove("n2"));
        let answers = ask(client, &[&many])?;
        ensure!(answers.len() == 200, "{} of 200 were answered", answers.len());
        ensure!(answers.iter().all(|answer| answer["host"] != "n2"));
        cluster.agents.on("n1").wait_until("n2 is down", |status| {
            status["proxies"][0]["backends"][1]["state"] == "not ready"
        })?;
        sites.clear();
        let one = url(VIPS[0], PORT, "/who");
        let told = status_of(client, &one)?;
        println!("{told}");
        ensure!(told.ends_with(" 502") && told.contains("app: no backend takes connections"));
        eventually(GENEROUS, "503", || {
            let told = status_of(client, &one)?;
            ensure!(told.ends_with(" 503") && told.contains("app: no backend is there"), "{told}");
            Ok(())
        })?;
        let notices = cluster.agents.on("n1").status()?["notices"].to_string();
        ensure!(notices.contains("no backend is there, clients get 503"), "{notices}");
        let _site = Site::start(cluster.host("n3"), SITE)?;
        eventually(GENEROUS, "n3 to serve again", || {
            let answers = ask(cluster.host("c1"), &[&one])?;
            ensure!(answers[0]["host"] == "n3", "{}", answers[0]);
            Ok(())
        })
    })
}

#[test]
fn the_new_owner_listens_and_the_old_one_does_not() -> Result<()> {
    let (cluster, _sites) = start(adapt_and_elect)?;
    cluster.explain(|cluster| {
        let one = url(VIPS[0], PORT, "/who");
        for round in 0..2 {
            let old = cluster.lab.node_at(owner(cluster.host("c1"), VIPS[0])?)?.to_owned();
            ensure!(ask(cluster.host("c1"), &[&one])?.len() == 1);
            let next =
                ["n1", "n2", "n3"].into_iter().find(|name| *name != old).context("another")?;
            cluster.agents.on(&old).cli(&["move", &VIPS[0].to_string(), next])?;
            eventually(GENEROUS, "the new owner to answer", || {
                let listens = |name: &str| {
                    let line = format!("ss -Hltn src {}:{PORT}", VIPS[0]);
                    Ok::<_, anyhow::Error>(!cluster.host(name).shell(&line)?.trim().is_empty())
                };
                ensure!(listens(next)? && !listens(&old)?, "{old} still listens");
                ask(cluster.host("c1"), &["-m", "2", &one]).map(drop)
            })?;
            println!("round {round}: from {old} to {next}");
        }
        let lost = cluster.lab.node_at(owner(cluster.host("c1"), VIPS[0])?)?.to_owned();
        cluster.agents.on(&lost).process().kill()?;
        eventually(GENEROUS, "another owner to answer", || {
            ensure!(cluster.lab.node_at(owner(cluster.host("c1"), VIPS[0])?)? != lost);
            ask(cluster.host("c1"), &["-m", "2", &one]).map(drop)
        })
    })
}

#[test]
fn a_changed_protocol_passes_both_ways() -> Result<()> {
    let (cluster, _sites) = start(adapt)?;
    cluster.explain(|cluster| {
        cluster.host("c1").in_net(|| {
            let mut stream = TcpStream::connect(SocketAddr::new(VIPS[0], PORT))?;
            stream.set_read_timeout(Some(GENEROUS))?;
            stream.write_all(
                b"GET /socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
            )?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            let head = String::from_utf8(head)?.to_lowercase();
            ensure!(head.starts_with("http/1.1 101") && head.contains("upgrade: echo"), "{head}");
            for round in 0..100 {
                let sent = vec![round; 10_000];
                stream.write_all(&sent)?;
                let mut back = vec![0; sent.len()];
                stream.read_exact(&mut back)?;
                ensure!(sent == back, "round {round}");
            }
            Ok(())
        })
    })
}

#[test]
fn what_two_readers_could_read_differently_is_refused() -> Result<()> {
    let (cluster, _sites) = start(adapt)?;
    cluster.explain(|cluster| {
        let client = cluster.host("c1");
        for (what, text) in [
            ("no host", "GET /who HTTP/1.1\r\n\r\n"),
            ("two hosts", "GET /who HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"),
            ("a tunnel", "CONNECT 10.77.0.12:22 HTTP/1.1\r\nHost: x\r\n\r\n"),
            ("no request", "hello\r\n\r\n"),
            (
                "a length that is none",
                "POST /who HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            ),
        ] {
            let said = raw(client, text)?;
            ensure!(said.starts_with("HTTP/1.1 400"), "{what}: {said}");
        }
        let two = "POST /who HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\
                   Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /who HTTP/1.1\r\nHost: x\r\n\r\n";
        let said = raw(client, two)?;
        ensure!(said.matches("HTTP/1.1 200").count() == 1 && said.contains("connection: close"));
        ensure!(!said.contains("\"content-length\"") && said.contains("chunked"), "{said}");
        let old = raw(client, "GET /who HTTP/1.0\r\n\r\n")?;
        ensure!(old.starts_with("HTTP/1.0 200") || old.starts_with("HTTP/1.1 200"), "{old}");
        let whole = raw(
            client,
            "GET http://far.example/who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )?;
        ensure!(whole.contains("\"x-forwarded-host\":\"far.example\""), "{whole}");
        Ok(())
    })
}

#[test]
fn a_backend_at_https_has_to_show_the_right_certificate() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let (node, client) = (lab.host("n1"), lab.host("c1"));
    let (right, wrong) = (Authority::new()?, Authority::new()?);
    let at: SocketAddr = (lab.host("n2").v4(), 8443).into();
    let _backend = Web::with_tls(lab.host("n2"), &[at], &right)?;
    let mut config = Config::of(&lab, node, &[]);
    config.extra.push_str("loadBalancers:\n");
    for (name, authority, port) in [("right", &right, 8000), ("wrong", &wrong, 8001)] {
        let file = lab.directory().join(format!("{name}.pem"));
        std::fs::write(&file, authority.pem())?;
        let _ = writeln!(
            config.extra,
            "- {{name: {name}, type: http, port: {port}, bindToVip: true, caFile: '{}', \
             backends: [{{url: 'https://{at}'}}]}}",
            file.display()
        );
    }
    let mut agent = Agent::start(node, &config)?;
    agent.wait_until("held", |status| status["vips"][0]["held"] == true)?;
    agent.wait_until("listening", |status| status["proxies"][0]["listening"] == true)?;
    let code = |port| status_of(client, &url(VIPS[0], port, "/"));
    ensure!(code(8000)? == " 200", "{}", code(8000)?);
    ensure!(code(8001)?.ends_with(" 502"), "{}", code(8001)?);
    Ok(())
}
