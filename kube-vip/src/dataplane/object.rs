//! The kernel programs this agent carries inside, and how they are loaded.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{CgroupSockAddr, ProgramError, ProgramType, SchedClassifier, Xdp};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use kube_vip_common::address::Address;
use kube_vip_common::backend::Backend;
use kube_vip_common::clock::Clock;
use kube_vip_common::event::Event;
use kube_vip_common::filter::Filter;
use kube_vip_common::frontend::{Frontend, FrontendKey};
use kube_vip_common::node::{Node, Peer, PeerKey, Uplink};
use kube_vip_common::settings::Settings;
use kube_vip_common::stats::{BackendTraffic, Count, Traffic};
use kube_vip_common::vip::Vip;

use super::records::{Records, Travels};
use super::sys;
use crate::config::Limits;

/// The ELF object, aligned as its parser needs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("KUBE_VIP_EBPF_OBJECT"));

/// Name of the XDP program.
pub(super) const XDP: &str = "kube_vip_xdp";
/// Name of the TC egress program.
pub(super) const EGRESS: &str = "kube_vip_egress";

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The build had no object to embed.
    #[error(
        "this kube-vip was built without its kernel programs: build it with `cargo xtask build`"
    )]
    Empty,
    /// The kernel, or aya, refused them.
    #[error("loading the kernel programs")]
    Aya(#[from] aya::EbpfError),
    /// The kernel refused one.
    #[error("loading program {name}: {said}")]
    Program {
        /// Which one.
        name: &'static str,
        /// What the kernel said; of the verifier's log, its conclusion.
        said: String,
    },
    /// The kernel does not know programs for frames in several buffers.
    #[error("loading program {XDP}: the kernel knows no frames in several buffers (xdp.frags)")]
    Frames,
    /// The object has no such program or map: it is of another version.
    #[error("the kernel programs have no {0}")]
    Missing(&'static str),
    /// What is in the maps cannot be followed.
    #[error("following the maps")]
    Mirror(#[source] super::SyncError),
    /// A map is of another type.
    #[error("map {name}")]
    Map {
        /// Which one.
        name: &'static str,
        /// What is wrong with it.
        source: MapError,
    },
}

/// The loaded programs with their maps. Dropping it detaches what is not pinned.
pub struct Object {
    /// The programs; the maps have been taken out.
    pub programs: Ebpf,
    /// The maps.
    pub maps: Maps,
    /// The kernel's side of the log, if it has one.
    pub logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

/// The maps, by the names they have in the kernel.
pub struct Maps {
    /// `FILTER`.
    pub filter: Array<MapData, Filter>,
    /// `VIPS`.
    pub vips: HashMap<MapData, Address, Vip>,
    /// `LEASES`, which only the fence writes.
    leases_fd: OwnedFd,
    /// `FRONTENDS`.
    pub frontends: HashMap<MapData, FrontendKey, Frontend>,
    /// `FRONTENDS` again, for batches.
    pub frontends_fd: OwnedFd,
    /// `FRONTEND_IDS`, for batches.
    pub frontend_ids_fd: OwnedFd,
    /// `FRONTEND_LIST`, for batches.
    pub frontend_list_fd: OwnedFd,
    /// `TABLE`, the pattern for tables.
    pub table: MapData,
    /// `TABLES`.
    pub tables: MapData,
    /// `TABLES_SIZED`.
    pub tables_sized: MapData,
    /// `BACKENDS`.
    pub backends: Array<MapData, Backend>,
    /// `BACKENDS` again, for batches.
    pub backends_fd: OwnedFd,
    /// `NODES`.
    pub nodes: Array<MapData, Node>,
    /// `PEERS`.
    pub peers: HashMap<MapData, PeerKey, Peer>,
    /// `PEER_IPS`.
    pub peer_ips: HashMap<MapData, Address, Peer>,
    /// `UPLINKS`.
    pub uplinks: HashMap<MapData, u32, Uplink>,
    /// `SETTINGS`.
    pub settings: Array<MapData, Settings>,
    /// `CLOCK`; taken by the hand that moves it.
    pub clock: Option<Array<MapData, Clock>>,
    /// `FLOWS4` and `HALF4`.
    pub flows4: [MapData; 2],
    /// `FLOWS6` and `HALF6`.
    pub flows6: [MapData; 2],
    /// What other hosts are told of, and tell; taken by whoever does so.
    pub travels: Option<Travels>,
    /// `STATS`.
    pub stats: PerCpuArray<MapData, Count>,
    /// `FRONTEND_STATS`.
    pub frontend_stats: PerCpuArray<MapData, Traffic>,
    /// `BACKEND_STATS`.
    pub backend_stats: PerCpuArray<MapData, BackendTraffic>,
    /// `EVENTS`; taken by whoever reads it.
    pub events: Option<RingBuf<MapData>>,
}

/// Every map but the log, which belongs to one load of the programs only.
pub(super) const MAP_NAMES: &[&str] = &[
    "FILTER",
    "VIPS",
    "LEASES",
    "FRONTENDS",
    "FRONTEND_IDS",
    "FRONTEND_LIST",
    "TABLE",
    "TABLES",
    "TABLES_SIZED",
    "BACKENDS",
    "NODES",
    "PEERS",
    "PEER_IPS",
    "UPLINKS",
    "SETTINGS",
    "CLOCK",
    "STATS",
    "FRONTEND_STATS",
    "BACKEND_STATS",
    "EVENTS",
    "EVENT_TIMES",
    "FLOWS4",
    "FLOWS6",
    "REVERSE4",
    "REVERSE6",
    "HALF4",
    "HALF6",
    "RATES",
    "FRAGS",
    "FRAG_KEY",
    "NAT4",
    "NAT6",
    "NAT_CHANGES4",
    "NAT_CHANGES6",
    "NAT_PORTS",
    "STRAYS4",
    "STRAYS6",
    "CLIENTS",
];

impl Object {
    /// Loads the programs and makes their maps, or takes maps over that are pinned in `pins`.
    ///
    /// Minimum kernel: 5.10 (maps of different length in one outer map).
    ///
    /// # Errors
    ///
    /// Whatever the kernel refuses; nothing stays behind but pins, which the caller removes.
    pub fn load(limits: &Limits, pins: Option<&PathBuf>) -> Result<Self, LoadError> {
        match Self::load_from(object()?, limits, pins) {
            Err(LoadError::Frames) => Self::load_without_frags(limits, pins),
            result => result,
        }
    }

    /// As [`load`](Self::load), for kernels before 5.18, which know no frames in several buffers.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_without_frags(limits: &Limits, pins: Option<&PathBuf>) -> Result<Self, LoadError> {
        Self::load_from(&without_frags(object()?), limits, pins)
    }

    /// As [`load`](Self::load), out of another ELF object that has the same programs and maps.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_from(
        object: &[u8],
        limits: &Limits,
        pins: Option<&PathBuf>,
    ) -> Result<Self, LoadError> {
        let mut loader = loader(limits);
        if let Some(pins) = pins {
            for name in MAP_NAMES {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let mut programs = loader.load(object)?;
        load_xdp(&mut programs)?;
        egress(&mut programs)?.load().map_err(|error| refused(EGRESS, &error))?;
        let logger = aya_log::EbpfLogger::init(&mut programs).ok();
        let maps = Maps::take(&mut programs)?;
        sys::return_free_memory();
        Ok(Self { maps, programs, logger })
    }

    /// The XDP program.
    pub fn xdp(&mut self) -> Result<&mut Xdp, LoadError> {
        xdp(&mut self.programs)
    }

    /// A program for sockets, loaded when it is first asked for: a host without cgroups does without.
    pub(super) fn socket(&mut self, name: &'static str) -> Result<&mut CgroupSockAddr, LoadError> {
        let program = self.programs.program_mut(name).ok_or(LoadError::Missing(name))?;
        let program: &mut CgroupSockAddr =
            program.try_into().map_err(|error| refused(name, &error))?;
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
            Err(error) => Err(refused(name, &error)),
        }
    }

    /// The TC egress program.
    pub fn egress(&mut self) -> Result<&mut SchedClassifier, LoadError> {
        egress(&mut self.programs)
    }
}

/// Loads the XDP program. A flag that the kernel does not know is refused before the verifier has
/// said anything.
fn load_xdp(programs: &mut Ebpf) -> Result<(), LoadError> {
    xdp(programs)?.load().map_err(|error| match &error {
        ProgramError::LoadError { io_error, verifier_log }
            if io_error.raw_os_error() == Some(libc::EINVAL)
                && verifier_log.to_string().is_empty() =>
        {
            LoadError::Frames
        }
        _ => refused(XDP, &error),
    })
}

/// The object with its XDP program for frames in one buffer only. The section's name says which, and
/// names end with a zero.
fn without_frags(object: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"xdp.frags\0";
    const PLAIN: &[u8] = b"xdp\0\0\0\0\0\0\0";
    let mut object = object.to_vec();
    let found = object.windows(NAME.len()).enumerate().filter(|(_, name)| *name == NAME);
    let places: Vec<_> = found.map(|(at, _)| at).collect();
    places.into_iter().for_each(|at| object[at..at + NAME.len()].copy_from_slice(PLAIN));
    object
}

fn object() -> Result<&'static [u8], LoadError> {
    if OBJECT.is_empty() { Err(LoadError::Empty) } else { Ok(OBJECT) }
}

fn loader<'a>(limits: &Limits) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    // No program asks the kernel for the layout of its types: reading those would only cost memory.
    loader.btf(None);
    for (map, size) in [
        // Addresses of frontends, and of backends here.
        ("VIPS", limits.frontends.saturating_add(limits.backends)),
        ("FRONTENDS", limits.frontends),
        ("FRONTEND_LIST", limits.frontends),
        ("TABLES", limits.frontends),
        ("TABLES_SIZED", limits.frontends),
        ("FRONTEND_STATS", limits.frontends),
        ("BACKENDS", limits.backends),
        ("BACKEND_STATS", limits.backends),
        ("FLOWS4", limits.flows),
        ("FLOWS6", limits.flows),
        ("REVERSE4", limits.flows),
        ("REVERSE6", limits.flows),
        ("STRAYS4", limits.flows),
        ("STRAYS6", limits.flows),
        // Both directions are in it.
        ("HALF4", limits.half_open.saturating_mul(2)),
        ("HALF6", limits.half_open.saturating_mul(2)),
        // Both directions of each connection.
        ("NAT4", limits.nat.saturating_mul(2)),
        ("NAT6", limits.nat.saturating_mul(2)),
        ("CLIENTS", limits.flows),
    ] {
        loader.map_max_entries(map, size);
    }
    let retval = is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval);
    let number = if retval.unwrap_or(false) { &1_u8 } else { &0 };
    loader.override_global("HAS_SET_RETVAL", number, false);
    loader
}

