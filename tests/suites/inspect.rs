//! What the kernel and the agent show to people who look inside.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use lab::{
    BACKEND_PORT, Balancer, Burst, Cluster, Config, Host, Transport, VIPS, arp_request, eventually,
    web,
};
use serde_json::Value;

const PINS: &str = "/sys/fs/bpf/kube-vip/default/";

fn dump(host: &Host, what: &[&str]) -> Result<Vec<Value>> {
    let text = host.run(&[&["bpftool", "-j", "map", "dump"], what].concat())?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("{what:?}: {text}"))?;
    value.as_array().cloned().with_context(|| format!("{what:?} is no list: {value}"))
}

/// Whether a value shows names or a plain number, and never a string of bytes.
fn readable(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.values().all(readable),
        Value::Array(list) => {
            list.iter().all(|one| one.is_number() || one.is_object() && readable(one))
        }
        other => other.is_number() || other.is_boolean(),
    }
}

/// The values of a formatted element: one, or one for each CPU.
fn values(formatted: &Value) -> Vec<&Value> {
    match formatted["values"].as_array() {
        Some(each) => each.iter().map(|one| &one["value"]).collect(),
        None => vec![&formatted["value"]],
    }
}

/// What has to be seen, at least, in maps that have more than a plain number.
fn fields() -> BTreeMap<&'static str, &'static [&'static str]> {
    let tuple: &[&str] = &["source", "destination", "source_port", "destination_port", "backend"];
    BTreeMap::from([
        ("BACKENDS", &["address", "port", "flags", "protocol"][..]),
        ("BACKEND_STATS", &["sent", "replies", "packets", "bytes"]),
        ("CLIENTS", &["cookie", "address", "port", "protocol", "direction", "backend"]),
        ("CLOCK", &["seconds"]),
        ("EVENT_TIMES", &["time"]),
        ("FLOWS4", tuple),
        ("FLOWS6", tuple),
        ("FRONTENDS", &["address", "port", "protocol", "id", "slots", "seed"]),
        ("FRONTEND_STATS", &["packets", "bytes"]),
        ("LEASES", &["since", "until", "epoch"]),
        ("NODES", &["hop4", "hop6", "mac", "ifindex", "way", "mtu", "v4", "v6"]),
        ("PEERS", &["mac", "octets", "node"]),
        ("PEER_IPS", &["octets", "node"]),
        ("REVERSE4", tuple),
        ("REVERSE6", tuple),
        ("SETTINGS", &["flags", "closed_port", "probe_port", "digest", "namespace"]),
        ("STATS", &["packets"]),
        ("TABLE", &["header", "slots", "locals"]),
        ("UPLINKS", &["mac"]),
        ("VIPS", &["flags", "lease", "owner"]),
    ])
}

/// Maps that hold no elements to be formatted: rings, records of a moment, numbers of other maps.
const BARE: [&str; 7] =
    ["EVENTS", "HALF4", "HALF6", "NAT_CHANGES4", "NAT_CHANGES6", "TABLES", "TABLES_SIZED"];

/// Maps that nothing in this cluster fills: no backend is translated to, no client is
/// limited, no packet is cut, no slot has moved.
const UNFILLED: [&str; 6] = ["FRAGS", "NAT4", "NAT6", "RATES", "STRAYS4", "STRAYS6"];

