//! Attaches the programs to an interface, as well as that goes, and says how well it went.

use std::path::Path;
use std::time::Instant;

use aya::programs::links::{FdLink, Link as _, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, xdp};

use super::object::Object;
use super::pins::Pins;
use crate::config::XdpMode;
use crate::plan::Uplink;

/// How arriving packets are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// By the kernel alone.
    None,
}

/// How leaving packets are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// At TCX. Minimum kernel: 6.6.
    Tcx,
    /// At a clsact qdisc.
    Clsact,
    /// By the kernel alone.
    None,
}

/// What an interface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Packets arrive and leave there.
    Uplink,
    /// Replies leave there: only the egress program is attached.
    Replies,
}

/// Where something is attached.
pub(super) struct Place<'a> {
    pub(super) pins: Option<&'a Pins>,
    /// Tells this instance's filters from another's.
    pub(super) tag: u32,
    /// The interface's name.
    pub(super) name: &'a str,
}

/// The programs on one interface; dropping it leaves what is pinned.
pub struct Attachment {
    /// The interface.
    pub uplink: Uplink,
    /// What it is for.
    pub role: Role,
    /// How arriving packets are handled.
    pub ingress: Ingress,
    /// How leaving packets are handled.
    pub egress: Egress,
    /// Why it is not the best of the modes.
    pub reason: Option<String>,
    /// The clsact qdisc is ours.
    pub added_clsact: bool,
    /// When it was attached, or tried to.
    pub tried: Instant,
    /// Why a native program is not tried, where another interface is the reason.
    generic: Option<String>,
    links: Vec<Hold>,
}

