//! HTTP ports that this host listens on itself, and who serves them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Proxy, Upstream, checks, vips};
use crate::config::{AllDown, HttpBalancer};
use crate::view::View;

/// Every address that is proxied: the VIPs, or all of the host's.
pub(super) fn plan(view: &View) -> BTreeMap<SocketAddr, Proxy> {
    let config = &view.config;
    let mut proxies = BTreeMap::new();
    for balancer in &config.http_balancers {
        let places: Vec<(IpAddr, bool)> = match balancer.bind_to_vip {
            true => config.vips.iter().map(|vip| (*vip, vips::is_owned(view, vip))).collect(),
            false => vec![(Ipv6Addr::UNSPECIFIED.into(), true)],
        };
        let at = |(address, here)| {
            (SocketAddr::new(address, balancer.port), Proxy { here, ..proxy(view, balancer) })
        };
        proxies.extend(places.into_iter().map(at));
    }
    proxies
}

fn proxy(view: &View, balancer: &HttpBalancer) -> Proxy {
    let upstream = |backend: &crate::config::HttpBackend| {
        let check = checks::of_proxied(balancer, backend);
        let health = check.and_then(|check| view.health.get(&check)).cloned();
        Upstream { backend: backend.clone(), excluded: false, health }
    };
    let mut upstreams: Vec<_> = balancer.backends.iter().map(upstream).collect();
    let is_down = |it: &Upstream| it.health.as_ref().is_some_and(|health| !health.up);
    let mut usable = upstreams.iter().filter(|it| it.backend.weight > 0).peekable();
    let some = usable.peek().is_some();
    let all_down = some && balancer.all_down == AllDown::Keep && usable.all(is_down);
    for upstream in &mut upstreams {
        upstream.excluded = is_down(upstream) && !all_down;
    }
    let (name, trust) = (balancer.name.clone(), balancer.trust.clone());
    Proxy { name, here: false, trust, all_down, upstreams }
}
