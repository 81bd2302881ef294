//! What is read from outside, as functions of bytes, for fuzzers and for tests with random input.
//!
//! None may panic, whatever the bytes are.

use kube_vip_common::probe::{Message, WORDS};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;

use crate::config::Config;
use crate::dataplane::cgroup::root::mounts;
use crate::publish::{Status, Style, holder_of, render};
use crate::{dataplane, source};

/// Takes any bytes.
pub type Entry = fn(&[u8]);

/// Every entry by the name of its fuzz target.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("config", config),
    ("event", event),
    ("lock", lock),
    ("mountinfo", mountinfo),
    ("netlink", netlink),
    ("probe", probe),
    ("status", status),
];

/// The configuration file: refused on one line, or taken.
pub fn config(bytes: &[u8]) {
    if let Err(error) = Config::parse_bytes(bytes, "f", "host") {
        assert!(!error.to_string().contains('\n'));
    }
}

/// A record of the programs' ring buffer.
pub fn event(bytes: &[u8]) {
    if let Some(event) = dataplane::event(bytes) {
        let _ = format!("{event:?} {}", event.address.to_ip());
    }
}

/// A file that says who holds a lock.
pub fn lock(bytes: &[u8]) {
    let _ = holder_of(bytes).to_string();
}

/// The kernel's table of mounts, which shows names that anybody chose.
pub fn mountinfo(bytes: &[u8]) {
    let _ = mounts(&String::from_utf8_lossy(bytes));
}

/// Another agent's question or answer.
pub fn probe(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<{ WORDS * 4 }>() else {
        return;
    };
    let mut words = [[0; 4]; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(4)) {
        word.copy_from_slice(bytes);
    }
    if let Some(message) = Message::read(words) {
        assert_eq!(Message::read(message.words()), Some(message));
    }
}

/// A message of the kernel's about links, addresses, routes or neighbours.
pub fn netlink(bytes: &[u8]) {
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else {
        return;
    };
    if let NetlinkPayload::InnerMessage(message) = message.payload {
        source::read(message);
    }
}

/// What an agent answers on its socket, and what is shown of it.
pub fn status(bytes: &[u8]) {
    if let Ok(status) = serde_json::from_slice::<Status>(bytes) {
        let _ = render(&status, Style { wide: false, colour: false });
        let _ = render(&status, Style { wide: true, colour: true });
    }
}
