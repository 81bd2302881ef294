//! The agent's main loop: what is learnt becomes a view, the view a plan, the plan what drivers do.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube_vip_quorum::node;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tracing::{debug, error, info, warn};

use crate::address::{Addresses, Report};
use crate::announce::Announcer;
use crate::config::{Config, ConfigError, Origin, check_change, check_host, check_host_ports};
use crate::dataplane::Driver;
use crate::election::quorum::Member;
use crate::election::{self, Election};
use crate::observe;
use crate::observe::conflicts::{Claim, Conflicts};
use crate::peers::Peers;
use crate::plan::{self, Desired};
use crate::proxy::Proxies;
use crate::publish::{AgentSocket, InstanceLock, VipLocks, run_dir};
use crate::requests;
use crate::source::health::Healths;
use crate::source::links::Links;
use crate::source::neighbours::Hops;
use crate::source::probes::Voice;
use crate::source::{file, health, links, neighbours, probes};
use crate::view::{Check, Probes, Targets, View};

/// What nobody reports (a foreign program detached ours, a map was changed by hand) is looked for
/// this often.
const LOOK: Duration = Duration::from_secs(10);
/// After a failure the next try waits this long.
const RETRY: Duration = Duration::from_secs(1);

/// How often the main loop says that it is there, and moves the programs' clock.
const BEAT: Duration = Duration::from_secs(1);

/// What this host owns is taken over within this time, or ends by itself.
const HAND_OVER: Duration = Duration::from_secs(1);

/// So long is waited at the end until others know of all connections that are translated here.
const FLUSH: Duration = Duration::from_millis(500);

/// Claims of others that wait for the main loop.
const CLAIMS: usize = 64;

/// What others have sent on its way here when they hear of the end arrives within this time.
const PARTING: Duration = Duration::from_millis(100);

/// What an agent leaves.
enum Ending {
    /// Nothing.
    Clear,
    /// Its data plane.
    Keep,
}

/// Everything that is, as the status tells it.
pub(crate) struct State {
    pub(crate) config_path: PathBuf,
    pub(crate) config: Arc<Config>,
    pub(crate) refused: Option<String>,
    pub(crate) desired: Desired,
    pub(crate) links: Links,
    /// What the other hosts' data planes have answered, up to this moment.
    pub(crate) probes: watch::Receiver<Probes>,
    pub(crate) driver: Driver,
    pub(crate) proxies: Proxies,
    /// What the last reconcile could not do.
    pub(crate) failures: Vec<String>,
    /// VIPs on this host that somebody else put there.
    pub(crate) foreign: Vec<String>,
    /// What the hosts have agreed on, where they elect among themselves.
    pub(crate) quorum: Option<node::Standing>,
    /// What agents tell each other of connections, where ownership moves.
    pub(crate) peers: Option<Arc<Peers>>,
    /// Others that say a VIP is at their place.
    pub(crate) conflicts: Conflicts,
    pub(crate) ready: bool,
}

struct Agent {
    state: Arc<Mutex<State>>,
    addresses: Addresses,
    announcer: Announcer,
    locks: VipLocks,
    links: watch::Receiver<Links>,
    hops: watch::Receiver<Hops>,
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    probes: watch::Receiver<Probes>,
    targets: watch::Sender<Targets>,
    voice: Voice,
    health: watch::Receiver<Healths>,
    checks: watch::Sender<BTreeSet<Check>>,
    election: Election,
    /// What the file says, without the hosts that the others have told of.
    written: Arc<Config>,
    /// This host is about to end.
    leaving: bool,
}

