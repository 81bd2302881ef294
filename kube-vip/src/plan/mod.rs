//! From what is known to what should be: pure, deterministic, no I/O.

mod desired;

pub use desired::{
    Announcement, Backend, DataPlane, Desired, Frontend, Grant, HeldAddress, Node, Vip, Way,
};
