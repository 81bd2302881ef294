//! The agent's state as people and programs read it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use kube_vip_quorum::node;
use tokio::time::Instant;

use crate::agent::State;
use crate::config::{LocalClients, Protocol};
use crate::dataplane::{Attachment, Egress, Ingress, Port};
use crate::observe::conflicts::{Claim, Heard};
use crate::observe::reverse_path;
use crate::peers::{Progress, Report};
use crate::plan::{self, Frontend, Proxy, Through, Upstream, Way};
use crate::proxy::Traffic;
use crate::publish::{
    BackendState, BackendStatus, BackendWay, ClientsStatus, ClientsWay, ConfigStatus,
    ConflictStatus, EgressMode, FrontendStatus, HealthStatus, LeaseStatus, PeerStatus, PeerWay,
    ProxyBackendStatus, ProxyStatus, QuorumHostStatus, QuorumRole, QuorumStatus,
    ReplicationHostStatus, ReplicationStatus, ReplyDeviceStatus, Status, UplinkStatus, VipStatus,
    XdpMode,
};
use crate::view::{Health, Probe};

/// What is true now; counters are read from the kernel at this moment.
pub(crate) fn of(state: &State) -> Status {
    let config = &state.config;
    let reasons = state.driver.reasons();
    Status {
        instance: config.instance.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: config.local_peer.id.clone(),
        pid: std::process::id(),
        ready: state.ready,
        config: ConfigStatus {
            path: state.config_path.display().to_string(),
            refused: state.refused.clone(),
        },
        uplinks: uplinks(state),
        reply_devices: reply_devices(state),
        clients: clients(state),
        peers: peers(state),
        quorum: state.quorum.as_ref().map(quorum),
        replication: state.peers.as_ref().map(|peers| replication(peers.report())),
        vips: vips(state),
        frontends: frontends(state),
        proxies: proxies(state),
        counters: reasons.iter().map(|(r, count)| (r.name().to_owned(), *count)).collect(),
        notices: config
            .notices
            .iter()
            .chain(&state.driver.unavailable)
            .chain(&state.failures)
            .chain(&state.foreign)
            .cloned()
            .chain(unfenced(state))
            .chain(state.desired.dataplane.frontends.iter().filter_map(all_down))
            .chain(state.desired.proxies.iter().filter_map(proxy_down))
            .chain(reverse_path::notices(config.interfaces()))
            .collect(),
    }
}

/// A note on a host that may vote, but not own.
fn unfenced(state: &State) -> Option<String> {
    let interface = &state.config.interface;
    let note = || {
        format!(
            "this host votes and owns nothing: without a program on {interface} nothing would end \
             its ownership on time if its agent hung"
        )
    };
    (state.quorum.is_some() && !state.driver.is_fenced(interface)).then(note)
}

fn uplinks(state: &State) -> Vec<UplinkStatus> {
    let attached: BTreeMap<_, _> = state.driver.attachments().collect();
    // The one with the VIPs first.
    let names = state.config.interfaces();
    let names = names.filter(|name| state.desired.dataplane.uplinks.contains_key(*name));
    names
        .map(|name| match attached.get(name) {
            Some(Attachment { ingress, egress, reason, .. }) => UplinkStatus {
                name: name.clone(),
                xdp: match ingress {
                    Ingress::Native => XdpMode::Native,
                    Ingress::Generic => XdpMode::Generic,
                    Ingress::None => XdpMode::None,
                },
                egress: egress_mode(*egress),
                reason: reason.clone(),
            },
            None => UplinkStatus {
                name: name.clone(),
                xdp: XdpMode::None,
                egress: EgressMode::None,
                reason: state.driver.unavailable.clone(),
            },
        })
        .collect()
}

fn reply_devices(state: &State) -> Vec<ReplyDeviceStatus> {
    let attached: BTreeMap<_, _> = state.driver.attachments().collect();
    let of = |name: &String| {
        let attachment = attached.get(name);
        ReplyDeviceStatus {
            name: name.clone(),
            egress: attachment.map_or(EgressMode::None, |at| egress_mode(at.egress)),
            reason: match attachment {
                Some(attachment) => attachment.reason.clone(),
                None => state.driver.unavailable.clone(),
            },
        }
    };
    state.desired.dataplane.reply_devices.keys().map(of).collect()
}

fn egress_mode(egress: Egress) -> EgressMode {
    match egress {
        Egress::Tcx => EgressMode::Tcx,
        Egress::Clsact => EgressMode::Clsact,
        Egress::None => EgressMode::None,
    }
}

