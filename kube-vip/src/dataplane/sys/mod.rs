//! The parts of the `bpf` system call that aya has no function for: batches, maps made with the types
//! of another map, and another program for a cgroup's link. All of the data plane's `unsafe` is here.

mod elements;

use std::ffi::{CString, c_long};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Pod;
use tokio::io::unix::AsyncFd;

pub(super) use self::elements::{insert, lookup, read_batches, remove, update, update_batch};

/// Commands (`enum bpf_cmd`, include/uapi/linux/bpf.h).
mod command {
    pub(super) const MAP_CREATE: i64 = 0;
    pub(super) const MAP_LOOKUP_ELEM: i64 = 1;
    pub(super) const MAP_UPDATE_ELEM: i64 = 2;
    pub(super) const MAP_DELETE_ELEM: i64 = 3;
    pub(super) const OBJ_PIN: i64 = 6;
    pub(super) const OBJ_GET: i64 = 7;
    pub(super) const MAP_GET_FD_BY_ID: i64 = 14;
    pub(super) const OBJ_GET_INFO_BY_FD: i64 = 15;
    pub(super) const BTF_GET_FD_BY_ID: i64 = 19;
    pub(super) const MAP_LOOKUP_BATCH: i64 = 24;
    pub(super) const MAP_UPDATE_BATCH: i64 = 26;
    pub(super) const LINK_UPDATE: i64 = 29;
}

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// `BPF_F_INNER_MAP`: arrays of different lengths fit into one outer map. Minimum kernel: 5.10.
const INNER_MAP: u32 = 0x1000;

/// A failed call, with its name and what it was about.
#[derive(Debug, thiserror::Error)]
#[error("{call} on {what}")]
pub struct SysError {
    /// The command.
    pub call: &'static str,
    /// The map.
    pub what: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// `union bpf_attr` for `BPF_MAP_CREATE`, up to the fields used here.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

/// … for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// … for `BPF_MAP_GET_FD_BY_ID` and `BPF_BTF_GET_FD_BY_ID`.
#[repr(C)]
struct GetById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// … for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct GetPinned {
    path: u64,
    fd: u32,
    flags: u32,
}

/// … for `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

/// `struct bpf_map_info`, up to the fields used here (all there since Linux 4.18).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct MapInfo {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Unique while the map exists.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Most elements.
    pub max_entries: u32,
    /// Flags it was made with.
    pub flags: u32,
    /// Its name.
    pub name: [u8; 16],
    ifindex: u32,
    vmlinux_value_type_id: u32,
    netns_dev: u64,
    netns_inode: u64,
    btf_id: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

impl MapInfo {
    /// What must be equal for one map to take another's place.
    pub(super) fn shape(&self) -> impl PartialEq + use<> {
        (self.kind, self.key_size, self.value_size, self.max_entries, self.flags, self.name)
    }
}

fn bpf<T>(command: i64, attr: &mut T) -> io::Result<c_long> {
    // SAFETY: `attr` is the union's variant for this command, as long as it says; the kernel takes
    // the rest of the union as zeros. Pointers in it are valid for the call, by the callers below.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: a new descriptor from the kernel, that nobody else has.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// What the kernel says of a map.
///
/// # Errors
///
/// The kernel's answer.
pub(super) fn map_info(map: BorrowedFd<'_>, what: &'static str) -> Result<MapInfo, SysError> {
    let mut info = MapInfo::default();
    let mut attr = GetInfo {
        fd: number(map),
        length: size_of::<MapInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(command::OBJ_GET_INFO_BY_FD, &mut attr).map_err(|source| SysError {
        call: "BPF_OBJ_GET_INFO_BY_FD",
        what,
        source,
    })?;
    Ok(info)
}

/// The types that a map shows to bpftool, to make others that show the same.
pub(super) struct Pattern {
    btf: Option<OwnedFd>,
    info: MapInfo,
}

/// How long the arrays in an outer map are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// All the same.
    One,
    /// Each as it comes.
    Any,
}

impl Pattern {
    /// The types of that map.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub(super) fn of(map: BorrowedFd<'_>, what: &'static str) -> Result<Self, SysError> {
        let info = map_info(map, what)?;
        let mut attr = GetById { id: info.btf_id, next_id: 0, open_flags: 0 };
        // Without types the maps work just as well.
        let btf = (info.btf_id != 0)
            .then(|| bpf(command::BTF_GET_FD_BY_ID, &mut attr).ok().map(owned))
            .flatten();
        Ok(Self { btf, info })
    }

    /// A new array of the same type with `entries` elements, for an outer map: one whose arrays are
    /// all as long as this, or of any length.
    ///
    /// Minimum kernel: 5.10 for any length.
    ///
    /// # Errors
    ///
    /// The kernel's answer; `E2BIG` or `ENOMEM` where it is too large.
    pub(super) fn create(&self, entries: u32, length: Length) -> Result<OwnedFd, SysError> {
        let mut attr = MapCreate {
            map_type: ARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: self.info.value_size,
            max_entries: entries,
            map_flags: if length == Length::Any { INNER_MAP } else { 0 },
            map_name: self.info.name,
            ..MapCreate::default()
        };
        if let Some(btf) = &self.btf {
            attr.btf_fd = btf.as_raw_fd().cast_unsigned();
            attr.btf_key_type_id = self.info.btf_key_type_id;
            attr.btf_value_type_id = self.info.btf_value_type_id;
        }
        bpf(command::MAP_CREATE, &mut attr).map(owned).map_err(|source| SysError {
            call: "BPF_MAP_CREATE",
            what: "a table",
            source,
        })
    }
}

