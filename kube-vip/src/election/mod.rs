//! Who owns the VIPs.
//!
//! An election says where this host stands ([`Standing`](crate::view::Standing)), which becomes part
//! of the view, and extends the lease in the kernel for as long as its own right lasts. Elections
//! among hosts and by Kubernetes Lease come in as files beside [`fixed`].

pub mod fixed;