fn peers(state: &State) -> Vec<PeerStatus> {
    let probes = state.probes.borrow();
    let standings = plan::standings(&state.config, state.desired.dataplane.digest, &probes);
    let of = |(id, address, refusal): (&str, IpAddr, Option<String>)| {
        let node = state.desired.dataplane.nodes.get(id);
        let hop = node.and_then(|node| node.hop(address.is_ipv4()));
        let answer = match probes.get(&address) {
            Some(Probe::Answered(answer)) => Some(answer),
            _ => None,
        };
        let version = |[major, minor, patch]: [u8; 3]| format!("{major}.{minor}.{patch}");
        PeerStatus {
            id: id.to_owned(),
            address,
            way: match hop.map(|hop| hop.through) {
                Some(Through::Link) => PeerWay::Link,
                Some(Through::Tunnel) => PeerWay::Tunnel,
                Some(Through::Nat) | None => PeerWay::None,
            },
            mtu: hop.map(|hop| hop.mtu),
            reason: refusal,
            version: answer.map(|answer| version(answer.version)),
            answered_ms: answer.map(|answer| answer.at.elapsed().as_millis() as u64),
        }
    };
    standings.into_iter().map(of).collect()
}

fn clients(state: &State) -> ClientsStatus {
    let sockets = state.driver.sockets();
    let processes = match state.config.local_clients {
        LocalClients::Host => "host",
        LocalClients::All => "all",
        LocalClients::None => "none",
    };
    ClientsStatus {
        processes: processes.to_owned(),
        way: if sockets.cgroup().is_some() { ClientsWay::Led } else { ClientsWay::Owner },
        cgroup: sockets.cgroup().map(|path| path.display().to_string()),
        reason: sockets.reason().map(str::to_owned).or_else(|| state.driver.unavailable.clone()),
    }
}

fn quorum(standing: &node::Standing) -> QuorumStatus {
    let host = |host: &node::Taking| QuorumHostStatus {
        id: host.name.clone(),
        addresses: host.addresses.clone(),
        role: role(host.role),
        weight: host.weight,
        drained: host.drained,
        assigned: host.assigned.clone(),
    };
    QuorumStatus {
        role: role(standing.role),
        leader: standing.leader.clone(),
        hosts: standing.hosts.iter().map(host).collect(),
        changing: standing.changing,
        differing: standing.differing.clone(),
        strangers: standing.strangers.clone(),
        trouble: standing.trouble.clone(),
    }
}

fn replication(report: Report) -> ReplicationStatus {
    let host = |(id, told): (String, Progress)| ReplicationHostStatus {
        id,
        reached: told.reached,
        translations: told.translations,
        strays: told.strays,
        behind: told.behind,
        sweeping: told.sweeping,
        lag_ms: told.lag.as_millis() as u64,
    };
    ReplicationStatus {
        hosts: report.sent.into_iter().map(host).collect(),
        translations: report.translations,
        strays: report.strays,
        refused: report.refused,
    }
}

fn role(role: node::Role) -> QuorumRole {
    match role {
        node::Role::Outside => QuorumRole::Outside,
        node::Role::Learner => QuorumRole::Learner,
        node::Role::Voter => QuorumRole::Voter,
        node::Role::Leader => QuorumRole::Leader,
    }
}

fn vips(state: &State) -> Vec<VipStatus> {
    let fence = state.driver.fence();
    let desired = state.desired.dataplane.vips.iter().filter(|(_, vip)| !vip.host_address);
    desired
        .map(|(address, vip)| {
            let lease = vip.grant.zip(fence.remaining(&vip.lease)).map(|(grant, nanoseconds)| {
                LeaseStatus {
                    epoch: grant.epoch,
                    remaining_ms: (nanoseconds != u64::MAX).then_some(nanoseconds / 1_000_000),
                }
            });
            VipStatus {
                address: *address,
                // Without kernel programs there is no lease to hold.
                owned: vip.grant.is_some()
                    && (lease.is_some() || state.driver.unavailable.is_some()),
                owner: vip.owner.clone(),
                held: vip.held,
                interface: state.config.interface.clone(),
                lease,
                conflicts: conflicts(state, *address),
            }
        })
        .collect()
}

fn conflicts(state: &State, vip: IpAddr) -> Vec<ConflictStatus> {
    let now = Instant::now();
    let of = |(claim, heard): (&Claim, &Heard)| ConflictStatus {
        mac: claim.mac.to_string(),
        peer: state.desired.dataplane.senders.get(&claim.mac).cloned(),
        interface: claim.interface.clone(),
        by: claim.by.to_owned(),
        since_seconds: now.duration_since(heard.first).as_secs(),
        heard_seconds: now.duration_since(heard.last).as_secs(),
    };
    state.conflicts.of(vip, now).map(of).collect()
}

fn frontends(state: &State) -> Vec<FrontendStatus> {
    let desired = state.desired.dataplane.frontends.iter();
    desired
        .map(|(port, frontend)| {
            let traffic = state.driver.frontend_traffic(port);
            FrontendStatus {
                name: frontend.name.clone(),
                address: port.0,
                port: port.1,
                protocol: port.2.name().to_owned(),
                packets: traffic.packets,
                bytes: traffic.bytes,
                backends: backends(state, port.2, frontend),
            }
        })
        .collect()
}

