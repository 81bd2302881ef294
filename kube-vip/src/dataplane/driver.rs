//! Keeps the kernel programs and their maps as desired.

use std::collections::BTreeSet;

use aya::maps::{MapData, RingBuf};
use kube_vip_common::stats::{BackendTraffic, Reason, Traffic};
use tracing::{info, warn};

use super::attach::{Attachment, Egress};
use super::cgroup::Sockets;
use super::clock::Hand;
use super::closed::ClosedPort;
use super::counters;
use super::interfaces::{Interfaces, Means};
use super::leases::{Fence, FenceError};
use super::object::{LoadError, Object};
use super::pins::{Pins, TablePins};
use super::records::Travels;
use super::sync::{Changes, Mirror, Port, Server, SyncError};
use super::world::World;
use crate::config::Limits;
use crate::instance::tag;
use crate::observe::capabilities;
use crate::plan::DataPlane;

/// The data plane of one instance on this host.
pub struct Driver {
    kernel: Option<Kernel>,
    /// Why there are no kernel programs.
    pub unavailable: Option<String>,
    fence: Fence,
    interfaces: Interfaces,
    sockets: Sockets,
}

struct Kernel {
    object: Object,
    mirror: Mirror,
    pins: Option<Pins>,
    closed: Option<ClosedPort>,
    /// Tells this instance's filters from another's.
    tag: u32,
}

/// Why the data plane is not as desired.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A map could not be written.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// A lease could not be written.
    #[error(transparent)]
    Fence(#[from] FenceError),
}

