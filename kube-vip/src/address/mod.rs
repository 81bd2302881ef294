//! Driver: VIPs as local addresses of the owner.