/// Gives memory that has been freed back to the kernel, where the allocator would keep it: to load the
/// programs takes several times what an agent needs from then on.
pub(super) fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and locks of its own.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The number of the map at a place of an array of maps; nothing where there is none.
///
/// # Errors
///
/// The kernel's answer.
pub(super) fn inner_id(
    map: BorrowedFd<'_>,
    what: &'static str,
    key: u32,
) -> Result<Option<u32>, SysError> {
    lookup(map, what, &key)
}

/// The map with that number, for who may do everything (`CAP_SYS_ADMIN`).
pub(super) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = GetById { id, next_id: 0, open_flags: 0 };
    bpf(command::MAP_GET_FD_BY_ID, &mut attr).map(owned)
}

/// What is pinned there.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = GetPinned { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    bpf(command::OBJ_GET, &mut attr).map(owned)
}

/// Pins a map where nothing is yet.
pub(super) fn pin(path: &Path, map: BorrowedFd<'_>) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = GetPinned { path: path.as_ptr() as u64, fd: number(map), flags: 0 };
    bpf(command::OBJ_PIN, &mut attr).map(drop)
}

/// Puts a program in the place of the one that a pinned link attaches; there is no moment without.
///
/// Minimum kernel: 5.7.
///
/// # Errors
///
/// Nothing is pinned there, or what it was attached to is gone (`ENOLINK`).
pub(super) fn update_link(pin: &Path, program: BorrowedFd<'_>) -> Result<(), SysError> {
    let error = |call| move |source| SysError { call, what: "a link", source };
    let link = pinned(pin).map_err(error("BPF_OBJ_GET"))?;
    let mut attr = LinkUpdate {
        link_fd: number(link.as_fd()),
        program_fd: number(program),
        flags: 0,
        old_program_fd: 0,
    };
    bpf(command::LINK_UPDATE, &mut attr).map(drop).map_err(error("BPF_LINK_UPDATE"))
}

/// The kernel's number of the calling thread's network namespace, as `bpf_get_netns_cookie` gives it.
///
/// Minimum kernel: 5.14. On older ones there is none.
pub(super) fn network_namespace() -> Option<u64> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).ok()?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which the number has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(cookie)
}

/// A value out of bytes, where they are enough.
pub(super) fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough by the check above; any bytes are a value of a `Pod`; read unaligned.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A line of a table as numbers.
#[cfg(test)]
pub(super) fn words(line: &kube_vip_common::table::Line) -> super::history::Words {
    // SAFETY: of the same size; every view of a line is plain numbers that fill it.
    unsafe { std::mem::transmute(*line) }
}

/// Makes a descriptor's readiness something to wait for.
///
/// # Errors
///
/// The runtime's poller refuses it.
pub fn poll<T: AsFd + AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: a type with `AsFd` owns or borrows an open descriptor for its whole life.
    unsafe { AsyncFd::register(source) }.map_err(Into::into)
}