/// Runs until SIGTERM or SIGINT, and leaves the host as it was found; with `keepOnExit` in the file or
/// `keep_on_exit` SIGTERM leaves the data plane to the next agent.
///
/// # Errors
/// The agent cannot start; nothing was changed on the host then.
pub async fn run(origin: Origin, config: Config, keep_on_exit: bool) -> anyhow::Result<()> {
    observe::capabilities::check()?;
    let now = links::snapshot().await.context("cannot read this host's interfaces")?;
    check_host(&config, &now)?;
    check_host_ports(&config)?;
    election::check(&config)?;
    let dir = run_dir();
    let instance = InstanceLock::acquire(&dir, &config.instance)?;
    let locks = VipLocks::acquire(&dir, &config.instance, config.vips.iter().copied())?;
    let socket = AgentSocket::bind(&dir, &config.instance).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    for notice in &config.notices {
        warn!("{notice}");
    }
    let config = Arc::new(config);
    let config_path = PathBuf::from(origin.name());
    let mut files = file::watch(origin, Arc::clone(&config));
    let (wanted, asked) = watch::channel(plan::wanted(&config).collect());
    let (targets, aimed) = watch::channel(Targets::default());
    let (probes, voice) = probes::follow(aimed);
    let (checks, to_check) = watch::channel(plan::checks(&config));
    let mut driver = Driver::open(&config.instance, &config.limits);
    let voices = driver.voices();
    let mut election = match Election::start(&config, driver.fence()).await {
        Ok(election) => election,
        Err(error) => {
            driver.close();
            drop((socket, locks, instance));
            // Other instances may be using it.
            let _ = std::fs::remove_dir(&dir);
            return Err(error);
        }
    };
    let peers = peers(&config, &mut election, &mut driver);
    let mut hand = driver.hand();
    let mut agent = Agent {
        addresses: Addresses::new(&config.instance),
        announcer: Announcer::new().context("cannot open a packet socket to announce VIPs")?,
        locks,
        links: links::follow().await?,
        hops: neighbours::follow(asked).await?,
        wanted,
        probes: probes.clone(),
        targets,
        voice,
        health: health::follow(to_check),
        checks,
        election,
        written: Arc::clone(&config),
        leaving: false,
        state: Arc::new(Mutex::new(State {
            config_path,
            config,
            refused: None,
            desired: Desired::default(),
            links: now,
            probes,
            driver,
            proxies: Proxies::default(),
            failures: Vec::new(),
            foreign: Vec::new(),
            quorum: None,
            peers,
            conflicts: Conflicts::default(),
            ready: false,
        })),
    };
    let (claims, mut heard) = mpsc::channel(CLAIMS);
    let listener = voices.map(|voices| tokio::spawn(observe::voices::listen(voices, claims)));
    let (state, orders) = (Arc::clone(&agent.state), agent.election.orders());
    let publisher = tokio::spawn(async move {
        socket.serve(|request| requests::reply(&state, orders.as_ref(), request)).await;
    });

    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ending = loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => {
                let keep = keep_on_exit || agent.state.lock().await.config.keep_on_exit;
                break if keep { Ending::Keep } else { Ending::Clear };
            }
            _ = interrupt.recv() => break Ending::Clear,
            _ = beat.tick() => {
                agent.election.beat();
                agent.election.revive().await;
                if let Err(error) = hand.set() {
                    error!("writing CLOCK: {error}");
                }
                continue;
            }
            Some(read) = files.recv() => agent.take_up(read).await,
            Some(claim) = heard.recv() => {
                agent.defend(claim).await;
                continue;
            }
            () = agent.election.changed() => {}
            Ok(()) = agent.links.changed() => {}
            Ok(()) = agent.hops.changed() => {}
            Ok(()) = agent.probes.changed() => {}
            Ok(()) = agent.health.changed() => {}
            _ = look.tick() => {}
        }
        if !agent.reconcile().await {
            look.reset_after(RETRY);
        }
        agent.election.beat();
    };
    publisher.abort();
    if let Some(listener) = listener {
        listener.abort();
    }
    // The publisher's socket and its share of the state go with it.
    let _ = publisher.await;
    agent.hand_over().await;
    match ending {
        Ending::Clear => {
            info!("ending: the host is left as it was found");
            agent.leave().await;
        }
        Ending::Keep => {
            info!(
                "ending: the data plane stays for the next agent (`kube-vip cleanup` removes it)"
            );
            agent.keep().await;
        }
    }
    drop(instance);
    // Other instances may be using it.
    let _ = std::fs::remove_dir(&dir);
    Ok(())
}