/// A note on a frontend whose backends all fail their checks.
fn all_down((port, frontend): (&Port, &Frontend)) -> Option<String> {
    let (address, name) = (SocketAddr::new(port.0, port.1), &frontend.name);
    let note = format!("{name} at {address}: all backends fail their checks, so all are kept");
    frontend.all_down.then_some(note)
}

/// A note on a proxy whose backends all fail their checks.
fn proxy_down((address, proxy): (&SocketAddr, &Proxy)) -> Option<String> {
    let (name, some) = (&proxy.name, !proxy.upstreams.is_empty());
    let nobody = proxy.upstreams.iter().all(|upstream| upstream.share() == 0);
    match proxy.all_down {
        true => {
            Some(format!("{name} at {address}: all backends fail their checks, so all are kept"))
        }
        false if some && nobody => {
            Some(format!("{name} at {address}: no backend is there, clients get 503"))
        }
        false => None,
    }
}

fn proxies(state: &State) -> Vec<ProxyStatus> {
    let of = |(address, proxy): (&SocketAddr, &Proxy)| {
        let traffic = state.proxies.traffic(address);
        let count = |counter: fn(&Traffic) -> &AtomicU64| {
            traffic.as_ref().map_or(0, |traffic| counter(traffic).load(Ordering::Relaxed))
        };
        let total: u32 = proxy.upstreams.iter().map(|it| u32::from(it.share())).sum();
        ProxyStatus {
            name: proxy.name.clone(),
            address: address.ip(),
            port: address.port(),
            listening: traffic.is_some(),
            connections: count(|traffic| &traffic.connections),
            requests: count(|traffic| &traffic.requests),
            failed: count(|traffic| &traffic.failed),
            backends: proxy.upstreams.iter().map(|upstream| proxied(upstream, total)).collect(),
        }
    };
    state.desired.proxies.iter().map(of).collect()
}

fn proxied(upstream: &Upstream, total: u32) -> ProxyBackendStatus {
    let fails = upstream.health.as_ref().and_then(|health| health.error.clone());
    ProxyBackendStatus {
        url: upstream.backend.url(),
        address: upstream.backend.address,
        state: if upstream.excluded { BackendState::NotReady } else { BackendState::Ready },
        reason: fails.filter(|_| upstream.excluded),
        health: upstream.health.as_ref().map(health),
        weight: upstream.backend.weight,
        share: f64::from(upstream.share()) / f64::from(total.max(1)),
    }
}

fn health(health: &Health) -> HealthStatus {
    HealthStatus {
        up: health.up,
        for_seconds: health.since.elapsed().as_secs(),
        error: health.error.clone(),
    }
}

fn backends(state: &State, protocol: Protocol, frontend: &Frontend) -> Vec<BackendStatus> {
    let weight_of = |(_, backend): (&SocketAddr, &plan::Backend)| match backend.way {
        Way::None(_) => 0,
        Way::Here | Way::Peer | Way::Tunnel | Way::Nat(_) => u32::from(backend.share()),
    };
    let total: u32 = frontend.backends.iter().map(weight_of).sum();
    let balanced = state.driver.attachments().any(|(_, at)| at.ingress != Ingress::None);
    frontend
        .backends
        .iter()
        .map(|(address, backend)| {
            let traffic = state.driver.backend_traffic(&(protocol, *address));
            let (way, reason) = match &backend.way {
                Way::Here => (BackendWay::Here, None),
                Way::Peer => (BackendWay::Peer, None),
                Way::Tunnel => (BackendWay::Tunnel, None),
                Way::Nat(_) => (BackendWay::Nat, None),
                Way::None(reason) => (BackendWay::None, Some(reason.clone())),
            };
            let nothing = || Some("no XDP program balances here".to_owned());
            let reason = reason.or_else(|| if balanced { None } else { nothing() });
            let fails = || backend.health.as_ref()?.error.clone();
            let reason = reason.or_else(|| if backend.excluded { fails() } else { None });
            let share = f64::from(weight_of((address, backend))) / f64::from(total.max(1));
            BackendStatus {
                address: address.ip(),
                port: address.port(),
                node: backend.node.clone(),
                way,
                state: if reason.is_none() && !backend.excluded {
                    BackendState::Ready
                } else {
                    BackendState::NotReady
                },
                reason,
                health: backend.health.as_ref().map(health),
                weight: backend.weight,
                share,
                packets: traffic.sent.packets,
                bytes: traffic.sent.bytes,
                reply_packets: traffic.replies.packets,
                reply_bytes: traffic.replies.bytes,
            }
        })
        .collect()
}
