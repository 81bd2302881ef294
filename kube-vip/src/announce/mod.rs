//! Driver: tells the network where a VIP is.