impl Agent {
    /// Takes up a changed file, or refuses it whole.
    async fn take_up(&mut self, read: Result<Config, ConfigError>) {
        let links = self.links.borrow_and_update().clone();
        let mut state = self.state.lock().await;
        match read.map_err(anyhow::Error::from).and_then(|new| {
            check_host(&new, &links)?;
            check_host_ports(&new)?;
            check_change(&new, &self.written)?;
            self.locks.change(new.vips.iter().copied())?;
            Ok(new)
        }) {
            Ok(mut new) => {
                for notice in &new.notices {
                    warn!("{notice}");
                }
                new.limits = state.config.limits.clone();
                info!("{} has changed: taken up", state.config_path.display());
                self.checks.send_replace(plan::checks(&new));
                self.written = Arc::new(new);
                self.election.take_up(&self.written);
                self.know_hosts(&mut state);
                state.refused = None;
            }
            Err(error) => {
                error!("refused, the old configuration stays in force: {error:#}");
                state.refused = Some(format!("{error:#}"));
            }
        }
    }

    /// Adds the hosts to the configuration that take part and that the file does not name.
    fn know_hosts(&self, state: &mut State) {
        let unnamed = self.election.unnamed();
        let mut config = Arc::clone(&self.written);
        if !unnamed.is_empty() {
            Arc::make_mut(&mut config).remote_peers.extend(unnamed);
        }
        if state.config != config {
            self.wanted.send_replace(plan::wanted(&config).collect());
            state.config = config;
        }
    }

    /// Stands up for a VIP that this host owns and somebody else claims.
    async fn defend(&mut self, claim: Claim) {
        let mut state = self.state.lock().await;
        let (address, mac) = (claim.address, claim.mac);
        let dataplane = &state.desired.dataplane;
        let owned = dataplane.vips.get(&address).is_some_and(|vip| vip.grant.is_some());
        let peer = dataplane.senders.get(&mac);
        // A new owner's announcement may be here before the log that says so: no two own it.
        if let (Some(peer), true) = (peer, state.quorum.is_some()) {
            debug!(%address, "{peer} announces it by {}", claim.by);
            return;
        }
        let of_ours = peer.is_some();
        warn!(
            %address, %mac, interface = claim.interface,
            "address conflict: somebody else claims the VIP by {}", claim.by
        );
        if state.conflicts.note(claim, of_ours || !owned, Instant::now()) {
            info!(%address, "announced once more, against {mac} (RFC 5227 §2.4)");
            self.announcer.defend(address);
        }
    }

    /// View, plan, drivers. False where something has to be tried again.
    async fn reconcile(&mut self) -> bool {
        let mut state = self.state.lock().await;
        state.links = self.links.borrow_and_update().clone();
        self.know_hosts(&mut state);
        state.quorum = self.election.member().map(Member::standing);
        let view = View {
            config: Arc::clone(&state.config),
            links: state.links.clone(),
            hops: self.hops.borrow_and_update().clone(),
            probes: self.probes.borrow_and_update().clone(),
            health: self.health.borrow_and_update().clone(),
            secret: self.election.secret(),
            standings: self.election.standings(),
        };
        let desired = plan::plan(&view);
        let mut failures = Vec::new();

        // Build: the address before anybody is told to come here.
        let built = self.addresses.build(&desired.addresses).await;
        let state = &mut *state;
        failures.extend(state.proxies.apply(&desired.proxies));
        // Switch.
        let applied = tokio::task::block_in_place(|| state.driver.apply(&desired.dataplane));
        if let (Some(peers), Ok(changes)) = (&state.peers, &applied)
            && (*changes != Default::default() || state.desired.dataplane != desired.dataplane)
            && let Some(world) = state.driver.world(&desired.dataplane, &state.config.interface)
        {
            peers.show(world);
        }
        match applied {
            Ok(changes) if changes != Default::default() => {
                info!(
                    tables = changes.tables,
                    frontends = changes.frontends,
                    vips = changes.vips,
                    "data plane changed"
                );
            }
            Ok(_) => {}
            Err(error) => failures.push(format!("{:#}", anyhow::Error::from(error))),
        }
        let uplink = state.links.get(&state.config.interface);
        let linked = uplink.is_some_and(|link| link.up && link.carrier);
        // Without the fence nothing but this process would end what it owns.
        let fenced = state.driver.is_fenced(&state.config.interface);
        self.election.set_fit(linked && fenced && !self.leaving);
        self.announcer.apply(&desired.announcements, state.config.announce_interval);
        // Remove what is old.
        let retired = self.addresses.retire(&desired.addresses).await;

        state.foreign = foreign(&built);
        failures.extend(report(built).chain(report(retired)));
        for failure in failures.iter().filter(|failure| !state.failures.contains(failure)) {
            error!("{failure}");
        }
        let targets = plan::targets(&view, &desired.dataplane);
        self.targets.send_if_modified(|aimed| {
            let changed = *aimed != targets;
            *aimed = targets;
            changed
        });
        let first = !state.ready;
        state.ready |= failures.is_empty();
        if first && state.ready {
            info!(instance = state.config.instance, "ready");
            self.voice.hello().await;
        }
        state.failures = failures;
        tell_all_down(&state.desired, &desired);
        state.desired = desired;
        state.failures.is_empty()
    }

