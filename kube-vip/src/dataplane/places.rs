//! `FRONTEND_IDS` and `FRONTEND_LIST`: what is in `FRONTENDS`, where packets find it faster.
//!
//! Neither is needed for a packet to go the right way, so the order of writing is all there is to
//! care for: a place leads nowhere while what it leads to is written.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::AsFd as _;

use kube_vip_common::frontend::{Frontend, FrontendKey, Listed, PLACES, place};

use super::object::Maps;
use super::sys::{SysError, update_batch};

/// Who has which place.
#[derive(Default)]
pub(super) struct Places {
    taken: BTreeMap<u32, FrontendKey>,
    /// The maps hold what `taken` says and nothing else.
    written: bool,
}

impl Places {
    /// Whether the maps may hold something else than this knows of: what an earlier agent left, or
    /// half of a failed change. Then the next change must name all frontends.
    pub(super) fn are_unknown(&self) -> bool {
        !self.written
    }

    /// Follows a change of `FRONTENDS`.
    pub(super) fn update(
        &mut self,
        maps: &Maps,
        changed: &[(FrontendKey, Frontend)],
        gone: &[FrontendKey],
    ) -> Result<(), SysError> {
        let ids = |places: &[u32], ids: &[u32]| {
            update_batch(maps.frontend_ids_fd.as_fd(), "FRONTEND_IDS", places, ids)
        };
        let known = std::mem::replace(&mut self.written, false);
        if !known {
            self.taken.clear();
            let all: Vec<u32> = (0..PLACES as u32).collect();
            ids(&all, &vec![0; PLACES])?;
        }
        let of = |key: &FrontendKey| place(key.words());
        let moving = gone.iter().chain(changed.iter().map(|(key, _)| key));
        let vacated: Vec<u32> =
            moving.filter(|key| self.taken.get(&of(key)) == Some(key)).map(of).collect();
        ids(&vacated, &vec![0; vacated.len()])?;
        for place in vacated {
            self.taken.remove(&place);
        }

        let (mut numbers, mut listed) = (Vec::new(), Vec::new());
        let (mut places, mut leads_to) = (Vec::new(), Vec::new());
        for (key, frontend) in changed {
            // Who comes second to a place is found in `FRONTENDS` alone.
            if let Entry::Vacant(place) = self.taken.entry(of(key)) {
                numbers.push(frontend.id);
                listed.push(Listed { key: *key, frontend: *frontend });
                places.push(*place.key());
                leads_to.push(frontend.id + 1);
                place.insert(*key);
            }
        }
        update_batch(maps.frontend_list_fd.as_fd(), "FRONTEND_LIST", &numbers, &listed)?;
        ids(&places, &leads_to)?;
        self.written = true;
        Ok(())
    }
}