/// What keeps a program attached.
enum Hold {
    Pinned(PinnedLink),
    Open(#[expect(dead_code, reason = "closing it detaches the program")] FdLink),
    Egress(#[expect(dead_code, reason = "dropping it detaches the program")] SchedClassifierLink),
}

impl Attachment {
    /// Attaches to that interface. Whatever does not go is left out, with the reason. With `generic`,
    /// the reason for it, a native program is not tried.
    pub(super) fn new(
        object: &mut Object,
        place: &Place<'_>,
        uplink: &Uplink,
        role: Role,
        generic: Option<String>,
    ) -> Self {
        let mut attachment = Self {
            uplink: uplink.clone(),
            role,
            ingress: Ingress::None,
            egress: Egress::None,
            reason: None,
            added_clsact: false,
            tried: Instant::now(),
            generic: generic.filter(|_| uplink.xdp == XdpMode::Auto),
            links: Vec::new(),
        };
        attachment.complete(object, place);
        attachment
    }

    /// Attaches what is not attached yet: whoever was in the place may have left it.
    pub(super) fn complete(&mut self, object: &mut Object, place: &Place<'_>) {
        self.tried = Instant::now();
        let mut reasons: Vec<_> = self.uplink.reason.iter().chain(&self.generic).cloned().collect();
        if self.ingress == Ingress::None && self.role == Role::Uplink {
            let mode = if self.generic.is_some() { XdpMode::Generic } else { self.uplink.xdp };
            match attach_xdp(object, self.uplink.index, mode, place.pins) {
                Ok((ingress, hold, note)) => {
                    self.ingress = ingress;
                    self.links.extend(hold);
                    reasons.extend(note);
                }
                Err(error) => reasons.push(error),
            }
        }
        if self.egress == Egress::None {
            let pin = place.pins.map(|pins| pins.link("egress-tcx", self.uplink.index));
            let egress = object
                .egress()
                .map_err(|error| chain(&error))
                .and_then(|program| attach_egress(program, place.name, pin.as_deref(), place.tag));
            match egress {
                Ok((egress, hold, added)) => {
                    (self.egress, self.added_clsact) = (egress, added);
                    if let Some(pins) = place.pins.filter(|_| added) {
                        pins.note_qdisc(self.uplink.index);
                    }
                    self.links.push(hold);
                }
                Err(error) => reasons.push(format!("no program on egress: {error}")),
            }
        }
        self.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    }

    /// Whether nothing would be gained by trying again.
    pub fn is_whole(&self) -> bool {
        let ingress = self.ingress != Ingress::None
            || self.uplink.xdp == XdpMode::None
            || self.role == Role::Replies;
        ingress && self.egress != Egress::None
    }

    /// Detaches. What was there before is there again, but for a clsact qdisc of ours.
    pub fn detach(self) -> Result<(), std::io::Error> {
        let unpin = |hold| match hold {
            Hold::Pinned(link) => link.unpin().map(drop),
            _ => Ok(()),
        };
        self.links.into_iter().try_for_each(unpin)
    }
}

type XdpOutcome = (Ingress, Option<Hold>, Option<String>);

fn attach_xdp(
    object: &mut Object,
    ifindex: u32,
    mode: XdpMode,
    pins: Option<&Pins>,
) -> Result<XdpOutcome, String> {
    let program = object.xdp().map_err(|error| chain(&error))?;
    let modes: &[Mode] = match mode {
        XdpMode::None => &[],
        XdpMode::Native => &[NATIVE],
        XdpMode::Generic => &[GENERIC],
        XdpMode::Auto => &[NATIVE, GENERIC],
    };
    let pin = |mode: &Mode| pins.map(|pins| pins.link(mode.pin, ifindex));
    // The mode of a link cannot be changed: one that is not wanted any more makes room.
    for mode in [NATIVE, GENERIC].iter().filter(|mode| !modes.contains(mode)) {
        if let Some(pin) = pin(mode) {
            let _ = std::fs::remove_file(pin);
        }
    }
    for mode in modes {
        if let Some(link) = pin(mode).and_then(|pin| adopt(&pin))
            && let Ok(link) = XdpLink::try_from(link)
            && let Ok(id) = program.attach_to_link(link)
        {
            return Ok((mode.ingress, Some(hold_xdp(program, id, pin(mode).as_deref())?), None));
        }
    }
    let mut notes = Vec::new();
    for mode in modes {
        match program.attach_to_if_index(ifindex, mode.xdp) {
            Ok(id) => {
                let note = (!notes.is_empty()).then(|| notes.join("; "));
                let hold = hold_xdp(program, id, pin(mode).as_deref())?;
                return Ok((mode.ingress, Some(hold), note));
            }
            Err(error) if taken(&error) => {
                return Err("another XDP program is attached (`bpftool net` shows it) and stays; \
                            the kernel answers for the VIPs, and nothing is balanced"
                    .into());
            }
            Err(error) => notes.push(format!("{}: {}", mode.pin, chain(&error))),
        }
    }
    if modes.is_empty() {
        notes.push("xdpMode: none".into());
    }
    Err(notes.join("; "))
}

/// A way to attach an XDP program.
#[derive(PartialEq, Eq)]
struct Mode {
    ingress: Ingress,
    xdp: xdp::XdpMode,
    pin: &'static str,
}

const NATIVE: Mode =
    Mode { ingress: Ingress::Native, xdp: xdp::XdpMode::Driver, pin: "xdp-native" };
const GENERIC: Mode =
    Mode { ingress: Ingress::Generic, xdp: xdp::XdpMode::Skb, pin: "xdp-generic" };

/// Whether somebody else's program is in the place.
fn taken(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return false;
    };
    matches!(error.io_error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// The link that an earlier agent pinned there.
fn adopt(pin: &Path) -> Option<FdLink> {
    let link = PinnedLink::from_pin(pin).ok()?;
    // The pin goes and comes back: aya has no other way from a pinned link to its descriptor. The
    // link itself stays attached, because its descriptor is open.
    link.unpin().ok()
}

/// Keeps a link, pinned where there is a place for it.
fn hold(link: FdLink, pin: Option<&Path>) -> Result<Hold, String> {
    match pin {
        Some(pin) => link.pin(pin).map(Hold::Pinned).map_err(|error| chain(&error)),
        None => Ok(Hold::Open(link)),
    }
}

/// A link through netlink (aya makes one where the kernel refuses others) is not kept: it could not
/// be pinned, and every kernel we support has better ones. Dropping it detaches it.
fn hold_xdp(program: &mut Xdp, id: xdp::XdpLinkId, pin: Option<&Path>) -> Result<Hold, String> {
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    hold(FdLink::try_from(link).map_err(|error| chain(&error))?, pin)
}

/// Of TCX and clsact, which newer kernels have both; the variable is for tests of the older ones' way.
fn clsact_wanted() -> bool {
    std::env::var_os("KUBE_VIP_EGRESS").is_some_and(|way| way == "clsact")
}

type EgressOutcome = (Egress, Hold, bool);

fn attach_egress(
    program: &mut SchedClassifier,
    name: &str,
    pin: Option<&Path>,
    instance: u32,
) -> Result<EgressOutcome, String> {
    if clsact_wanted() {
        let _ = pin.map(std::fs::remove_file);
        return attach_clsact(program, name, instance);
    }
    let adopted = pin.and_then(adopt).and_then(|link| SchedClassifierLink::try_from(link).ok());
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = match adopted {
        Some(link) => program.attach_to_link(link).ok(),
        None => program.attach_with_options(name, TcAttachType::Egress, tcx).ok(),
    };
    let Some(id) = id else {
        return attach_clsact(program, name, instance);
    };
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    let link = FdLink::try_from(link).map_err(|error| chain(&error))?;
    Ok((Egress::Tcx, hold(link, pin)?, false))
}

/// Priority of our filters; each instance's has a handle of its own there.
const PRIORITY: u16 = 4989;

/// For older kernels. What a killed agent left is replaced in its place: without a link nothing
/// else tells it from another instance's.
fn attach_clsact(
    program: &mut SchedClassifier,
    name: &str,
    instance: u32,
) -> Result<EgressOutcome, String> {
    let failed = |error: ProgramError| chain(&error);
    let (at, handle) = (TcAttachType::Egress, TcHandle::from(instance));
    let added = qdisc_add_clsact(name).is_ok();
    let left = SchedClassifierLink::attached(name, at, PRIORITY, handle, None);
    let id = match left.ok().and_then(|left| program.attach_to_link(left).ok()) {
        Some(id) => id,
        None => {
            let options = NlOptions { priority: PRIORITY, handle, classid: None };
            let options = TcAttachOptions::Netlink(options);
            program.attach_with_options(name, at, options).map_err(failed)?
        }
    };
    let link = program.take_link(id).map_err(failed)?;
    Ok((Egress::Clsact, Hold::Egress(link), added))
}

/// Detaches what a killed agent of that instance left at an interface's clsact; whether there was
/// anything.
pub(super) fn detach_clsact(name: &str, instance: u32) -> Result<bool, String> {
    let (at, handle) = (TcAttachType::Egress, TcHandle::from(instance));
    match SchedClassifierLink::attached(name, at, PRIORITY, handle, None) {
        Ok(left) => match left.detach() {
            Ok(()) => Ok(true),
            // Nobody asks the kernel before whether it is there.
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(chain(&error)),
        },
        // The interface is gone, and its filters with it.
        Err(_) => Ok(false),
    }
}

/// No such filter, no such qdisc, or no such interface any more.
fn is_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    let missing = |code| matches!(code, libc::ENOENT | libc::EINVAL | libc::ENODEV);
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let io = error.downcast_ref::<std::io::Error>();
        io.and_then(std::io::Error::raw_os_error).is_some_and(missing)
    })
}

/// An error with its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
