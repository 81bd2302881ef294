//! A socket that was led to a backend sees the VIP it asked for.

use kube_vip_common::client::{ClientKey, TO_VIP};

use super::Verdict;
use super::socket::{Call, Name, Named};
use crate::frame::Key as _;
use crate::maps::{self, CLIENTS};

/// Shows the VIP in place of its backend. Whose socket it is was asked when it was led.
#[inline(always)]
pub(super) fn vip<N: Named>(call: &Call) -> Verdict {
    let key = key(call.cookie(), N::name(call), call.protocol() as u8, TO_VIP);
    if let Some(end) = maps::endpoint(&CLIENTS, &key) {
        N::set(call, Name::new(&end.address, end.port));
    }
    Verdict::Proceed
}

/// A key of `CLIENTS`.
#[inline(always)]
pub(super) fn key(cookie: u64, name: Name, protocol: u8, direction: u8) -> ClientKey {
    let [high, low] = name.address;
    let [a, b] = name.port.to_ne_bytes();
    let last = u64::from_ne_bytes([a, b, protocol, direction, 0, 0, 0, 0]);
    ClientKey::from_words([cookie, high, low, last])
}