/// New maps without programs, to compare pinned ones with.
pub(super) struct Unloaded(Ebpf);

impl Unloaded {
    /// Makes the maps.
    pub(super) fn make(limits: &Limits) -> Result<Self, LoadError> {
        Ok(Self(loader(limits).load(object()?)?))
    }

    /// The map of that name.
    pub(super) fn map(&self, name: &str) -> Option<BorrowedFd<'_>> {
        let (Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::ArrayOfMaps(data)
        | Map::RingBuf(data)) = self.0.map(name)?
        else {
            return None;
        };
        Some(data.fd().as_fd())
    }
}

/// What the kernel said on one line: of a verifier's log, which has thousands, the last that is not
/// statistics, and the whole of it in the debug log.
fn refused(name: &'static str, error: &ProgramError) -> LoadError {
    let said = match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            tracing::debug!("the verifier on {name}: {log}");
            let statistics = ["verification time", "stack depth", "processed "];
            let conclusion = log
                .lines()
                .rfind(|line| !line.is_empty() && !statistics.iter().any(|s| line.starts_with(s)));
            format!("{io_error}: {}", conclusion.unwrap_or("the verifier said nothing"))
        }
        error => error.to_string(),
    };
    LoadError::Program { name, said }
}

fn xdp(programs: &mut Ebpf) -> Result<&mut Xdp, LoadError> {
    let program = programs.program_mut(XDP).ok_or(LoadError::Missing(XDP))?;
    program.try_into().map_err(|error| refused(XDP, &error))
}

