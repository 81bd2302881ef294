//! Wrappers for measuring.
#![no_std]
#![no_main]
use kube_vip_ebpf as _;
