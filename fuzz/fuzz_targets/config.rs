//! Any bytes as a configuration file: an answer on one line, never a panic.
#![no_main]

use kube_vip::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = Config::parse_bytes(bytes, "f", "host") {
        assert!(!error.to_string().contains('\n'));
    }
});
