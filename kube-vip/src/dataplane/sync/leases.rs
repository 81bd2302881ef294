//! Places in `LEASES`, which only the fence writes.

use super::{Mirror, SyncError};
use crate::plan::{DataPlane, Grant};

/// No place, of an address that no lease is about.
pub(super) const NO_LEASE: u32 = u32::MAX;

/// A lease's place, its name, and its grant where this host holds it.
pub(crate) type Placed<'d> = (u32, &'d str, Option<Grant>);

impl Mirror {
    /// Gives every lease a place; each with that and its grant.
    ///
    /// # Errors
    ///
    /// There is no place left.
    pub fn number_leases<'d>(
        &mut self,
        desired: &'d DataPlane,
    ) -> Result<Vec<Placed<'d>>, SyncError> {
        // What an earlier agent had goes on where its programs look for it.
        for (address, vip) in desired.vips.iter().filter(|(_, vip)| !vip.host_address) {
            if let Some(index) = self.leftover_leases.remove(address)
                && self.leases.get(&vip.lease).is_none()
            {
                self.leases.adopt(vip.lease.clone(), index);
            }
        }
        let leases = desired.leases().into_iter();
        let number = |(lease, grant): (&'d str, _)| {
            Ok((self.leases.get_or_take(&lease.to_owned(), "VIPs")?, lease, grant))
        };
        leases.map(number).collect()
    }

    /// Leases that are there no more, with their places.
    pub fn lost_leases(&self, desired: &DataPlane) -> Vec<(String, u32)> {
        let wanted = desired.leases();
        let known = self.leases.iter();
        let lost = known.filter(|(lease, _)| !wanted.contains_key(lease.as_str()));
        lost.map(|(lease, index)| (lease.clone(), index)).collect()
    }

    pub(super) fn release_leases(&mut self, desired: &DataPlane) {
        for (lease, _) in self.lost_leases(desired) {
            self.leases.release(&lease);
        }
    }
}
