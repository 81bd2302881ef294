//! Another agent's probes, answered by the data plane.

use kube_vip_common::hash::HASH_VERSION;
use kube_vip_common::probe::{Kind, Message, VERSION};
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const ASKER: u16 = 40000;

fn question() -> Message {
    Message {
        kind: Kind::Question,
        hash: 7,
        nonce: 0x1122_3344_5566_7788,
        digest: 9,
        age: 0,
        version: [1, 2, 3],
    }
}

fn asking(v6: bool, message: &Message, padding: usize) -> Packet {
    let data = [message.words().concat(), vec![0; padding]].concat();
    Packet::udp(v6, (ASKER, PROBE), &data).between(peer(v6), host(v6)).link(PEER, HOST)
}

fn answer(age: u32) -> Message {
    let Message { nonce, .. } = question();
    Message { kind: Kind::Answer, hash: HASH_VERSION, nonce, digest: DIGEST, age, version: VERSION }
}

fn answering(v6: bool, age: u32) -> Vec<u8> {
    Packet::udp(v6, (PROBE, ASKER), &answer(age).words().concat())
        .between(host(v6), peer(v6))
        .link(HOST, PEER)
        .fresh()
        .frame()
}

#[test]
fn peers_are_answered() {
    for desired in [held, elsewhere, nowhere] {
        let mut kernel = Kernel::new(&desired(everywhere(&[])));
        kernel.wind_clock();
        for v6 in FAMILIES {
            // However long the question is.
            for padding in [0, 1, 3, 1000, 1432] {
                let frame = asking(v6, &question(), padding).frame();
                let outcome = kernel.xdp(&frame);
                // The clock may have moved on meanwhile.
                let expected = [0, 1, 2]
                    .map(|age| answering(v6, age))
                    .into_iter()
                    .find(|f| *f == outcome.frame);
                let expected = expected.unwrap_or_else(|| answering(v6, 0));
                outcome.transmitted(&expected, &[Reason::ProbeAnswered]);
            }
        }
    }
}

#[test]
fn answer_says_for_how_long_there_has_been_no_agent() {
    let mut kernel = Kernel::new(&held(everywhere(&[])));
    // Nobody has moved the clock since the machine was started.
    let up = std::fs::read_to_string("/proc/uptime").expect("uptime");
    let up: f64 = up.split(' ').next().expect("a word").parse().expect("seconds");
    for v6 in FAMILIES {
        let (_, frame) = kernel.run_xdp(&asking(v6, &question(), 0).frame());
        let age = u32::from_be_bytes(frame[frame.len() - 8..][..4].try_into().expect("a word"));
        assert!((f64::from(age) - up).abs() < 60.0, "{age} s, up for {up} s");
        assert_eq!(frame, answering(v6, age));
    }
}

#[test]
fn everything_else_at_that_port_is_the_kernels() {
    let mut kernel = Kernel::new(&held(everywhere(&[])));
    for v6 in FAMILIES {
        let asked = asking(v6, &question(), 0);
        let said = |kind| asking(v6, &Message { kind, ..question() }, 0);
        let mut others = vec![
            said(Kind::Answer),
            said(Kind::Hello),
            said(Kind::Goodbye),
            asked.clone().between(client(v6), host(v6)),
            asked.clone().ports(ASKER, PROBE + 1),
            asked.clone().link(PEER, STRANGER),
            Packet { data: asked.data[..31].to_vec(), ..asked.clone() },
            Packet { data: vec![0; 32], ..asked.clone() },
            Packet::tcp(v6, (ASKER, PROBE), SYN, b"").between(peer(v6), host(v6)).link(PEER, HOST),
        ];
        if !v6 {
            others.push(asked.clone().options(&[1; 4]));
            others.push(asked.clone().fragment(MF));
        }
        for other in others {
            kernel.xdp(&other.frame()).untouched(&other.frame());
        }
    }
    // Without other hosts nothing is asked.
    let mut alone = held(everywhere(&[]));
    alone.nodes.remove("peer");
    kernel.apply(&alone);
    let frame = asking(false, &question(), 0).frame();
    kernel.xdp(&frame).untouched(&frame);
}
