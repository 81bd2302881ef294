//! Which looks at backends the configuration asks for.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::config::{Backend, Config, HttpBackend, HttpBalancer, LoadBalancer};
use crate::view::Check;

/// All of them; what several load balancers ask alike is there once.
pub fn checks(config: &Config) -> BTreeSet<Check> {
    let balancers = config.load_balancers.iter();
    let balanced = balancers
        .flat_map(|balancer| balancer.backends.iter().filter_map(|backend| of(balancer, backend)));
    let proxied = config.http_balancers.iter().flat_map(|balancer| {
        balancer.backends.iter().filter_map(|backend| of_proxied(balancer, backend))
    });
    balanced.chain(proxied).collect()
}

/// The look at one backend of a proxy.
pub(super) fn of_proxied(balancer: &HttpBalancer, backend: &HttpBackend) -> Option<Check> {
    balancer.health_check.clone().map(|how| Check { backend: backend.address, how })
}

/// The look at one backend of a load balancer.
pub(super) fn of(balancer: &LoadBalancer, backend: &Backend) -> Option<Check> {
    let backend = SocketAddr::new(backend.address, backend.port);
    balancer.health_check.clone().map(|how| Check { backend, how })
}
