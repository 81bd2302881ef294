//! Machines with drifting clocks, a network with faults, and true time. Checks at every write into
//! a kernel that nobody else owns the VIP at that instant.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::IpAddr;

use kube_vip_quorum::cluster::{Command, Host, NodeId, Vip};
use kube_vip_quorum::grant::{Lease, Voters};
use kube_vip_quorum::time::{Boot, Timing};

use crate::host::{EVERYBODY, Effects, Message, Process};
use crate::raft::{Disk, Entry, Payload};
use crate::rng::Rng;

pub(crate) const MS: u64 = 1_000_000;

/// What is broken on purpose, to see that the checks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The programs in the kernel do not look at the deadline.
    DeadlineIgnored,
    /// A leader takes its heartbeats for acknowledged by everybody.
    LeaderNeedsNoQuorum,
    /// Voters vote at any time.
    VotersDoNotWithhold,
    /// Voters forget at a restart that they may have acknowledged something.
    VotersForgetAtStart,
    /// A host counts what remains from when the answer came.
    CountsFromTheAnswer,
    /// A named successor moves VIPs as if it had been elected.
    SuccessorMovesAtOnce,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The process dies; the kernel goes on.
    Kill {
        machine: usize,
        down: u64,
    },
    /// Kernel and clock begin anew.
    Reboot {
        machine: usize,
        down: u64,
    },
    /// The process is stopped as planned, and started again.
    Stop {
        machine: usize,
        down: u64,
    },
    LoseDisk {
        machine: usize,
        down: u64,
    },
    Freeze {
        machine: usize,
        length: u64,
    },
    /// Nothing gets from one to the other.
    Cut {
        from: usize,
        to: usize,
        length: u64,
    },
    /// Nothing gets in, or out, or both.
    Isolate {
        machine: usize,
        inward: bool,
        outward: bool,
        length: u64,
    },
    /// All links lose and delay.
    Weather {
        loss: u64,
        delay: u64,
        length: u64,
    },
    /// A clock changes its speed, by so many millionths.
    Drift {
        machine: usize,
        millionths: i64,
    },
    /// A machine's uplink has no carrier.
    Carrier {
        machine: usize,
        fit: bool,
    },
    Move {
        vip: u8,
        to: usize,
    },
}

#[derive(Debug)]
enum Event {
    Deliver { to: usize, from: NodeId, message: Message },
    Tick { machine: usize, life: u32 },
    Write { machine: usize, life: u32, leases: Vec<Lease> },
    Start { machine: usize, life: u32 },
    Thaw { machine: usize },
    Mend { from: usize, to: usize },
    Fair { weather: u32 },
    Fault(Fault),
}

#[derive(Debug)]
struct Machine {
    id: NodeId,
    name: String,
    /// True time and boot time at the last change of speed, and the speed since.
    clock: (u64, u64, i64),
    kernel: BTreeMap<IpAddr, Lease>,
    disk: Disk,
    process: Option<Process>,
    /// How long it is down after a planned stop.
    down: u64,
    /// Counts starts, so that what belongs to an earlier one is dropped.
    life: u32,
    frozen_until: u64,
    /// Writes happen in order.
    wrote_until: u64,
    waiting: Vec<(NodeId, Message)>,
}

impl Machine {
    fn now(&self, time: u64) -> Boot {
        let (true_then, boot_then, millionths) = self.clock;
        let passed = i128::from(time - true_then);
        Boot(boot_then + (passed + passed * i128::from(millionths) / 1_000_000) as u64)
    }
}

