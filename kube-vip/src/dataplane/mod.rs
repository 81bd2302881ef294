//! Driver: the kernel programs and their maps.

mod attach;
mod boot_time;
pub(crate) mod cgroup;
mod clock;
mod closed;
pub mod counters;
mod driver;
mod history;
mod ids;
mod interfaces;
mod leases;
mod object;
mod pins;
mod places;
mod records;
mod removal;
mod sync;
mod sys;
mod tables;
mod world;

pub use attach::{Attachment, Egress, Ingress};
pub use boot_time::boot_time;
pub use cgroup::Sockets;
pub use clock::Hand;
pub use driver::{Driver, DriverError, Voices};
pub use ids::Full;
pub use leases::{Fence, FenceError, Term};
pub use object::{LoadError, Maps, Object, event};
pub use records::{Flow, Key, Link, Put, Records, Translation, Travels};
pub use removal::{Left, left_instances, remove_left};
pub use sync::{Changes, Mirror, Port, Server, SyncError};
pub use sys::{SysError, poll};
pub use world::{Balanced, World};
