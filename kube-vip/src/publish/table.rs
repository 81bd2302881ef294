//! The status as people read it.

use std::fmt::Write;
use std::net::SocketAddr;

use super::columns::{Cell, Style, Table, not_ready, ready};
use super::proxies::ProxyStatus;
use super::status::{
    BackendState, BackendStatus, BackendWay, ClientsStatus, ClientsWay, ConflictStatus, EgressMode,
    FrontendStatus, HealthStatus, PeerWay, QuorumHostStatus, QuorumRole, QuorumStatus,
    ReplicationHostStatus, ReplicationStatus, Status, XdpMode,
};

/// Renders the status as tables.
pub fn render(status: &Status, style: Style) -> String {
    let mut out = String::new();
    head(&mut out, status, style);
    vips(&mut out, status, style);
    peers(&mut out, status, style);
    frontends(&mut out, &status.frontends, style);
    proxies(&mut out, &status.proxies, style);
    if style.wide {
        counters(&mut out, status, style);
        for notice in &status.notices {
            let _ = writeln!(out, "note: {notice}");
        }
    } else if !status.notices.is_empty() {
        let count = status.notices.len();
        let s = if count == 1 { "" } else { "s" };
        let _ = writeln!(out, "{count} note{s}: kube-vip status -o wide");
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn head(out: &mut String, status: &Status, style: Style) {
    let Status { instance, version, host, pid, .. } = status;
    let state = if status.ready { ready("ready") } else { not_ready("not ready") };
    let state = state.paint(style);
    let _ = writeln!(out, "{host}: {state} (instance {instance}, pid {pid}, version {version})");
    for uplink in &status.uplinks {
        let xdp = match uplink.xdp {
            XdpMode::Native => "native XDP",
            XdpMode::Generic => "generic XDP",
            XdpMode::None => "no XDP",
        };
        let said = format!("{xdp}, {}", egress(uplink.egress));
        interface(out, &uplink.name, &said, uplink.reason.as_deref());
    }
    for device in &status.reply_devices {
        let said = format!("replies only, {}", egress(device.egress));
        interface(out, &device.name, &said, device.reason.as_deref());
    }
    clients(out, &status.clients);
    if let Some(agreed) = &status.quorum {
        out.push_str(&quorum(agreed, style));
    }
    if let Some(told) = &status.replication {
        replication(out, told, style);
    }
    if let Some(reason) = &status.config.refused {
        let refused = not_ready("refused").paint(style);
        let _ = writeln!(out, "The newest {} is {refused}: {reason}", status.config.path);
    }
    out.push('\n');
}

fn interface(out: &mut String, name: &str, said: &str, reason: Option<&str>) {
    let _ = write!(out, "{name}: {said}");
    if let Some(reason) = reason {
        let _ = write!(out, " ({reason})");
    }
    out.push('\n');
}

fn clients(out: &mut String, clients: &ClientsStatus) {
    let way = match (clients.way, clients.processes.as_str()) {
        (ClientsWay::Led, "all") => "led to backends, in all network namespaces",
        (ClientsWay::Led, _) => "led to backends",
        (ClientsWay::Owner, _) => "through the owner",
    };
    let _ = write!(out, "clients on this host: {way}");
    if let Some(reason) = &clients.reason {
        let _ = write!(out, " ({reason})");
    }
    out.push('\n');
}

/// Who votes and who leads, on one line, and what is wrong with that on further ones.
fn quorum(quorum: &QuorumStatus, style: Style) -> String {
    let QuorumStatus { role, leader, hosts, changing, differing, strangers, trouble } = quorum;
    let said = match role {
        QuorumRole::Leader => "this host leads".to_owned(),
        QuorumRole::Outside => not_ready("this host belongs to no cluster yet").paint(style),
        QuorumRole::Learner | QuorumRole::Voter => match leader {
            Some(leader) => format!("{leader} leads"),
            None => not_ready("nobody leads").paint(style),
        },
    };
    let mut text = format!("quorum: {said}");
    let named = |is_meant: &dyn Fn(&&QuorumHostStatus) -> bool| -> Vec<&str> {
        hosts.iter().filter(is_meant).map(|host| host.id.as_str()).collect()
    };
    let voters = named(&|host| matches!(host.role, QuorumRole::Voter | QuorumRole::Leader));
    let learners = named(&|host| host.role == QuorumRole::Learner);
    let drained = named(&|host| host.drained);
    for (hosts, what) in [(voters, "vote"), (learners, "without a vote"), (drained, "drained")] {
        if !hosts.is_empty() {
            let _ = write!(text, "; {} {what}", hosts.join(" "));
        }
    }
    if *changing {
        text.push_str("; the voters are being changed");
    }
    text.push('\n');
    if !differing.is_empty() {
        let all: Vec<_> = differing.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "quorum: the hosts' files differ: {} not in all", all.join(", "));
    }
    if !strangers.is_empty() {
        let all = strangers.join(", ");
        let _ = writeln!(text, "quorum: {all}: in this host's file or taking part, not both");
    }
    if let Some(trouble) = trouble {
        let _ = writeln!(text, "quorum: {}", not_ready(trouble).paint(style));
    }
    text
}

/// Whether the other hosts know of the connections here, in time.
fn replication(out: &mut String, told: &ReplicationStatus, style: Style) {
    if told.hosts.is_empty() {
        return;
    }
    let of = |host: &ReplicationHostStatus| {
        let ReplicationHostStatus { id, reached, behind, lag_ms, .. } = host;
        match (reached, behind) {
            (false, _) => not_ready(&format!("{id} is not reached")).paint(style),
            (true, 0) => format!("{id} within {lag_ms} ms"),
            (true, behind) => format!("{id} {behind} behind, {lag_ms} ms"),
        }
    };
    let hosts: Vec<_> = told.hosts.iter().map(of).collect();
    let _ = writeln!(out, "connections told: {}", hosts.join(", "));
}

fn egress(mode: EgressMode) -> &'static str {
    match mode {
        EgressMode::Tcx => "tcx",
        EgressMode::Clsact => "clsact",
        EgressMode::None => "no egress program",
    }
}

