//! Any bytes as a server's answer to a check: a status or none, never a panic.
#![no_main]

use kube_vip::source::health::http_status;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(status) = http_status(bytes) {
        assert!(status < 1000);
    }
});