#[test]
fn every_map_shows_its_fields_by_name() -> Result<()> {
    Cluster::run(2, web, |cluster| {
        for vip in VIPS {
            cluster.client.connect(Burst::new((vip, 80), 50))?.expect_all(50)?;
        }
        for node in ["n1", "n2"] {
            let host = cluster.host(node);
            host.run(&[env!("CARGO_BIN_EXE_visitor"), "tcp", "10.77.0.100:80", "1"])?;
            let pins = host.pins()?.into_iter().filter(|path| path.matches('/').count() == 7);
            let pins = pins.map(|path| path.replace(PINS, "")).collect::<Vec<_>>();
            ensure!(pins.len() > 20, "{pins:?}");
            let mut left = fields();
            for pin in pins {
                let name = pin.rsplit('/').next().unwrap_or_default();
                // Links are pinned beside the maps, and tables in a directory of their own.
                if BARE.contains(&name) || name.contains('-') || name == "tables" {
                    continue;
                }
                let wanted = left.remove(name).unwrap_or_default();
                let elements = dump(host, &["pinned", &format!("{PINS}{pin}")])?;
                if elements.is_empty() && UNFILLED.contains(&name) {
                    continue;
                }
                ensure!(!elements.is_empty(), "{name} of {node} is empty");
                for element in &elements {
                    let formatted = &element["formatted"];
                    ensure!(formatted.is_object(), "{name} has no types: {element}");
                    ensure!(readable(&formatted["key"]), "{name}: {formatted}");
                    ensure!(values(formatted).into_iter().all(readable), "{name}: {formatted}");
                }
                let first = elements[0]["formatted"].to_string();
                for field in wanted {
                    ensure!(
                        first.contains(&format!("\"{field}\":")),
                        "{name} has no {field}: {first}"
                    );
                }
            }
            ensure!(left.is_empty(), "not pinned: {left:?}");
        }
        Ok(())
    })
}

