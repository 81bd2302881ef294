//! The old program's flags for what is in the configuration file.
//!
//! Booleans are Go's: `--arp` or `--arp=true`, never with a space.

use crate::config::{Given, Key};

/// The old program's flags for what is in the configuration file
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Instead of a file")]
pub(super) struct Flags {
    /// Network interface the virtual IP lives on; several with commas between
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,

    /// The virtual IP; several with commas between
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<String>,

    /// As --vip; names come later
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,

    /// There are no other hosts
    #[arg(long = "singleNode", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    single_node: Option<String>,

    /// This host may begin the cluster of hosts
    #[arg(long = "startAsLeader", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    start_as_leader: Option<String>,

    /// Tell the network where the virtual IP is; true unless said
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    arp: Option<String>,

    /// This host, like `server1:192.168.0.1:10000` or `server1:[fd00::1]:10000`
    #[arg(long = "localPeer", value_name = "ID:ADDRESS:PORT")]
    local_peer: Option<String>,

    /// The other hosts, in the same form with commas between; one with two addresses is there twice
    #[arg(long = "remotePeers", value_name = "ID:ADDRESS:PORT,…")]
    remote_peers: Vec<String>,

    /// The load balancer is on the virtual IP, not on the hosts' own addresses
    #[arg(long = "lbBindToVip", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    lb_bind_to_vip: Option<String>,

    /// tcp, udp, sctp or http
    #[arg(long = "lbType", value_name = "TYPE")]
    lb_type: Option<String>,

    /// Name of the load balancer
    #[arg(long = "lbName", value_name = "NAME")]
    lb_name: Option<String>,

    /// Port clients connect to; 8080 unless said
    #[arg(long = "lbPort", value_name = "PORT")]
    lb_port: Option<String>,

    /// Port of backends that are named without one
    #[arg(long = "lbBackEndPort", value_name = "PORT")]
    lb_backend_port: Option<String>,

    /// Who serves it, like `192.168.0.1:6444` or `[fd00::1]:6444`, with commas between
    #[arg(long = "lbBackends", value_name = "ADDRESS:PORT,…")]
    lb_backends: Vec<String>,
}

/// Those about Kubernetes, which comes later.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Understood, without effect yet")]
pub(super) struct ClusterFlags {
    /// Comes with Kubernetes
    #[arg(long = "kubeConfig", value_name = "FILE")]
    kube_config: Option<String>,

    /// Comes with Kubernetes
    #[arg(long = "inCluster", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    in_cluster: Option<String>,

    /// Comes with Kubernetes
    #[arg(long = "leaderElection", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    leader_election: Option<String>,
}

impl Flags {
    /// What is set, by the flags' names.
    fn set(&self) -> Vec<(&'static str, Key, String)> {
        let lists = (self.remote_peers.join(","), self.lb_backends.join(","));
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let all = [
            ("--interface", Key::Text("interface"), text(&self.interface)),
            ("--address", Key::Vip("address"), text(&self.address)),
            ("--vip", Key::Vip("vip"), text(&self.vip)),
            ("--singleNode", Key::Flag("singleNode"), text(&self.single_node)),
            ("--startAsLeader", Key::Flag("startAsLeader"), text(&self.start_as_leader)),
            ("--arp", Key::Flag("gratuitousARP"), text(&self.arp)),
            ("--localPeer", Key::LocalPeer, text(&self.local_peer)),
            ("--remotePeers", Key::RemotePeers, lists.0),
            ("--lbBackends", Key::Backends, lists.1),
            ("--lbName", Key::Balancer("name"), text(&self.lb_name)),
            ("--lbType", Key::Balancer("type"), text(&self.lb_type)),
            ("--lbPort", Key::Balancer("port"), text(&self.lb_port)),
            ("--lbBindToVip", Key::BalancerFlag("bindToVip"), text(&self.lb_bind_to_vip)),
            ("--lbBackEndPort", Key::Balancer("backendPort"), text(&self.lb_backend_port)),
        ];
        all.into_iter().filter(|(_, _, text)| !text.is_empty()).collect()
    }

    /// Adds them; beside a file they have no effect, as in the old program.
    pub(super) fn add_to(&self, given: &mut Given, file: bool) {
        for (name, key, text) in self.set() {
            let key = if file { Key::Nothing("has no effect beside --config") } else { key };
            given.add(name, key, &text);
        }
    }

    /// Whether none is set.
    pub(super) fn is_empty(&self) -> bool {
        self.set().is_empty()
    }

    /// The same with what the old program's sample had where nothing is set.
    pub(super) fn or_sample(mut self) -> Self {
        let or = |text: &mut Option<String>, sample: &str| {
            text.get_or_insert_with(|| sample.to_owned());
        };
        or(&mut self.interface, "eth0");
        if self.address.is_none() {
            or(&mut self.vip, "192.168.0.100");
        }
        or(&mut self.arp, "true");
        or(&mut self.local_peer, "server1:192.168.0.1:10000");
        let alone = self.single_node.as_deref().is_some_and(|it| it != "false");
        if self.remote_peers.is_empty() && !alone {
            self.remote_peers =
                ["server2:192.168.0.2:10000", "server3:192.168.0.3:10000"].map(Into::into).into();
        }
        if self.lb_backends.is_empty() {
            self.lb_backends = ["192.168.0.1:6444", "192.168.0.2:6444"].map(Into::into).into();
        }
        or(&mut self.lb_name, "Example Load Balancer");
        or(&mut self.lb_type, "tcp");
        or(&mut self.lb_port, "8080");
        or(&mut self.lb_bind_to_vip, "true");
        self
    }
}

impl ClusterFlags {
    pub(super) fn add_to(&self, given: &mut Given) {
        let later = Key::Nothing("comes later, with Kubernetes; hosts agree among themselves");
        for (name, text) in [
            ("--kubeConfig", &self.kube_config),
            ("--inCluster", &self.in_cluster),
            ("--leaderElection", &self.leader_election),
        ] {
            let text = text.as_deref().filter(|text| !matches!(*text, "false" | "0" | "f"));
            given.add(name, later, text.unwrap_or_default());
        }
    }
}
