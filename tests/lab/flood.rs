//! Packets with random sources, as many as one sender can make: what an attacker sends.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube_vip_common::checksum::Sum;
use nix::net::if_::if_nametoindex;

use crate::config::Transport;
use crate::frame::Mac;
use crate::host::Host;
use crate::sys;

/// Packets between two looks at the clock.
const BATCH: u32 = 32;

/// A flood, until it is dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Floods `target`, which is at `mac` on the link, from `host`: with SYNs, or with datagrams
    /// that ask who is there. `rate` is in packets a second; without one it is as fast as can be.
    pub fn start(
        host: &Host,
        mac: Mac,
        target: SocketAddr,
        transport: Transport,
        rate: Option<u64>,
    ) -> Result<Self> {
        let socket = host.in_net(|| {
            let index = if_nametoindex("eth0").context("looking for eth0")?;
            let socket = sys::packet_socket(index).context("opening a packet socket")?;
            // Nothing is read; what arrives is not to be kept for it.
            socket.set_recv_buffer_size(0)?;
            Ok(socket)
        })?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let from = host.mac();
        let send = move || {
            let (mut random, begin) = (Random(0x9e37_79b9_7f4a_7c15), Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                let sent = count.load(Ordering::Relaxed);
                let due = rate.map_or(u64::MAX, |rate| {
                    (u128::from(rate) * begin.elapsed().as_micros() / 1_000_000) as u64
                });
                if sent >= due {
                    thread::sleep(Duration::from_micros(200));
                    continue;
                }
                for _ in 0..BATCH {
                    match socket.send(&frame((mac, from), target, transport, &mut random)) {
                        Ok(_) => count.fetch_add(1, Ordering::Relaxed),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                        // The interface's queue is full: that is as fast as can be.
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                        Err(error) => return Err(error).context("flooding"),
                    };
                }
            }
            Ok(())
        };
        let thread = thread::Builder::new().name("flood".into()).spawn(send)?;
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// Packets so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; how many packets there were.
    pub fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(self.sent())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// xorshift64 (Marsaglia, 2003): any source will do.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn frame(
    (to, from): (Mac, Mac),
    target: SocketAddr,
    transport: Transport,
    random: &mut Random,
) -> Vec<u8> {
    let number = random.next().to_be_bytes();
    let [_, a, b, c, d, e, f, g] = number;
    let source = [0xc0 | f >> 2, g];
    let destination = target.port().to_be_bytes();
    let segment: Vec<u8> = match transport {
        Transport::Tcp => {
            let mut segment = [source, destination].concat();
            // Sequence number, no acknowledgement, 20 bytes of header, SYN, a window.
            segment.extend([a, b, c, d, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
            segment
        }
        Transport::Udp => {
            let mut datagram = [source, destination, [0, 11], [0, 0]].concat();
            datagram.extend(b"who");
            datagram
        }
    };
    let (protocol, check) = if transport == Transport::Tcp { (6, 16) } else { (17, 6) };
    let (mut packet, addresses) = match target.ip() {
        IpAddr::V4(vip) => {
            let length = (20 + segment.len() as u16).to_be_bytes();
            let mut header = vec![0x45, 0, length[0], length[1], e, f, 0, 0, 64, protocol, 0, 0];
            // 11.0.0.0/8 is nobody's in a lab.
            header.extend([11, b, c, d]);
            header.extend(vip.octets());
            let sum = sum(&header).checksum().to_ne_bytes();
            header[10..12].copy_from_slice(&sum);
            (header, 12)
        }
        IpAddr::V6(vip) => {
            let length = (segment.len() as u16).to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            header.extend([0xfd, 0x11, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g]);
            header.extend(vip.octets());
            (header, 8)
        }
    };
    let header = packet.len();
    packet.extend(segment);
    let pseudo = Sum::default()
        .add(u32::from_ne_bytes([0, 0, 0, protocol]))
        .add((packet.len() as u32 - header as u32).to_be());
    let sum = pseudo.join(sum(&packet[addresses..])).checksum().to_ne_bytes();
    packet[header + check..header + check + 2].copy_from_slice(&sum);
    let kind: [u8; 2] = if target.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
    [&to.0[..], &from.0, &kind, &packet].concat()
}

/// Words of four bytes, the last one filled up with zeroes.
fn sum(bytes: &[u8]) -> Sum {
    bytes.chunks(4).fold(Sum::default(), |sum, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.add(u32::from_ne_bytes(word))
    })
}