fn egress(programs: &mut Ebpf) -> Result<&mut SchedClassifier, LoadError> {
    let program = programs.program_mut(EGRESS).ok_or(LoadError::Missing(EGRESS))?;
    program.try_into().map_err(|error| refused(EGRESS, &error))
}

impl Maps {
    fn take(programs: &mut Ebpf) -> Result<Self, LoadError> {
        let fd = |name| {
            let map = programs.map(name).ok_or(LoadError::Missing(name))?;
            let (Map::Array(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data)) = map
            else {
                return Err(LoadError::Missing(name));
            };
            data.fd()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|source| LoadError::Map { name, source: MapError::IoError(source) })
        };
        let records = Records {
            nat4: fd("NAT4")?,
            nat6: fd("NAT6")?,
            flows4: fd("FLOWS4")?,
            flows6: fd("FLOWS6")?,
            strays4: fd("STRAYS4")?,
            strays6: fd("STRAYS6")?,
            stats: fd("STATS")?,
        };
        Ok(Self {
            leases_fd: fd("LEASES")?,
            backends_fd: fd("BACKENDS")?,
            frontends_fd: fd("FRONTENDS")?,
            frontend_ids_fd: fd("FRONTEND_IDS")?,
            frontend_list_fd: fd("FRONTEND_LIST")?,
            travels: Some(Travels {
                records,
                changes: [typed(programs, "NAT_CHANGES4")?, typed(programs, "NAT_CHANGES6")?],
            }),
            filter: typed(programs, "FILTER")?,
            vips: typed(programs, "VIPS")?,
            frontends: typed(programs, "FRONTENDS")?,
            table: data(programs, "TABLE")?,
            tables: data(programs, "TABLES")?,
            tables_sized: data(programs, "TABLES_SIZED")?,
            backends: typed(programs, "BACKENDS")?,
            nodes: typed(programs, "NODES")?,
            peers: typed(programs, "PEERS")?,
            peer_ips: typed(programs, "PEER_IPS")?,
            uplinks: typed(programs, "UPLINKS")?,
            settings: typed(programs, "SETTINGS")?,
            clock: Some(typed(programs, "CLOCK")?),
            flows4: [data(programs, "FLOWS4")?, data(programs, "HALF4")?],
            flows6: [data(programs, "FLOWS6")?, data(programs, "HALF6")?],
            stats: typed(programs, "STATS")?,
            frontend_stats: typed(programs, "FRONTEND_STATS")?,
            backend_stats: typed(programs, "BACKEND_STATS")?,
            events: Some(typed(programs, "EVENTS")?),
        })
    }
}

fn take(programs: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    programs.take_map(name).ok_or(LoadError::Missing(name))
}

fn typed<M: TryFrom<Map, Error = MapError>>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<M, LoadError> {
    take(programs, name)?.try_into().map_err(|source| LoadError::Map { name, source })
}

fn data(programs: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    match take(programs, name)? {
        Map::Array(data) | Map::ArrayOfMaps(data) | Map::LruHashMap(data) => Ok(data),
        _ => Err(LoadError::Missing(name)),
    }
}

impl Maps {
    /// The fence in `LEASES`, which stays usable while the rest of the maps is being written.
    ///
    /// # Errors
    ///
    /// The descriptor could not be duplicated.
    pub fn fence(&self) -> Result<super::Fence, LoadError> {
        let error = |source| LoadError::Map { name: "LEASES", source };
        let fd = self.leases_fd.try_clone().map_err(MapError::IoError).map_err(error)?;
        let data = MapData::from_fd(fd).map_err(error)?;
        Ok(super::Fence::new(Map::Array(data).try_into().map_err(error)?))
    }
}

/// Reads one event out of its bytes.
pub fn event(bytes: &[u8]) -> Option<Event> {
    sys::read(bytes)
}
