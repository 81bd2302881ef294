//! Frames for people.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};

use crate::reference::packet::{
    self, ACK, Content, FIN, Frame, Ip, Mac, RST, SYN, TCP, Transport, UDP,
};

pub(crate) fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// One line that says what it is, and its bytes.
pub(crate) fn frame(bytes: &[u8]) -> String {
    let mut text = format!("\n    {}", line(bytes));
    for (row, bytes) in bytes.chunks(16).take(10).enumerate() {
        let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = write!(text, "\n    {:04x}  {}", row * 16, hex.join(" "));
    }
    if bytes.len() > 160 {
        let _ = write!(text, "\n    ...   {} bytes in all", bytes.len());
    }
    text
}

/// One line.
pub(crate) fn line(bytes: &[u8]) -> String {
    let Some(frame) = Frame::parse(bytes) else { return "less than a frame".into() };
    let mut link = format!("{} > {}", mac(frame.from), mac(frame.to));
    for [a, b, c, d] in &frame.tags {
        let _ = write!(link, " tag {a:02x}{b:02x} {c:02x}{d:02x}");
    }
    let ip = match frame.kind {
        packet::IPV4 => Ip::parse_v4(&frame.rest),
        packet::IPV6 => Ip::parse_v6(&frame.rest),
        packet::ARP => return format!("{link} ARP {}", arp(&frame.rest)),
        kind => return format!("{link} EtherType {kind:04x}, {} bytes", bytes.len()),
    };
    let Some(ip) = ip else { return format!("{link} IP header cut short, {} bytes", bytes.len()) };
    let (content, at) = ip.content();
    let inner = match content {
        Content::Whole(protocol) | Content::First(protocol) => transport(protocol, ip.behind(at)),
        Content::Later => "later fragment".into(),
        Content::Malformed => "malformed".into(),
    };
    let first = if matches!(content, Content::First(_)) { " first fragment" } else { "" };
    let more = ip.header_length() + at > if ip.is_v4() { 20 } else { 40 };
    let options = if more { " with options" } else { "" };
    let Ip { source, destination, ttl, .. } = &ip;
    let length = ip.length();
    format!(
        "{link} {source} > {destination} ttl {ttl}{options}{first} {inner}, says {length} bytes, frame {}",
        bytes.len()
    )
}

fn arp(bytes: &[u8]) -> String {
    let Some(arp) = bytes.first_chunk::<28>() else { return "cut short".into() };
    let ip = |at: usize| format!("{}.{}.{}.{}", arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
    let from: Mac = *arp[8..].first_chunk().unwrap_or(&[0; 6]);
    format!("operation {} sender {} at {} target {}", arp[7], ip(14), mac(from), ip(24))
}

fn transport(protocol: u8, segment: &[u8]) -> String {
    match Transport::parse(protocol, segment) {
        Some(t) if protocol == TCP => {
            let flags = [(SYN, 'S'), (ACK, 'A'), (FIN, 'F'), (RST, 'R')];
            let flags: String =
                flags.iter().filter(|(flag, _)| t.has(*flag)).map(|(_, name)| name).collect();
            format!(
                "TCP {} > {} [{flags}] seq {} ack {}",
                t.source, t.destination, t.sequence, t.acknowledgement
            )
        }
        Some(t) => format!("UDP {} > {}", t.source, t.destination),
        None if protocol == TCP || protocol == UDP => format!("protocol {protocol} cut short"),
        None => {
            let kind = segment.first_chunk::<2>();
            format!("protocol {protocol} {kind:?}")
        }
    }
}

/// Where two frames part.
pub(crate) fn first_difference(a: &[u8], b: &[u8]) -> String {
    let at = (0..a.len().max(b.len())).find(|at| a.get(*at) != b.get(*at));
    match at {
        Some(at) => format!("first difference at byte {at:#x} ({at})"),
        None => "the frames are the same".into(),
    }
}

/// What the two have under different values.
pub(crate) fn compare<K: Ord + Debug, V: PartialEq + Debug>(
    text: &mut String,
    what: &str,
    model: &BTreeMap<K, V>,
    program: &BTreeMap<K, V>,
) {
    for (key, value) in model {
        if program.get(key) != Some(value) {
            let other = program.get(key);
            let _ = writeln!(text, "  {what} {key:?}: model {value:?}, program {other:?}");
        }
    }
    for (key, value) in program.iter().filter(|(key, _)| !model.contains_key(*key)) {
        let _ = writeln!(text, "  {what} {key:?}: model None, program {value:?}");
    }
}
