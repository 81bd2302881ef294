//! Sequences of what happens to a few hosts, out of a number.

pub(crate) mod frame;
pub(crate) mod frames;
pub(crate) mod random;
pub(crate) mod world;

use self::frame::Frame;
use self::frames::Traffic;
use self::random::Random;
use self::world::{HOSTS, World};
use crate::reference::host::Configuration;

/// What a backend sends when a packet has reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Nothing,
    /// What the protocol asks for.
    Ordinary,
    /// The same, cut short by so many bytes.
    Cut(usize),
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A frame arrives at a host. What the host sends on arrives where it is sent.
    Arrive { host: usize, frame: Frame, answer: Answer },
    /// A frame leaves a host.
    Leave { host: usize, frame: Frame },
    /// The agent of a host writes something else.
    Configure { host: usize, configuration: Box<Configuration> },
}

#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) hosts: Vec<Configuration>,
    pub(crate) steps: Vec<Step>,
}

impl Sequence {
    /// The sequence of that number.
    pub(crate) fn random(seed: u64, steps: usize) -> Self {
        let random = &mut Random::new(seed);
        let mut world = World::random(random);
        let hosts = (0..HOSTS).map(|host| world.configuration(host, random)).collect();
        let mut traffic = Traffic::new(&world, random);
        let mut all = Vec::with_capacity(steps);
        while all.len() < steps {
            if random.percent(1) {
                world = world.changed(random);
                // Not all hosts learn of it.
                for host in 0..HOSTS {
                    if random.percent(75) {
                        let configuration = Box::new(world.configuration(host, random));
                        all.push(Step::Configure { host, configuration });
                    }
                }
                traffic = Traffic::new(&world, random);
                continue;
            }
            let host = random.below(HOSTS);
            if random.percent(22) {
                all.push(Step::Leave { host, frame: traffic.leaving(host, random) });
            } else {
                let answer = match random.below(20) {
                    0..8 => Answer::Nothing,
                    19 => Answer::Cut(1 + random.below(24)),
                    _ => Answer::Ordinary,
                };
                all.push(Step::Arrive { host, frame: traffic.arriving(host, random), answer });
            }
        }
        Self { hosts, steps: all }
    }
}
