//! Reads what the programs counted.

use aya::maps::PerCpuArray;
use aya::maps::{MapData, PerCpuValues};
use kube_vip_common::stats::{BackendTraffic, Reason, Traffic};

use super::object::Maps;

/// Counters by reason that are not zero.
pub fn reasons(maps: &Maps) -> Vec<(Reason, u64)> {
    let read = |reason: &Reason| {
        let values = maps.stats.get(&(*reason as u32), 0).ok()?;
        let sum = values.iter().map(|count| count.packets).sum();
        (sum > 0).then_some((*reason, sum))
    };
    Reason::ALL.iter().filter_map(read).collect()
}

/// What arrived for a frontend.
pub fn frontend(maps: &Maps, id: u32) -> Traffic {
    let values = maps.frontend_stats.get(&id, 0);
    values.map_or_else(
        |_| Traffic::default(),
        |values| values.iter().copied().fold(Traffic::default(), add),
    )
}

/// What went to a backend and what came back.
pub fn backend(maps: &Maps, id: u32) -> BackendTraffic {
    let Ok(values) = maps.backend_stats.get(&id, 0) else {
        return BackendTraffic::default();
    };
    values.iter().fold(BackendTraffic::default(), |sum, value| BackendTraffic {
        sent: add(sum.sent, value.sent),
        replies: add(sum.replies, value.replies),
    })
}

/// Begins at zero for something that takes a number over from something else.
pub fn clear<T: aya::Pod + Default>(map: &mut PerCpuArray<MapData, T>, id: u32) {
    // Values are one for each possible CPU; a failure leaves old counts, which is a blemish only.
    if let Ok(values) = map.get(&id, 0) {
        let zeros = values.iter().map(|_| T::default()).collect::<Vec<_>>();
        if let Ok(zeros) = PerCpuValues::try_from(zeros) {
            let _ = map.set(id, zeros, 0);
        }
    }
}

fn add(a: Traffic, b: Traffic) -> Traffic {
    Traffic { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}