fn vips(out: &mut String, status: &Status, style: Style) {
    let mut table = Table::new(&["VIP", "OWNER", "HERE", "INTERFACE", "LEASE"]);
    for vip in &status.vips {
        let lease = match &vip.lease {
            None => "-".to_owned(),
            Some(lease) => match lease.remaining_ms {
                None => format!("epoch {}, without end", lease.epoch),
                Some(left) => {
                    format!("epoch {}, {}.{} s left", lease.epoch, left / 1000, left % 1000 / 100)
                }
            },
        };
        let here = match (vip.owned, vip.held) {
            (true, true) => ready("owned"),
            (true, false) => not_ready("owned, not held"),
            (false, true) => not_ready("held, not owned"),
            (false, false) => Cell::plain("-"),
        };
        table.row([
            Cell::plain(vip.address.to_string()),
            Cell::plain(vip.owner.as_deref().unwrap_or("unknown")),
            here,
            Cell::plain(vip.interface.as_str()),
            Cell::plain(lease),
        ]);
    }
    table.print(out, style);
    let conflicts = status.vips.iter().flat_map(|vip| vip.conflicts.iter().map(move |c| (vip, c)));
    let mut conflicts = conflicts.peekable();
    let any = conflicts.peek().is_some();
    for (vip, conflict) in conflicts {
        let ConflictStatus { mac, peer, interface, by, heard_seconds, .. } = conflict;
        let who = peer.as_ref().map(|peer| format!(" ({peer})")).unwrap_or_default();
        let said = not_ready("conflict").paint(style);
        let _ = writeln!(
            out,
            "{said}: {mac}{who} on {interface} claims {} by {by}, last {heard_seconds} s ago",
            vip.address
        );
    }
    if any {
        out.push('\n');
    }
}

fn peers(out: &mut String, status: &Status, style: Style) {
    let mut table = Table::new(&["PEER", "ADDRESS", "WAY", "MTU", "VERSION", "ANSWERED", ""]);
    for peer in &status.peers {
        let way = match peer.way {
            PeerWay::Link => "link",
            PeerWay::Tunnel => "tunnel",
            PeerWay::None => "-",
        };
        let answered = match peer.answered_ms {
            Some(ms) => format!("{}.{} s ago", ms / 1000, ms % 1000 / 100),
            None => "-".to_owned(),
        };
        let reason = peer.reason.as_deref();
        table.row([
            Cell::plain(peer.id.as_str()),
            Cell::plain(peer.address.to_string()),
            Cell::plain(way),
            Cell::right(&peer.mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string())),
            Cell::plain(peer.version.as_deref().unwrap_or("-")),
            Cell::plain(answered),
            reason.map_or_else(|| Cell::plain(""), not_ready),
        ]);
    }
    table.print(out, style);
}

