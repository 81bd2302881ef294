//! Driver: the kernel programs and their maps.

pub mod counters;
mod ids;
pub mod leases;
pub mod object;
mod places;
mod sync;
mod sys;
mod tables;

pub use ids::Full;
pub use leases::{Fence, FenceError};
pub use object::{LoadError, Maps, Object};
pub use sync::{Changes, LEASE, Mirror, Port, SyncError};
pub use sys::{SysError, boot_time};
