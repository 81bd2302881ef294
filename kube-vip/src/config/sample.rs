//! A file to begin with.

/// What `kube-vip sample config` prints.
pub const SAMPLE: &str = include_str!("sample.yaml");