fn frontends(out: &mut String, frontends: &[FrontendStatus], style: Style) {
    let mut columns =
        vec!["FRONTEND", "ADDRESS", "NODE", "WAY", "STATE", "HEALTH", "SHARE", "PACKETS"];
    if style.wide {
        columns.extend(["BYTES", "REPLIES", "REPLY BYTES", "WEIGHT"]);
    }
    columns.push("");
    let mut table = Table::new(&columns);
    for frontend in frontends {
        let blank = || Cell::plain("");
        let address = SocketAddr::new(frontend.address, frontend.port);
        let mut row = vec![
            Cell::plain(frontend.name.as_str()),
            Cell::plain(format!("{address}/{}", frontend.protocol)),
            blank(),
            blank(),
            blank(),
            blank(),
            blank(),
            Cell::right(&frontend.packets),
        ];
        if style.wide {
            row.push(Cell::right(&frontend.bytes));
        }
        table.row(row);
        for backend in &frontend.backends {
            table.row(backend_row(backend, style));
        }
        if frontend.backends.is_empty() {
            table.row([blank(), Cell::plain("  no backends")]);
        }
    }
    table.print(out, style);
}

fn backend_row(backend: &BackendStatus, style: Style) -> Vec<Cell> {
    let way = match backend.way {
        BackendWay::Here => "here",
        BackendWay::Peer => "peer",
        BackendWay::Tunnel => "tunnel",
        BackendWay::Nat => "nat",
        BackendWay::None => "-",
    };
    let state = match backend.state {
        BackendState::Ready => ready("ready"),
        BackendState::NotReady => not_ready("not ready"),
    };
    let mut row = vec![
        Cell::plain(""),
        Cell::plain(format!("  {}", SocketAddr::new(backend.address, backend.port))),
        Cell::plain(backend.node.as_deref().unwrap_or("-")),
        Cell::plain(way),
        state,
        health(backend.health.as_ref()),
        Cell::right(&format!("{:.1}%", backend.share * 100.0)),
        Cell::right(&backend.packets),
    ];
    if style.wide {
        row.extend([
            Cell::right(&backend.bytes),
            Cell::right(&backend.reply_packets),
            Cell::right(&backend.reply_bytes),
            Cell::right(&backend.weight),
        ]);
    }
    row.push(Cell::plain(backend.reason.as_deref().unwrap_or("")));
    row
}

fn proxies(out: &mut String, proxies: &[ProxyStatus], style: Style) {
    let columns =
        ["PROXY", "ADDRESS", "STATE", "HEALTH", "SHARE", "OPEN", "REQUESTS", "FAILED", ""];
    let mut table = Table::new(&columns);
    let blank = || Cell::plain("");
    for proxy in proxies {
        let address = SocketAddr::new(proxy.address, proxy.port);
        let state = if proxy.listening { ready("listening") } else { Cell::plain("elsewhere") };
        table.row([
            Cell::plain(proxy.name.as_str()),
            Cell::plain(format!("{address}/http")),
            state,
            blank(),
            blank(),
            Cell::right(&proxy.connections),
            Cell::right(&proxy.requests),
            Cell::right(&proxy.failed),
        ]);
        for backend in &proxy.backends {
            let state = match backend.state {
                BackendState::Ready => ready("ready"),
                BackendState::NotReady => not_ready("not ready"),
            };
            table.row([
                blank(),
                Cell::plain(format!("  {}", backend.url)),
                state,
                health(backend.health.as_ref()),
                Cell::right(&format!("{:.1}%", backend.share * 100.0)),
                blank(),
                blank(),
                blank(),
                Cell::plain(backend.reason.as_deref().unwrap_or("")),
            ]);
        }
        if proxy.backends.is_empty() {
            table.row([blank(), Cell::plain("  no backends")]);
        }
    }
    table.print(out, style);
}

