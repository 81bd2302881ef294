//! Attaches the programs for sockets to a cgroup, so that processes of this host reach the VIPs.

pub(crate) mod root;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::programs::CgroupAttachMode;
use aya::programs::links::{FdLink, PinnedLink};
use kube_vip_common::client::PROGRAMS;
use tracing::{info, warn};

use super::attach::chain;
use super::object::Object;
use super::pins::Pins;
use super::sys::{network_namespace, return_free_memory, update_link};
use crate::config::LocalClients;
use crate::plan::Clients;

/// A cgroup that could not be attached to is tried again this often.
const RETRY: Duration = Duration::from_secs(10);

/// The programs for sockets on this host; dropping it leaves what is pinned.
#[derive(Default)]
pub struct Sockets {
    wanted: Option<Clients>,
    attached: Option<Attached>,
    /// Why they are not attached, or not for all they should be.
    reason: Option<String>,
    tried: Option<Instant>,
}

struct Attached {
    cgroup: PathBuf,
    /// In the order of [`PROGRAMS`].
    links: Vec<Hold>,
}

/// What keeps a program attached.
enum Hold {
    Pinned(PinnedLink),
    Open(#[expect(dead_code, reason = "closing it detaches the program")] FdLink),
}

impl Sockets {
    /// The cgroup whose processes are led to backends.
    pub fn cgroup(&self) -> Option<&Path> {
        self.attached.as_ref().map(|attached| attached.cgroup.as_path())
    }

    /// Why there is none, or what is not as it was asked for.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Attaches or detaches as desired. Where that does not go the host does without, and says why.
    pub(super) fn apply(&mut self, object: &mut Object, pins: Option<&Pins>, clients: &Clients) {
        let changed = self.wanted.as_ref() != Some(clients);
        let again = self.attached.is_none()
            && clients.whose != LocalClients::None
            && self.tried.is_none_or(|tried| tried.elapsed() >= RETRY);
        if !changed && !again {
            return;
        }
        let before = (self.cgroup().map(Path::to_owned), self.reason.clone());
        self.wanted = Some(clients.clone());
        self.tried = Some(Instant::now());
        self.reason = None;
        if clients.whose == LocalClients::None {
            self.detach();
            remove_others(pins, None);
            self.reason = Some("localClients: none".to_owned());
        } else {
            self.attach(object, pins, clients);
        }
        match (self.cgroup(), &self.reason) {
            now if (now.0.map(Path::to_owned), now.1.clone()) == before => {}
            (Some(cgroup), None) => {
                info!("clients on this host are led to backends, at {}", cgroup.display());
            }
            (Some(cgroup), Some(reason)) => warn!(
                "clients on this host are led to backends, at {}, but: {reason}",
                cgroup.display()
            ),
            (None, reason) => info!(
                "clients on this host go through the owner: {}",
                reason.as_deref().unwrap_or_default()
            ),
        }
    }

    fn attach(&mut self, object: &mut Object, pins: Option<&Pins>, clients: &Clients) {
        let found = root::find(clients.cgroup.as_deref());
        if self.attached.is_some() && found.as_deref().ok() != self.cgroup() {
            self.detach();
        }
        if self.attached.is_none() {
            match found.and_then(|cgroup| Attached::new(object, pins, &cgroup)) {
                Ok(attached) => {
                    self.attached = Some(attached);
                    return_free_memory();
                }
                Err(reason) => {
                    remove_others(pins, None);
                    self.reason = Some(reason);
                    return;
                }
            }
        }
        if clients.whose == LocalClients::Host && network_namespace().is_none() {
            self.reason = Some(
                "this kernel tells no number of a network namespace (Linux 5.14 does): clients in \
                 the initial one are led, whichever the agent's is"
                    .to_owned(),
            );
        }
    }

    /// Detaches: connections go on, but see their backend's address from now on.
    pub(super) fn detach(&mut self) {
        if let Some(attached) = self.attached.take() {
            attached.detach();
        }
    }
}

impl Attached {
    /// All of them or none: a socket that was led has to see the VIP.
    fn new(object: &mut Object, pins: Option<&Pins>, cgroup: &Path) -> Result<Self, String> {
        let error = |error: std::io::Error| format!("{}: {error}", cgroup.display());
        let directory = File::open(cgroup).map_err(error)?;
        // The inode is the kernel's number of the cgroup (kernfs).
        let number = directory.metadata().map_err(error)?.ino();
        remove_others(pins, Some(number));
        let mut attached = Self { cgroup: cgroup.to_owned(), links: Vec::new() };
        for name in PROGRAMS {
            let pin = pins.map(|pins| pins.socket_link(name, number));
            match attach(object, name, &directory, pin.as_deref()) {
                Ok(link) => attached.links.push(link),
                Err(error) => {
                    attached.detach();
                    return Err(format!("{name} at {}: {error}", cgroup.display()));
                }
            }
        }
        Ok(attached)
    }

    fn detach(self) {
        // What leads away from the VIP first.
        for link in self.links.into_iter().rev() {
            if let Hold::Pinned(link) = link
                && let Err(error) = link.unpin()
            {
                warn!("a program for sockets stays attached: {error}");
            }
        }
    }
}

fn attach(
    object: &mut Object,
    name: &'static str,
    directory: &File,
    pin: Option<&Path>,
) -> Result<Hold, String> {
    let program = object.socket(name).map_err(|error| chain(&error))?;
    if let Some(pin) = pin.filter(|pin| pin.exists()) {
        let fd = program.fd().map_err(|error| chain(&error))?;
        match update_link(pin, fd.as_fd()) {
            Ok(()) => {
                return PinnedLink::from_pin(pin).map(Hold::Pinned).map_err(|error| chain(&error));
            }
            // The cgroup it was attached to is gone.
            Err(error) => {
                info!("{name}: what an earlier agent left is replaced: {}", chain(&error));
                std::fs::remove_file(pin).map_err(|error| error.to_string())?;
            }
        }
    }
    // Links are for many programs by nature; the kernel refuses a link with a flag (`EINVAL`, Linux
    // kernel/bpf/cgroup.c, `cgroup_bpf_link_attach`), and this mode is none.
    let id = program
        .attach(directory, CgroupAttachMode::Single)
        .map_err(|error| format!("{}{}", chain(&error), hint(&error)))?;
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    let link = FdLink::try_from(link).map_err(|error| chain(&error))?;
    match pin {
        Some(pin) => link.pin(pin).map(Hold::Pinned).map_err(|error| chain(&error)),
        None => Ok(Hold::Open(link)),
    }
}

/// What the kernel means where its word alone does not say.
fn hint(error: &aya::programs::ProgramError) -> &'static str {
    let aya::programs::ProgramError::SyscallError(error) = error else {
        return "";
    };
    match error.io_error.raw_os_error() {
        Some(libc::EPERM) => {
            " (NET_ADMIN is missing, or somebody attached a program there that tolerates no other: \
             `bpftool cgroup tree` shows it)"
        }
        _ => "",
    }
}

/// Removes what an earlier agent attached to other cgroups than that one.
fn remove_others(pins: Option<&Pins>, cgroup: Option<u64>) {
    let Some(pins) = pins else {
        return;
    };
    for pin in PROGRAMS.iter().rev().flat_map(|name| pins.other_socket_links(name, cgroup)) {
        if let Err(error) = std::fs::remove_file(&pin) {
            warn!("{}: {error}", pin.display());
        }
    }
}