    /// Lets the other hosts have what this one owns, and takes it out of addresses and maps.
    async fn hand_over(&mut self) {
        self.leaving = true;
        self.election.set_fit(false);
        let deadline = Instant::now() + HAND_OVER;
        while self.election.owns() {
            if timeout_at(deadline, self.election.changed()).await.is_err() {
                warn!("nobody has taken over what this host owns: it ends by its deadline");
                break;
            }
            self.reconcile().await;
        }
        let peers = self.state.lock().await.peers.clone();
        if let Some(peers) = peers {
            peers.flush(FLUSH).await;
        }
    }

    /// Leaves everything as it is but what only an agent may do. Ownership runs out by its deadline,
    /// unless the next agent goes on with it.
    async fn keep(mut self) {
        self.election.stop().await;
        self.announcer.apply(&BTreeSet::new(), Duration::from_secs(1));
        // What is not pinned, and filters at clsact, would go with the driver.
        std::mem::forget(self.state);
    }

    /// Takes back everything that was done to the host.
    async fn leave(mut self) {
        self.election.stop().await;
        // The others stop forwarding here before what they forward would be lost.
        if !self.targets.borrow().peers.is_empty() {
            self.voice.goodbye().await;
            sleep(PARTING).await;
        }
        let nothing = BTreeSet::new();
        self.announcer.apply(&nothing, Duration::from_secs(1));
        let qdiscs = match Arc::try_unwrap(self.state) {
            Ok(state) => state.into_inner().driver.close(),
            Err(_) => {
                warn!("somebody still reads the status: programs are left to the next start");
                BTreeSet::new()
            }
        };
        for error in report(self.addresses.clear().await) {
            warn!("{error}");
        }
        for ifindex in qdiscs {
            if let Err(error) = crate::source::netlink::delete_clsact(ifindex).await {
                warn!("clsact stays behind on interface {ifindex}: {error}");
            }
        }
    }
}

/// Begins to tell other agents of connections, where what this host owns may become theirs.
fn peers(config: &Config, election: &mut Election, driver: &mut Driver) -> Option<Arc<Peers>> {
    let member = election.member_mut().filter(|_| plan::replicates(config))?;
    let peers = Peers::start(member.post(), driver.travels()?);
    member.set_receiver(peers.receiver());
    Some(Arc::new(peers))
}

/// Says where all backends of a load balancer have gone down, and where some are up again.
fn tell_all_down(before: &Desired, now: &Desired) {
    for (port, frontend) in &now.dataplane.frontends {
        let before = before.dataplane.frontends.get(port).is_some_and(|old| old.all_down);
        let (address, name) = (SocketAddr::new(port.0, port.1), &frontend.name);
        match (before, frontend.all_down) {
            (false, true) => {
                warn!("{name} at {address}: all backends fail their checks, so all are kept");
            }
            (true, false) => info!("{name} at {address}: backends pass their checks again"),
            _ => {}
        }
    }
}

fn foreign(report: &Report) -> Vec<String> {
    let name = |held: &plan::HeldAddress| {
        format!("{} was on {} before, and stays when kube-vip ends", held.address, held.interface)
    };
    report.foreign.iter().map(name).collect()
}

fn report(report: Report) -> impl Iterator<Item = String> {
    report.errors.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error)))
}