fn health(health: Option<&HealthStatus>) -> Cell {
    let Some(HealthStatus { up, for_seconds, .. }) = health else { return Cell::plain("-") };
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(size, _)| for_seconds >= size).unwrap_or((1, "s"));
    let since = format!("{}{}", for_seconds / unit.0, unit.1);
    if *up { Cell::plain(format!("up {since}")) } else { not_ready(&format!("down {since}")) }
}

fn counters(out: &mut String, status: &Status, style: Style) {
    let mut table = Table::new(&["COUNTER", "PACKETS"]);
    for (name, count) in status.counters.iter().filter(|(_, count)| **count > 0) {
        table.row([Cell::plain(name.as_str()), Cell::right(count)]);
    }
    table.print(out, style);
}

#[cfg(test)]
mod tests {
    use super::super::status::ReplyDeviceStatus;
    use super::super::status::tests::example;
    use super::*;

    #[test]
    fn the_table_is_what_people_read() {
        let expected = "\
n1: ready (instance default, pid 1, version 0.1.0)
eth0: native XDP, tcx
clients on this host: led to backends
quorum: n2 leads; n1 n2 vote; n3 without a vote; n2 drained
quorum: the hosts' files differ: 10.77.0.101 not in all
quorum: n4: in this host's file or taking part, not both
connections told: n2 3 behind, 12 ms, n3 is not reached

VIP          OWNER    HERE   INTERFACE  LEASE
10.77.0.100  n1       owned  eth0       epoch 1, 2.5 s left
fd77::100    unknown  -      eth0       -

conflict: 02:00:00:00:00:09 on eth0 claims 10.77.0.100 by ARP, last 3 s ago

PEER  ADDRESS     WAY      MTU  VERSION  ANSWERED
n2    10.77.0.12  link    1500  0.1.0    0.4 s ago
n3    10.78.0.13  tunnel  1400  -        -          the agent of n3 has been stopped

FRONTEND  ADDRESS             NODE  WAY   STATE      HEALTH   SHARE  PACKETS
web       10.77.0.100:80/tcp                                            1204
            10.77.0.11:8080   n1    here  ready      up 1h    50.0%      602
            10.77.0.12:8080   n2    -     not ready  down 9s   0.0%        0  nobody answers for it

PROXY  ADDRESS                       STATE      HEALTH   SHARE  OPEN  REQUESTS  FAILED
app    10.77.0.100:8000/http         listening                     3      1000       1
         http://10.77.0.11:8080/app  ready      up 1m   100.0%

1 note: kube-vip status -o wide
";
        assert_eq!(render(&example(), Style::default()), expected);
    }

    #[test]
    fn wide_shows_bytes_counters_and_notices() {
        let text = render(&example(), Style { wide: true, colour: false });
        assert!(text.contains("REPLY BYTES") && text.contains("1000000"), "{text}");
        assert!(text.contains("arp_answered        1"), "{text}");
        assert!(!text.contains("dropped"), "{text}");
        assert!(text.ends_with("note: vipCidr: comes with BGP\n"), "{text}");
    }

    #[test]
    fn devices_for_replies_stand_below_the_uplinks() {
        let mut status = example();
        let name = "flannel.1".to_owned();
        let device = ReplyDeviceStatus { name, egress: EgressMode::Tcx, reason: None };
        status.reply_devices.push(device);
        let text = render(&status, Style::default());
        assert!(text.contains("\neth0: native XDP, tcx\nflannel.1: replies only, tcx\n"), "{text}");
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let colour = render(&example(), Style { wide: false, colour: true });
        assert!(colour.contains("\x1b[32mready\x1b[0m"), "{colour:?}");
        let mut plain = colour;
        for code in ["\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        let plain: Vec<&str> = plain.lines().map(str::trim_end).collect();
        let expected = render(&example(), Style::default());
        assert_eq!(plain, expected.lines().collect::<Vec<_>>());
    }

    #[test]
    fn a_refused_file_is_said_at_the_top() {
        let mut status = example();
        status.config.refused = Some("config.yaml, line 3: vip: …".into());
        status.ready = false;
        let text = render(&status, Style::default());
        assert!(text.starts_with("n1: not ready"), "{text}");
        assert!(
            text.contains("\nThe newest /etc/kube-vip/config.yaml is refused: config.yaml, line 3")
        );
    }
}
