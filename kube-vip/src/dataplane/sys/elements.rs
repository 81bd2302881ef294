//! Elements of maps, one or many in a call: aya copies them, or has no calls for many.

use std::os::fd::BorrowedFd;

use aya::Pod;

use super::{SysError, bpf, command, number};

/// `ENOTSUPP`, which the kernel answers and libc does not name (include/linux/errno.h).
const NOT_SUPPORTED: i32 = 524;

/// `BPF_NOEXIST`: only where there is no such element.
const NO_EXIST: u64 = 1;

/// `union bpf_attr` for `BPF_MAP_LOOKUP_ELEM`, `BPF_MAP_UPDATE_ELEM` and `BPF_MAP_DELETE_ELEM`.
#[repr(C)]
struct Update {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// … for `BPF_MAP_*_BATCH`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes many elements in one call, or one by one where the kernel has no batches for that kind.
///
/// Minimum kernel for one call: 5.6 for hashes and arrays, 5.19 for arrays of maps.
///
/// # Errors
///
/// The kernel's answer; elements before the refused one are written.
pub(in crate::dataplane) fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    what: &'static str,
    keys: &[K],
    values: &[V],
) -> Result<(), SysError> {
    assert_eq!(keys.len(), values.len(), "each key has its value");
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: number(map),
        elem_flags: 0,
        flags: 0,
    };
    match bpf(command::MAP_UPDATE_BATCH, &mut attr) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(NOT_SUPPORTED | libc::EOPNOTSUPP)) => {
            keys.iter().zip(values).try_for_each(|(key, value)| update(map, what, key, value))
        }
        Err(source) => Err(SysError { call: "BPF_MAP_UPDATE_BATCH", what, source }),
    }
}

/// Writes an element, whatever is there.
///
/// # Errors
///
/// The kernel's answer.
pub(in crate::dataplane) fn update<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    what: &'static str,
    key: &K,
    value: &V,
) -> Result<(), SysError> {
    let mut attr = Update {
        map_fd: number(map),
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    bpf(command::MAP_UPDATE_ELEM, &mut attr).map(drop).map_err(|source| SysError {
        call: "BPF_MAP_UPDATE_ELEM",
        what,
        source,
    })
}

/// The value of an element; nothing where there is none.
///
/// # Errors
///
/// The kernel's answer.
pub(in crate::dataplane) fn lookup<K: Pod, V: Pod + Default>(
    map: BorrowedFd<'_>,
    what: &'static str,
    key: &K,
) -> Result<Option<V>, SysError> {
    let mut value = V::default();
    let mut attr = Update {
        map_fd: number(map),
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        flags: 0,
    };
    match bpf(command::MAP_LOOKUP_ELEM, &mut attr) {
        Err(none) if none.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(source) => Err(SysError { call: "BPF_MAP_LOOKUP_ELEM", what, source }),
        Ok(_) => Ok(Some(value)),
    }
}

/// Writes an element where there is none; false where there is one.
///
/// # Errors
///
/// The kernel's answer.
pub(in crate::dataplane) fn insert<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    what: &'static str,
    key: &K,
    value: &V,
) -> Result<bool, SysError> {
    let mut attr = Update {
        map_fd: number(map),
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: NO_EXIST,
    };
    match bpf(command::MAP_UPDATE_ELEM, &mut attr) {
        Err(there) if there.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(source) => Err(SysError { call: "BPF_MAP_UPDATE_ELEM", what, source }),
        Ok(_) => Ok(true),
    }
}

/// Reads a whole map, some elements at a time. What changes meanwhile may be missed or seen twice.
///
/// Minimum kernel: 5.6.
///
/// # Errors
///
/// The kernel's answer.
pub(in crate::dataplane) fn read_batches<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
    what: &'static str,
    mut each: impl FnMut(&[K], &[V]),
) -> Result<(), SysError> {
    /// More than any bucket of a hash has.
    const ELEMENTS: usize = 4096;
    let (mut keys, mut values) = (vec![K::default(); ELEMENTS], vec![V::default(); ELEMENTS]);
    // Where to go on: a key of an array, the number of a bucket of a hash.
    let (mut from, mut next) = (0u32, 0u32);
    let mut first = true;
    loop {
        let mut attr = Batch {
            in_batch: if first { 0 } else { std::ptr::from_ref(&from) as u64 },
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: ELEMENTS as u32,
            map_fd: number(map),
            elem_flags: 0,
            flags: 0,
        };
        let result = bpf(command::MAP_LOOKUP_BATCH, &mut attr);
        let last = match result {
            Ok(_) => false,
            Err(end) if end.raw_os_error() == Some(libc::ENOENT) => true,
            Err(source) => return Err(SysError { call: "BPF_MAP_LOOKUP_BATCH", what, source }),
        };
        let count = (attr.count as usize).min(ELEMENTS);
        each(&keys[..count], &values[..count]);
        if last {
            return Ok(());
        }
        (from, first) = (next, false);
    }
}

/// Removes an element, if it is there.
///
/// # Errors
///
/// The kernel's answer.
pub(in crate::dataplane) fn remove<K: Pod>(
    map: BorrowedFd<'_>,
    what: &'static str,
    key: &K,
) -> Result<(), SysError> {
    let key = std::ptr::from_ref(key) as u64;
    let mut attr = Update { map_fd: number(map), pad: 0, key, value: 0, flags: 0 };
    match bpf(command::MAP_DELETE_ELEM, &mut attr) {
        Err(source) if source.raw_os_error() != Some(libc::ENOENT) => {
            Err(SysError { call: "BPF_MAP_DELETE_ELEM", what, source })
        }
        _ => Ok(()),
    }
}
