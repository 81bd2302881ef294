//! XDP programs that are not ours, small enough to be written by hand.

use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use crate::frame::Mac;
use crate::host::Host;
use crate::sys;

/// What a foreign program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Lets everything pass.
    Pass,
    /// Sends frames of [`experiment`] back to where they came from, and lets all else pass.
    Reflect,
}

/// The Ethernet type set aside for local experiments.
const EXPERIMENT: u16 = 0x88b5;

/// A frame nobody takes notice of but [`Foreign::Reflect`].
pub fn experiment(to: Mac, from: Mac) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend(EXPERIMENT.to_be_bytes());
    frame.resize(60, 0);
    frame
}

impl Host {
    /// Puts somebody else's XDP program on an interface; it goes when the result is dropped.
    pub fn foreign_xdp(&self, interface: &str, program: Foreign) -> Result<OwnedFd> {
        self.in_net(|| {
            let index = if_nametoindex(interface).context("looking for the interface")?;
            sys::attach_xdp(index, &program.instructions()).context("attaching an XDP program")
        })
    }

    /// Lets all frames pass through an XDP program on each of these interfaces, for good.
    ///
    /// What XDP sends back (`XDP_TX`) into a veth waits in the other end's ring until something
    /// else wakes that up, unless there is a program at that end too.
    pub(crate) fn pass_through_xdp(&self, interfaces: &[String]) -> Result<()> {
        let program = Foreign::Pass.instructions();
        let bpffs = format!("/proc/{}/root/sys/fs/bpf", self.holder());
        self.in_net(|| {
            for interface in interfaces {
                let index = if_nametoindex(interface.as_str()).context("looking for a port")?;
                let link = sys::attach_xdp(index, &program)
                    .with_context(|| format!("attaching an XDP program to {interface}"))?;
                let path = CString::new(format!("{bpffs}/{interface}"))?;
                sys::pin(&link, &path).with_context(|| format!("pinning it at {path:?}"))?;
            }
            Ok(())
        })
    }

    /// Sends a frame as it is.
    pub fn send_frame(&self, interface: &str, frame: &[u8]) -> Result<()> {
        self.send_frames(interface, frame, 1)
    }

    /// Sends a frame so many times, as fast as that goes.
    pub fn send_frames(&self, interface: &str, frame: &[u8], times: u64) -> Result<()> {
        self.in_net(|| {
            let index = if_nametoindex(interface).context("looking for the interface")?;
            let socket = sys::packet_socket(index).context("opening a packet socket")?;
            (0..times).try_for_each(|_| (&socket).write_all(frame).context("sending a frame"))
        })
    }
}

impl Foreign {
    fn instructions(self) -> Vec<u64> {
        const LOAD_WORD: u8 = 0x61;
        const LOAD_HALF: u8 = 0x69;
        const STORE_HALF: u8 = 0x6b;
        const COPY: u8 = 0xbf;
        const SET: u8 = 0xb7;
        const ADD: u8 = 0x07;
        const JUMP_IF_GREATER: u8 = 0x2d;
        const JUMP_UNLESS_IS: u8 = 0x55;
        const EXIT: u8 = 0x95;
        const XDP_PASS: u32 = 2;
        const XDP_TX: u32 = 3;

        let mut program = vec![instruction(SET, 0, 0, 0, XDP_PASS)];
        if self == Self::Reflect {
            // r2 = data, r3 = data_end; too short or another type: pass.
            program.extend([
                instruction(LOAD_WORD, 2, 1, 0, 0),
                instruction(LOAD_WORD, 3, 1, 4, 0),
                instruction(COPY, 4, 2, 0, 0),
                instruction(ADD, 4, 0, 0, 14),
                instruction(JUMP_IF_GREATER, 4, 3, 15, 0),
                instruction(LOAD_HALF, 5, 2, 12, 0),
                instruction(JUMP_UNLESS_IS, 5, 0, 13, u32::from(EXPERIMENT.to_be())),
            ]);
            for at in [0, 2, 4] {
                program.extend([
                    instruction(LOAD_HALF, 4, 2, at, 0),
                    instruction(LOAD_HALF, 5, 2, at + 6, 0),
                    instruction(STORE_HALF, 2, 5, at, 0),
                    instruction(STORE_HALF, 2, 4, at + 6, 0),
                ]);
            }
            program.push(instruction(SET, 0, 0, 0, XDP_TX));
        }
        program.push(instruction(EXIT, 0, 0, 0, 0));
        program
    }
}

fn instruction(code: u8, to: u8, from: u8, offset: u16, value: u32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    u64::from(u32::from_le_bytes([code, from << 4 | to, low, high])) | u64::from(value) << 32
}