#[test]
fn the_tables_inside_the_outer_map_show_their_fields_too() -> Result<()> {
    Cluster::run(2, web, |cluster| {
        let host = cluster.host("n1");
        let outer = host.pins()?.into_iter().find(|path| path.ends_with("/TABLES"));
        let tables = dump(host, &["pinned", &outer.context("TABLES is not pinned")?])?;
        ensure!(tables.len() == VIPS.len(), "{} tables", tables.len());
        for table in tables {
            // bpftool has no names for numbers of maps.
            let bytes = table["value"].as_array().context("no number")?.iter();
            let bytes = bytes.filter_map(|byte| byte.as_str()?.strip_prefix("0x"));
            let mut id = bytes.rev().map(|byte| u32::from_str_radix(byte, 16));
            let id = id.try_fold(0_u32, |id, byte| byte.map(|byte| id << 8 | byte))?.to_string();
            let lines = dump(host, &["id", &id])?;
            let header = &lines[0]["formatted"]["value"]["header"];
            println!("table {id}: {} lines, {header}", lines.len());
            ensure!(header["slots"] == 4093 && header["locals"] == 1, "{header}");
            ensure!(lines.len() >= 4093 / 64, "{} lines", lines.len());
            for line in &lines {
                let value = &line["formatted"]["value"];
                ensure!(readable(value), "{value}");
                ensure!(
                    value["slots"].as_array().is_some_and(|slots| !slots.is_empty()),
                    "{value}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn status_can_be_read_in_every_form() -> Result<()> {
    Cluster::run(2, web, |cluster| {
        for vip in VIPS {
            cluster.client.connect(Burst::new((vip, 80), 50))?.expect_all(50)?;
        }
        let agent = cluster.agents.on("n1");
        // The last packets of the connections may still be on their way.
        eventually(lab::PATIENCE, "JSON and YAML that say the same", || {
            let json: Value = serde_json::from_str(&agent.cli(&["status", "-o", "json"])?)?;
            let yaml = agent.cli(&["status", "-o", "yaml"])?;
            let mut yaml: Value = serde_saphyr::from_str(&yaml).with_context(|| yaml.clone())?;
            // What moves while nothing happens; probes are answered in between, but not always.
            for (peer, same) in yaml["peers"].as_array_mut().into_iter().flatten().zip(0..) {
                peer["answered_ms"] = json["peers"][same]["answered_ms"].clone();
            }
            for (vip, same) in yaml["vips"].as_array_mut().into_iter().flatten().zip(0..) {
                vip["lease"]["remaining_ms"] = json["vips"][same]["lease"]["remaining_ms"].clone();
            }
            ensure!(yaml == json, "YAML and JSON differ:\n{yaml:#}\n{json:#}");
            Ok(())
        })?;

        let (table, wide) = (agent.cli(&["status"])?, agent.cli(&["status", "-o", "wide"])?);
        println!("{wide}");
        for text in [&table, &wide] {
            ensure!(text.starts_with("n1: ready"), "{text}");
            for word in
                ["eth0: native XDP, tcx", "OWNER", "owned", "10.77.0.100:80/tcp", "fd77::12"]
            {
                ensure!(text.contains(word), "no {word:?}: {text}");
            }
            ensure!(!text.contains('\x1b'), "colours without a terminal");
        }
        ensure!(wide.contains("REPLY BYTES") && !table.contains("REPLY BYTES"));
        ensure!(wide.contains("arp_answered"), "no counters: {wide}");
        let missing = agent.cli(&["status", "--instance", "nobody"]);
        let error = format!("{:#}", missing.expect_err("there is no such instance"));
        ensure!(error.contains("error: ") && error.contains("nobody"), "{error}");
        Ok(())
    })
}

/// Lines the kernel programs wrote themselves, about a frame from there.
fn lines(log: &str, mac: lab::Mac) -> usize {
    let ours = format!("from {mac} on interface");
    log.lines().filter(|line| line.contains("reason") && line.contains(&ours)).count()
}

#[test]
fn the_kernel_programs_write_log_lines_where_that_is_switched_on() -> Result<()> {
    Cluster::run(2, web, |cluster| {
        let (stranger, peer) = (cluster.host("c1").clone(), cluster.host("n1").clone());
        let [std::net::IpAddr::V4(vip), _] = VIPS else { unreachable!("the first VIP is IPv4") };
        let claim = arp_request(stranger.mac(), vip, vip);
        let balancers = web(&cluster.lab);
        // A port only n1 knows, served by n2: n2 hears of it from n1 first.
        let mut known = balancers.clone();
        let own = (cluster.host("n2").v4(), BACKEND_PORT).into();
        known.push(Balancer::new("early", Transport::Tcp, 81, vec![own]));
        let of_n1 = Config::of(&cluster.lab, &peer, &known);
        cluster.agents.on("n1").rewrite(&of_n1)?;
        cluster.agents.on("n1").wait_for(&known)?;

        let mut before = (0, 0);
        for (on, round) in [(false, 0), (true, 1), (false, 2)] {
            let mut config = Config::of(&cluster.lab, cluster.host("n2"), &balancers);
            config.extra = format!("logDataPlane: {on}\n# round {round}\n");
            let agent = cluster.agents.on("n2");
            agent.rewrite(&config)?;
            let flags = u64::from(on);
            eventually(lab::PATIENCE, "the setting in the kernel", || {
                let path = format!("{PINS}v1/SETTINGS");
                let settings = dump(agent.host(), &["pinned", &path])?;
                let found = settings[0]["formatted"]["value"]["flags"].as_u64();
                ensure!(found == Some(flags), "{settings:?}");
                Ok(())
            })?;
            let unknown = agent.status()?["counters"]["unknown_from_agent"].as_u64();
            stranger.send_frame("eth0", &claim)?;
            let silence = std::time::Duration::from_millis(300);
            let attempt = lab::Attempt::to(&stranger, (VIPS[0], 81).into(), silence)?;
            ensure!(attempt == lab::Attempt::Silence, "{attempt:?}");
            std::thread::sleep(silence);
            let now = agent.status()?["counters"]["unknown_from_agent"].as_u64();
            ensure!(now > unknown, "n2 was not asked for what it does not know");
            let log = agent.log();
            let found = (lines(&log, stranger.mac()), lines(&log, peer.mac()));
            let new = (found.0 - before.0, found.1 - before.1);
            println!("logDataPlane {on}: {new:?} lines");
            let expected = if on { new.0 == 1 && new.1 >= 1 } else { new == (0, 0) };
            ensure!(expected, "logDataPlane {on}: {new:?} lines: {log}");
            before = found;
        }
        Ok(())
    })
}
