//! Files to begin with.

/// What `kube-vip sample config` prints.
pub const SAMPLE: &str = include_str!("sample.yaml");

/// What `kube-vip sample manifest` prints.
pub const MANIFEST: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/static-pod.yaml"));
