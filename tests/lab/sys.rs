//! The few system calls that neither the standard library nor `nix` offer safely.

use std::ffi::CStr;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use socket2::Socket;

/// What `ETHTOOL_STXCSUM` of linux/ethtool.h is: checksum offload of what is sent.
pub(crate) const TX_CHECKSUM: u32 = 0x17;
/// What `ETHTOOL_SGRO` of linux/ethtool.h is: generic receive offload.
pub(crate) const GRO: u32 = 0x2c;

#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Runs `step` in the new process, between fork and exec.
///
/// `step` may make system calls, but must not take locks another thread could hold.
pub(crate) fn before_exec(
    command: &mut Command,
    step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the callers of this crate's only two steps (entering and making a host) do nothing
    // but system calls on descriptors and strings that were prepared before the fork.
    unsafe { command.pre_exec(step) };
}

/// A raw socket that sees every frame of one interface, in both directions.
pub(crate) fn packet_socket(index: u32) -> io::Result<Socket> {
    let everything = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0 first: nothing is queued from other interfaces before bind.
    // SAFETY: plain system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: socket() just returned this descriptor and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: everything,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Socket::from(fd))
}

/// Receives one frame from a packet socket; true when the interface sent it.
pub(crate) fn receive_frame(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut from = MaybeUninit::<libc::sockaddr_ll>::zeroed();
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: buffer and address are valid for the lengths given, for the whole call.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            from.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed memory is a valid sockaddr_ll, whatever part of it the kernel filled.
    let from = unsafe { from.assume_init() };
    Ok((received as usize, from.sll_pkttype == libc::PACKET_OUTGOING))
}

/// Switches an offload of an interface of the calling thread's network namespace.
pub(crate) fn set_offload(interface: &str, command: u32, on: bool) -> io::Result<()> {
    let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let mut value = EthtoolValue { command, data: u32::from(on) };
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and the value it points to outlive the call, and the two commands of
    // this module read an ethtool_value.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts an XDP program on an interface for as long as the result is kept.
///
/// To be called inside the network the interface is in.
pub(crate) fn attach_xdp(index: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    const PROG_LOAD: u32 = 5;
    const LINK_CREATE: u32 = 28;
    const PROG_TYPE_XDP: u32 = 6;
    const ATTACH_TYPE_XDP: u32 = 37;
    const HAS_FRAGS: u64 = 1 << 5;
    let license = c"GPL";
    let mut load = [0_u64; 16];
    load[0] = u64::from(PROG_TYPE_XDP) | (instructions.len() as u64) << 32;
    load[1] = instructions.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    // For frames in several buffers: else the device could not have a large MTU.
    load[5] = HAS_FRAGS << 32;
    let program = bpf(PROG_LOAD, &load)?;
    let mut link = [0_u64; 16];
    link[0] = program.as_raw_fd() as u64 | u64::from(index) << 32;
    link[1] = u64::from(ATTACH_TYPE_XDP);
    bpf(LINK_CREATE, &link)
}

/// Keeps what a descriptor stands for under a path in a bpffs, for as long as that is mounted.
pub(crate) fn pin(fd: &OwnedFd, path: &CStr) -> io::Result<()> {
    const OBJ_PIN: u32 = 6;
    let mut attributes = [0_u64; 16];
    attributes[0] = path.as_ptr() as u64;
    attributes[1] = fd.as_raw_fd() as u64;
    bpf_call(OBJ_PIN, &attributes).map(drop)
}

/// The commands that return a descriptor, which is all but the pin.
fn bpf(command: u32, attributes: &[u64; 16]) -> io::Result<OwnedFd> {
    let fd = bpf_call(command, attributes)?;
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One of the commands above. Fields are placed as on little-endian machines, the only ones we
/// build for.
fn bpf_call(command: u32, attributes: &[u64; 16]) -> io::Result<i32> {
    // SAFETY: the attributes are as long as said, and what they point to outlives the call: none
    // of these commands keeps or writes to it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
