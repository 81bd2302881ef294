//! The programs on all interfaces: each where it is wanted, none where it is not, and modes that go
//! together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use kube_vip_common::address::MacAddress;
use kube_vip_common::node;
use tracing::{info, warn};

use super::attach::{Attachment, Ingress, Place, Role};
use super::object::Object;
use super::pins::Pins;
use super::sync::SyncError;
use crate::config::XdpMode;
use crate::plan::{DataPlane, Uplink};

/// An interface that could not be attached to is tried again this often.
const RETRY: Duration = Duration::from_secs(10);

/// What the programs are attached to.
#[derive(Default)]
pub(super) struct Interfaces {
    attachments: BTreeMap<String, Attachment>,
    /// The interface that turned out not to take a native program; the others are generic too then.
    generic: Option<String>,
    /// What an earlier agent left on other interfaces is gone.
    swept: bool,
}

/// What is needed to attach.
pub(super) struct Means<'a> {
    pub(super) object: &'a mut Object,
    pub(super) pins: Option<&'a Pins>,
    /// Tells this instance's filters from another's.
    pub(super) tag: u32,
}

impl Interfaces {
    /// The interfaces and how the programs are attached to them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Attachment)> {
        self.attachments.iter()
    }

    /// Attaches and detaches.
    pub(super) fn apply(
        &mut self,
        mut means: Means<'_>,
        desired: &DataPlane,
    ) -> Result<(), SyncError> {
        let wanted = wanted(desired);
        self.release(&mut means, &wanted);
        for (name, (uplink, role)) in &wanted {
            self.attach(&mut means, name, uplink, *role)?;
        }
        if let Some(name) = self.mixed() {
            warn!("{name} takes no native program: the other uplinks get generic ones too");
            self.generic = Some(name);
            let natives = self.attachments.extract_if(.., |_, at| at.ingress == Ingress::Native);
            natives.collect::<Vec<_>>().into_iter().for_each(|(name, at)| detach(&name, at));
            for (name, (uplink, role)) in &wanted {
                self.attach(&mut means, name, uplink, *role)?;
            }
        }
        Ok(())
    }

    /// Detaches from all of them.
    pub(super) fn clear(&mut self) -> BTreeSet<u32> {
        let mut qdiscs = BTreeSet::new();
        for (name, attachment) in std::mem::take(&mut self.attachments) {
            qdiscs.extend(attachment.added_clsact.then_some(attachment.uplink.index));
            detach(&name, attachment);
        }
        qdiscs
    }

    /// Detaches from those that are not as wanted, and from those an earlier agent was attached to.
    fn release(&mut self, means: &mut Means<'_>, wanted: &BTreeMap<&String, (&Uplink, Role)>) {
        let stays = |name: &String, at: &Attachment| {
            wanted.get(name).is_some_and(|(uplink, role)| **uplink == at.uplink && *role == at.role)
        };
        let mut gone: Vec<_> =
            self.attachments.extract_if(.., |name, at| !stays(name, at)).collect();
        if gone.iter().any(|(_, at)| at.role == Role::Uplink) {
            // What was generic because of it, for an earlier agent too, may be native again.
            self.generic = None;
            let auto = |at: &Attachment| at.uplink.xdp == XdpMode::Auto;
            let generic = |at: &Attachment| at.ingress == Ingress::Generic;
            gone.extend(self.attachments.extract_if(.., |_, at| auto(at) && generic(at)));
        }
        for (name, attachment) in gone {
            let _ = means.object.maps.uplinks.remove(&attachment.uplink.index);
            detach(&name, attachment);
        }
        if let Some(pins) = means.pins.filter(|_| !self.swept) {
            let of = |only: Option<Role>| -> BTreeSet<u32> {
                let some =
                    wanted.values().filter(|(_, role)| only.is_none_or(|only| only == *role));
                some.map(|(uplink, _)| uplink.index).collect()
            };
            let arriving = of(Some(Role::Uplink));
            pins.keep_links(&arriving, &of(None));
            forget_others(&mut means.object.maps.uplinks, &arriving);
            self.swept = true;
        }
    }

    fn attach(
        &mut self,
        means: &mut Means<'_>,
        name: &str,
        uplink: &Uplink,
        role: Role,
    ) -> Result<(), SyncError> {
        let old = self.attachments.remove(name);
        let state = |at: &Attachment| (at.ingress, at.egress, at.reason.clone());
        let before = old.as_ref().map(state);
        let place = Place { pins: means.pins, tag: means.tag, name };
        let attachment = match old {
            Some(mut old) => {
                if !old.is_whole() && old.tried.elapsed() >= RETRY {
                    old.complete(means.object, &place);
                }
                old
            }
            None => {
                if role == Role::Uplink {
                    let own = node::Uplink { mac: MacAddress::new(uplink.mac.0), pad: [0; 2] };
                    let added = means.object.maps.uplinks.insert(uplink.index, own, 0);
                    added.map_err(|source| SyncError::Map { map: "UPLINKS", source })?;
                }
                let note = self.generic.as_ref().filter(|other| *other != name);
                let note = note.map(|other| {
                    format!(
                        "{other} is generic, and takes nothing that a native program sends there"
                    )
                });
                Attachment::new(means.object, &place, uplink, role, note)
            }
        };
        let (ingress, egress) = (attachment.ingress, attachment.egress);
        match &attachment.reason {
            _ if before == Some(state(&attachment)) => {}
            None if role == Role::Replies => info!("{name}: egress {egress:?}, for replies"),
            None => info!("{name}: XDP {ingress:?}, egress {egress:?}"),
            Some(reason) => warn!("{name}: XDP {ingress:?}, egress {egress:?}: {reason}"),
        }
        self.attachments.insert(name.to_owned(), attachment);
        Ok(())
    }

    /// Where native and generic programs stand side by side, a generic one's interface: frames from
    /// the others to it would be lost. What the file asks for by name is left to it.
    fn mixed(&self) -> Option<String> {
        let auto = |(_, at): &(&String, &Attachment)| at.uplink.xdp == XdpMode::Auto;
        let mut native = self.attachments.iter().filter(auto);
        let mut generic = self.attachments.iter().filter(auto);
        native.find(|(_, at)| at.ingress == Ingress::Native)?;
        generic.find(|(_, at)| at.ingress == Ingress::Generic).map(|(name, _)| name.clone())
    }
}

fn wanted(desired: &DataPlane) -> BTreeMap<&String, (&Uplink, Role)> {
    let replies = desired.reply_devices.iter().map(|(name, one)| (name, (one, Role::Replies)));
    let uplinks = desired.uplinks.iter().map(|(name, one)| (name, (one, Role::Uplink)));
    replies.chain(uplinks).collect()
}

fn forget_others(map: &mut HashMap<MapData, u32, node::Uplink>, wanted: &BTreeSet<u32>) {
    let known: Vec<u32> = map.keys().filter_map(Result::ok).collect();
    for index in known.iter().filter(|index| !wanted.contains(index)) {
        let _ = map.remove(index);
    }
}

fn detach(name: &str, attachment: Attachment) {
    if let Err(error) = attachment.detach() {
        warn!("{name}: programs stay attached: {error}");
    }
}
