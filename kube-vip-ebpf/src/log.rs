//! Log lines for people, on rare paths only, switched by the agent at run time.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::info;
use kube_vip_common::settings;
use kube_vip_common::stats::Reason;

use crate::maps::SETTINGS;

/// Logs that a frame from `mac` met this end.
#[inline(always)]
pub fn rare(ctx: &XdpContext, reason: Reason, mac: [u8; 6]) {
    if SETTINGS.get(0).is_some_and(|settings| settings.flags & settings::LOG != 0) {
        write(XdpContext::new(ctx.ctx), reason as u32, mac);
    }
}

#[inline(never)]
fn write(ctx: XdpContext, reason: u32, mac: [u8; 6]) {
    info!(&ctx, "reason {} from {:mac} on interface {}", reason, mac, ctx.ingress_ifindex());
}
