//! Fragments: the first of a packet has the ports, the others go where it went.

use kube_vip_common::stats::Reason;

use super::balance::tunnel;
use super::host::{Fate, Host, Parts, add};
use super::packet::{Frame, Ip};
use super::{End, Verdict};

pub(super) fn parts(ip: &Ip, leaves: bool) -> Parts {
    let (source, destination) = (ip.source, ip.destination);
    Parts { leaves, source, destination, id: ip.identification() }
}

/// Whether the reason is of a packet that goes on as it was.
fn is_sent_on(reason: &Reason) -> bool {
    matches!(reason, Reason::SecondChance | Reason::StrayLed)
}

/// What has become of a first fragment that arrived. One that was refused or dropped leaves the
/// others without a way.
pub(super) fn remember(host: &mut Host, frame: &Frame, ip: &Ip, end: &End) {
    if host.is_anothers(frame.to) {
        return;
    }
    let tunnel = host.has.onward;
    let (verdict, after) = match end {
        // As it came: each gets a header of its own, and is too big by itself.
        _ if tunnel.is_some() => (Verdict::Transmit, frame),
        End::Untouched | End::Counted(_) | End::Many(_, Verdict::Pass) => (Verdict::Pass, frame),
        End::Delivered(after, _) => (Verdict::Pass, after),
        // An answer is counted as such.
        End::Changed(verdict, after, counted) if counted.iter().all(is_sent_on) => {
            (*verdict, after)
        }
        _ => {
            // Nor do others go where an earlier packet's went.
            host.has.fragments.remove(&parts(ip, false));
            return;
        }
    };
    let parse = if ip.is_v4() { Ip::parse_v4 } else { Ip::parse_v6 };
    let Some(now) = parse(&after.rest) else { return };
    // At a host's own address the kernel gets the others anyway.
    let same = verdict == Verdict::Pass && now.destination == ip.destination;
    if same && host.virtual_ip(ip.destination).is_none() {
        host.has.fragments.remove(&parts(ip, false));
        return;
    }
    let fate = Fate {
        verdict,
        source: now.source,
        destination: now.destination,
        to: after.to,
        from: after.from,
        ttl: now.ttl,
        backend: 0,
        tunnel,
    };
    host.has.fragments.insert(parts(ip, false), fate);
}

/// Another fragment arrives.
pub(super) fn follow(host: &mut Host, frame: &Frame, ip: &Ip) -> End {
    if host.is_anothers(frame.to) {
        return End::Untouched;
    }
    let Some(fate) = host.has.fragments.get(&parts(ip, false)).copied() else {
        return match host.virtual_ip(ip.destination) {
            Some(_) => End::Dropped(Reason::Fragment),
            None => End::Untouched,
        };
    };
    let mut frame = frame.clone();
    if fate.verdict != Verdict::Pass {
        if fate.to == frame.from {
            return End::Dropped(Reason::BackToSender);
        }
        (frame.to, frame.from) = (fate.to, fate.from);
    }
    let mut ip = ip.clone();
    ip.change(|ip| {
        (ip.source, ip.destination, ip.ttl) = (fate.source, fate.destination, fate.ttl);
    });
    if let Some(to) = fate.tunnel {
        frame.rest = ip.bytes();
        return tunnel(host, &frame, &ip, to).and(Reason::FragmentFollowed);
    }
    frame.rest = ip.bytes();
    End::Changed(fate.verdict, frame, vec![Reason::FragmentFollowed])
}

/// Another fragment leaves.
pub(super) fn leave(host: &mut Host, frame: &Frame, mut ip: Ip) -> End {
    let Some(fate) = host.has.fragments.get(&parts(&ip, true)).copied() else {
        return End::Untouched;
    };
    ip.change(|ip| ip.source = fate.source);
    add(&mut host.has.replied, fate.backend, 14 + frame.rest.len());
    let frame = Frame { rest: ip.bytes(), ..frame.clone() };
    End::Changed(Verdict::Pass, frame, vec![Reason::FragmentFollowed])
}