/// What the programs tell of their own accord.
pub struct Voices {
    /// `EVENTS`.
    pub events: RingBuf<MapData>,
    /// Log lines.
    pub logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Driver {
    /// Loads the programs, or takes over what an earlier agent of this instance left in the kernel.
    /// Where that does not go the host does without, and says why.
    pub fn open(instance: &str, limits: &Limits) -> Self {
        let empty = Self {
            kernel: None,
            unavailable: None,
            fence: Fence::none(),
            interfaces: Interfaces::default(),
            sockets: Sockets::default(),
        };
        let opened = Kernel::open(instance, limits).and_then(|kernel| {
            let fence = kernel.object.maps.fence()?;
            Ok((kernel, fence))
        });
        match opened {
            Ok((kernel, fence)) => Self { kernel: Some(kernel), fence, ..empty },
            Err(error) => {
                // Not this agent's directory, and not the programs of an earlier one, which would
                // go on judging packets with nobody to tell them anything.
                if let Some(Err(error)) = Pins::of(instance).map(|pins| pins.remove()) {
                    warn!("pins stay behind: {error}");
                }
                let causes =
                    std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
                let mut reason = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
                if let Some(missing) = capabilities::missing_for_programs() {
                    reason = format!("{missing} ({reason})");
                }
                warn!(
                    "no kernel programs: {reason}; the kernel answers for the VIPs, nothing is balanced"
                );
                Self { unavailable: Some(reason), ..empty }
            }
        }
    }

    /// The fence, for the election.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// The hand that moves the clock, once.
    pub fn hand(&mut self) -> Hand {
        Hand::new(self.kernel.as_mut().and_then(|kernel| kernel.object.maps.clock.take()))
    }

    /// What the programs tell of their own accord, once.
    pub fn voices(&mut self) -> Option<Voices> {
        let object = &mut self.kernel.as_mut()?.object;
        Some(Voices { events: object.maps.events.take()?, logger: object.logger.take() })
    }

    /// What whoever speaks with other hosts needs, once.
    pub fn travels(&mut self) -> Option<Travels> {
        self.kernel.as_mut()?.object.maps.travels.take()
    }

    /// What the maps say now that `desired` has been applied; `interface` is the one VIPs are on.
    pub fn world(&self, desired: &DataPlane, interface: &str) -> Option<World> {
        Some(self.kernel.as_ref()?.mirror.world(desired, interface))
    }

    /// Makes everything as desired: maps, ownership, then the interfaces.
    ///
    /// # Errors
    ///
    /// What could not be written; the rest is, and the next call tries again.
    pub fn apply(&mut self, desired: &DataPlane) -> Result<Changes, DriverError> {
        let Some(kernel) = &mut self.kernel else {
            return Ok(Changes::default());
        };
        // First of all: nothing may be answered any more while the rest is being changed.
        for (lease, index) in kernel.mirror.lost_leases(desired) {
            self.fence.give_up(&lease, index)?;
        }
        for (index, lease, grant) in kernel.mirror.number_leases(desired)? {
            if grant.is_none() {
                self.fence.give_up(lease, index)?;
            }
        }
        let closed = kernel.closed.as_ref().map_or(0, ClosedPort::number);
        let changes = kernel.mirror.apply(&mut kernel.object.maps, desired, closed)?;
        let means =
            Means { object: &mut kernel.object, pins: kernel.pins.as_ref(), tag: kernel.tag };
        self.interfaces.apply(means, desired)?;
        for (index, lease, grant) in kernel.mirror.number_leases(desired)? {
            if let Some(grant) = grant {
                self.fence.take_up(lease, index, grant.epoch)?;
            }
        }
        self.sockets.apply(&mut kernel.object, kernel.pins.as_ref(), &desired.clients);
        Ok(changes)
    }

    /// The interfaces and how the programs are attached to them.
    pub fn attachments(&self) -> impl Iterator<Item = (&String, &Attachment)> {
        self.interfaces.iter()
    }

    /// Whether the egress program is at that interface: no claim to a VIP leaves there without a lease,
    /// whoever makes it.
    pub fn is_fenced(&self, interface: &str) -> bool {
        let mut attached = self.attachments().filter(|(name, _)| *name == interface);
        attached.any(|(_, at)| at.egress != Egress::None)
    }

    /// The programs for sockets of this host's processes.
    pub fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// What arrived for a frontend.
    pub fn frontend_traffic(&self, port: &Port) -> Traffic {
        let count = |kernel: &Kernel| {
            let id = kernel.mirror.frontend_id(port)?;
            Some(counters::frontend(&kernel.object.maps, id))
        };
        self.kernel.as_ref().and_then(count).unwrap_or_default()
    }

    /// What went to a backend and came back.
    pub fn backend_traffic(&self, backend: &Server) -> BackendTraffic {
        let count = |kernel: &Kernel| {
            let id = kernel.mirror.backend_id(backend)?;
            Some(counters::backend(&kernel.object.maps, id))
        };
        self.kernel.as_ref().and_then(count).unwrap_or_default()
    }

    /// Packets by what became of them.
    pub fn reasons(&self) -> Vec<(Reason, u64)> {
        self.kernel
            .as_ref()
            .map(|kernel| counters::reasons(&kernel.object.maps))
            .unwrap_or_default()
    }

    /// Takes everything out of the kernel. Returns the interfaces with a clsact qdisc of ours.
    pub fn close(mut self) -> BTreeSet<u32> {
        // Silence first.
        if let Err(error) = self.fence.give_up_all() {
            warn!("{error}");
        }
        self.sockets.detach();
        let pins = self.kernel.as_ref().and_then(|kernel| kernel.pins.as_ref());
        let mut qdiscs = pins.map(Pins::qdiscs).unwrap_or_default();
        qdiscs.extend(self.interfaces.clear());
        if let Some(pins) = self.kernel.take().and_then(|kernel| kernel.pins)
            && let Err(error) = pins.remove()
        {
            warn!("pins stay behind: {error}");
        }
        qdiscs
    }
}

impl Kernel {
    fn open(instance: &str, limits: &Limits) -> Result<Self, LoadError> {
        let mut pins = Pins::of(instance);
        if pins.is_none() {
            warn!("bpffs is not mounted at /sys/fs/bpf: the data plane ends with the agent");
        }
        let mut adopt = false;
        if let Some(found) = &pins {
            if let Err(error) = found.remove_others().and_then(|()| found.create()) {
                warn!("nothing can be pinned: {error}; the data plane ends with the agent");
                pins = None;
            } else if found.exist() {
                adopt = fits(found, limits)?;
                if !adopt {
                    warn!("what an earlier agent left has other sizes: it is replaced");
                    if let Err(error) = found.remove().and_then(|()| found.create()) {
                        warn!("{error}");
                    }
                }
            }
        }
        let object = Object::load(limits, pins.as_ref().map(Pins::maps))?;
        let mut mirror = Mirror::new(&object.maps, limits).map_err(LoadError::Mirror)?;
        if let Some(pins) = &pins {
            mirror.pin_tables(TablePins::beside(pins));
        }
        if adopt {
            info!("taking over what an earlier agent left");
            mirror.recover(&object.maps);
        }
        let closed =
            ClosedPort::take().inspect_err(|error| warn!("no port to refuse with: {error}")).ok();
        Ok(Self { object, mirror, pins, closed, tag: tag(instance) })
    }
}

/// Whether the pinned maps are what new ones would be.
fn fits(pins: &Pins, limits: &Limits) -> Result<bool, LoadError> {
    let wanted = super::object::Unloaded::make(limits)?;
    Ok(pins.fit(|name| wanted.map(name)))
}