pub(crate) struct World {
    pub(crate) time: u64,
    pub(crate) rng: Rng,
    timing: Timing,
    mutation: Option<Mutation>,
    machines: Vec<Machine>,
    vips: Vec<IpAddr>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    cut: BTreeMap<(usize, usize), u32>,
    weather: (u64, u64, u32),
    /// Now and then a process sleeps between what it has decided and the kernel's knowing.
    pub(crate) stalls: bool,
    next_id: NodeId,
    committed: Vec<Entry>,
    violation: Option<String>,
    pub(crate) trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, hosts: usize, vips: u8, mutation: Option<Mutation>) -> Self {
        let mut rng = Rng(seed);
        let vips: Vec<_> = (1..=vips).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let ids: BTreeSet<NodeId> = (1..=hosts as NodeId).collect();
        let mut payloads = vec![Payload::Voters(Voters::new([ids.clone()]))];
        for node in &ids {
            let host = Host { name: format!("n{node}"), weight: 1, ..Host::default() };
            payloads.push(Payload::Command(Command::Host { node: *node, host }));
        }
        let list = vips.iter().map(|vip| (*vip, Vip::default())).collect();
        payloads.push(Payload::Command(Command::Vips(list)));
        let entry = |payload| Entry { tenure: Default::default(), payload };
        let disk = Disk { log: payloads.into_iter().map(entry).collect(), ..Disk::default() };
        let machine = |id: NodeId, rng: &mut Rng| Machine {
            id,
            name: format!("n{id}"),
            clock: (0, rng.between(1, 1000) * 1000 * MS, rng.between(0, 20_001) as i64 - 10_000),
            kernel: BTreeMap::new(),
            disk: disk.clone(),
            process: None,
            down: 0,
            life: 0,
            frozen_until: 0,
            wrote_until: 0,
            waiting: Vec::new(),
        };
        let machines: Vec<_> = ids.iter().map(|id| machine(*id, &mut rng)).collect();
        let mut world = Self {
            time: 0,
            rng,
            timing: Timing::default(),
            mutation,
            machines,
            vips,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            cut: BTreeMap::new(),
            weather: (0, 2 * MS, 0),
            stalls: false,
            next_id: 100,
            committed: Vec::new(),
            violation: None,
            trace: None,
        };
        for machine in 0..hosts {
            world.later(0, Event::Start { machine, life: 1 });
            world.machines[machine].life = 1;
        }
        world
    }

    pub(crate) fn schedule(&mut self, at: u64, fault: Fault) {
        self.later(at - self.time, Event::Fault(fault));
    }

    /// Runs until that time, or until a check fails.
    pub(crate) fn run(&mut self, until: u64) -> Result<(), String> {
        while let Some(Reverse((at, _))) = self.queue.peek().copied()
            && at <= until
        {
            let Some(Reverse((at, sequence))) = self.queue.pop() else { break };
            self.time = at;
            if let Some(event) = self.events.remove(&sequence) {
                self.happen(event);
            }
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        self.time = until;
        Ok(())
    }

    /// Ends what is wrong: links, weather, speeds stay what they are.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.stalls = false;
        self.weather = (0, 2 * MS, self.weather.2 + 1);
        for machine in 0..self.machines.len() {
            self.thaw(machine);
            self.fault(Fault::Carrier { machine, fit: true });
        }
    }

    /// Which machines own a VIP at this instant.
    pub(crate) fn owners(&self, vip: IpAddr) -> Vec<usize> {
        let owns = |machine: &Machine| {
            let lease = machine.kernel.get(&vip);
            lease.is_some_and(|lease| match self.mutation {
                Some(Mutation::DeadlineIgnored) => lease.until > Boot(0),
                _ => lease.holds_at(machine.now(self.time)),
            })
        };
        (0..self.machines.len()).filter(|machine| owns(&self.machines[*machine])).collect()
    }

    pub(crate) fn vips(&self) -> &[IpAddr] {
        &self.vips
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |machine: &Machine| machine.process.as_ref().is_some_and(|it| it.raft.leads());
        self.machines.iter().position(leads)
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.time + delay, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        let time = self.time;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} ms  {}", time as f64 / MS as f64, what()));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { to, from, message } => self.deliver(to, from, message),
            Event::Tick { machine, life } => self.tick(machine, life),
            Event::Write { machine, life, leases } => self.write(machine, life, &leases),
            Event::Start { machine, life } => self.start(machine, life),
            Event::Thaw { machine } => {
                if self.machines[machine].frozen_until <= self.time {
                    self.thaw(machine);
                }
            }
            Event::Mend { from, to } => {
                let cuts = self.cut.get(&(from, to)).copied().unwrap_or(0);
                if cuts > 1 {
                    self.cut.insert((from, to), cuts - 1);
                } else {
                    self.cut.remove(&(from, to));
                }
            }
            Event::Fair { weather } if weather == self.weather.2 => {
                self.weather = (0, 2 * MS, weather);
            }
            Event::Fair { .. } => {}
            Event::Fault(fault) => {
                self.say(|| format!("{fault:?}"));
                self.fault(fault);
            }
        }
    }

    fn start(&mut self, at: usize, life: u32) {
        let rng = Rng(self.rng.next());
        let (time, timing, mutation) = (self.time, self.timing, self.mutation);
        let machine = &mut self.machines[at];
        if machine.life != life || machine.process.is_some() {
            return;
        }
        let now = machine.now(time);
        let disk = machine.disk.clone();
        let process = Process::start(machine.id, &machine.name, disk, timing, mutation, now, rng);
        machine.process = Some(process);
        machine.frozen_until = 0;
        self.later(0, Event::Tick { machine: at, life });
        self.say(|| format!("n{} starts", at + 1));
    }

    fn tick(&mut self, at: usize, life: u32) {
        if self.machines[at].life != life {
            return;
        }
        let pause = self.rng.between(2 * MS, 6 * MS);
        self.later(pause, Event::Tick { machine: at, life });
        self.step(at, Process::tick);
        if self.machines[at].process.as_ref().is_some_and(|process| process.left) {
            self.say(|| format!("n{} has left", at + 1));
            let down = self.machines[at].down;
            self.end(at, down);
        }
    }

    /// Lets a process do something, unless it is frozen or dead.
    fn step(&mut self, at: usize, act: impl FnOnce(&mut Process, Boot) -> Effects) {
        let time = self.time;
        let machine = &mut self.machines[at];
        let now = machine.now(time);
        if machine.frozen_until > time {
            return;
        }
        let Some(process) = &mut machine.process else { return };
        let led = process.raft.leads();
        let effects = act(process, now);
        // What the process holds to be on disk is written before anything that says so leaves.
        machine.disk = process.raft.disk.clone();
        let leads = process.raft.leads();
        if leads != led {
            self.say(|| format!("n{} {}", at + 1, if leads { "leads" } else { "leads no more" }));
        }
        self.same_log(at);
        self.perform(at, effects);
    }

    fn perform(&mut self, at: usize, effects: Effects) {
        let from = self.machines[at].id;
        if !effects.write.is_empty() {
            let life = self.machines[at].life;
            let most = if self.stalls && self.rng.permille(10) { 300 * MS } else { MS };
            let pause = self.rng.between(0, most);
            let machine = &mut self.machines[at];
            machine.wrote_until = machine.wrote_until.max(self.time + pause);
            let delay = machine.wrote_until - self.time;
            self.later(delay, Event::Write { machine: at, life, leases: effects.write });
        }
        for (to, message) in effects.send {
            self.send(at, from, to, &message);
        }
    }

    fn send(&mut self, at: usize, from: NodeId, to: NodeId, message: &Message) {
        let disk = if message.waits_for_disk() { self.rng.between(0, 8 * MS) } else { 0 };
        for target in 0..self.machines.len() {
            let meant = if to == EVERYBODY { target != at } else { self.machines[target].id == to };
            if !meant {
                continue;
            }
            let (loss, delay, _) = self.weather;
            if target != at && (self.cut.contains_key(&(at, target)) || self.rng.permille(loss)) {
                continue;
            }
            let way = if target == at { 0 } else { self.rng.between(MS / 10, delay) };
            let message = message.clone();
            self.later(disk + way, Event::Deliver { to: target, from, message });
        }
    }

    fn deliver(&mut self, to: usize, from: NodeId, message: Message) {
        if self.machines[to].process.is_none() {
            return;
        }
        if self.machines[to].frozen_until > self.time {
            self.machines[to].waiting.push((from, message));
            return;
        }
        self.step(to, |process, now| process.receive(from, message, now));
    }

    fn thaw(&mut self, at: usize) {
        self.machines[at].frozen_until = 0;
        for (from, message) in std::mem::take(&mut self.machines[at].waiting) {
            self.deliver(at, from, message);
        }
    }

    fn write(&mut self, at: usize, life: u32, leases: &[Lease]) {
        if self.machines[at].life != life {
            return;
        }
        if self.machines[at].frozen_until > self.time {
            let delay = self.machines[at].frozen_until - self.time;
            self.later(delay, Event::Write { machine: at, life, leases: leases.to_vec() });
            return;
        }
        for lease in leases {
            self.machines[at].kernel.insert(lease.vip, *lease);
            let owners = self.owners(lease.vip);
            if owners.len() > 1 {
                let names: Vec<_> = owners.iter().map(|at| format!("n{}", at + 1)).collect();
                self.violation = Some(format!(
                    "two owners of {} at {:.3} ms: {}",
                    lease.vip,
                    self.time as f64 / MS as f64,
                    names.join(", ")
                ));
            }
            self.say(|| format!("n{} writes {lease:?}", at + 1));
        }
        self.step(at, |process, now| process.written(leases, now));
    }

    /// All hosts apply the same entries in the same places.
    fn same_log(&mut self, at: usize) {
        let Some(process) = &self.machines[at].process else { return };
        let committed = process.raft.commit;
        let log = &process.raft.disk.log;
        let known = self.committed.len();
        if committed > known {
            self.committed.extend_from_slice(&log[known..committed]);
        }
        if committed > 0 && log[committed - 1] != self.committed[committed - 1] {
            self.violation = Some(format!("n{} has another entry {committed}", at + 1));
        }
    }

    fn end(&mut self, at: usize, down: u64) {
        let machine = &mut self.machines[at];
        machine.life += 1;
        machine.process = None;
        machine.waiting.clear();
        machine.frozen_until = 0;
        machine.wrote_until = 0;
        let life = machine.life;
        self.later(down, Event::Start { machine: at, life });
    }

    fn cut(&mut self, from: usize, to: usize, length: u64) {
        if from != to {
            *self.cut.entry((from, to)).or_default() += 1;
            self.later(length, Event::Mend { from, to });
        }
    }

    fn fault(&mut self, fault: Fault) {
        let time = self.time;
        match fault {
            Fault::Kill { machine, down } => self.end(machine, down),
            Fault::Reboot { machine, down } => {
                self.end(machine, down);
                let machine = &mut self.machines[machine];
                machine.kernel.clear();
                machine.clock = (time, 0, machine.clock.2);
            }
            Fault::Stop { machine, down } => {
                self.step(machine, Process::leave);
                self.machines[machine].down = down;
            }
            Fault::LoseDisk { machine, down } => {
                let settled = self.committed.iter().rev().find_map(|entry| match &entry.payload {
                    Payload::Voters(voters) => Some(voters.clone()),
                    _ => None,
                });
                let voters = settled.unwrap_or_default();
                // More disks than that are not survived by any log.
                if voters.sets().len() == 1 && self.machines.iter().all(|it| voters.contains(it.id))
                {
                    self.end(machine, down);
                    self.next_id += 1;
                    let machine = &mut self.machines[machine];
                    machine.disk = Disk::default();
                    machine.id = self.next_id;
                }
            }
            Fault::Freeze { machine, length } => {
                let until = &mut self.machines[machine].frozen_until;
                *until = (*until).max(time + length);
                self.later(length, Event::Thaw { machine });
            }
            Fault::Cut { from, to, length } => self.cut(from, to, length),
            Fault::Isolate { machine, inward, outward, length } => {
                for other in 0..self.machines.len() {
                    if inward {
                        self.cut(other, machine, length);
                    }
                    if outward {
                        self.cut(machine, other, length);
                    }
                }
            }
            Fault::Weather { loss, delay, length } => {
                let number = self.weather.2 + 1;
                self.weather = (loss, delay, number);
                self.later(length, Event::Fair { weather: number });
            }
            Fault::Drift { machine, millionths } => {
                let machine = &mut self.machines[machine];
                machine.clock = (time, machine.now(time).0, millionths);
            }
            Fault::Carrier { machine, fit } => {
                self.step(machine, |process, _| {
                    process.set_fit(fit);
                    Effects::default()
                });
            }
            Fault::Move { vip, to } => {
                let vip = self.vips[usize::from(vip) % self.vips.len()];
                let name = self.machines[to].name.clone();
                if let Some(leader) = self.leader() {
                    self.step(leader, |process, now| {
                        process.move_to(vip, &name, now);
                        Effects::default()
                    });
                }
            }
        }
    }
}
