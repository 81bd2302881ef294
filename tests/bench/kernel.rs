//! The programs under measurement, loaded, with a configuration of some size in their maps.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use kube_vip::dataplane::{Mirror, Object, Term};
use kube_vip_common::address::MacAddress;
use kube_vip_common::node::Uplink;

use crate::frames::{Original, original};
use crate::measure::cpu_time;
use crate::setup::{HOST, IFINDEX, LIMITS, configuration};

/// Which program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    Xdp,
    Egress,
}

/// What of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// Nothing.
    Floor,
    /// Only what makes the frame what it was.
    Null,
    /// The program, then that.
    Run,
    /// The same, where the program makes the frame longer or shorter.
    Resized,
    /// The program as the agent loads it.
    Plain,
}

pub(crate) fn program(hook: Hook, variant: Variant) -> &'static str {
    match (hook, variant) {
        (Hook::Xdp, Variant::Floor) => "floor_xdp",
        (Hook::Xdp, Variant::Null) => "null_xdp",
        (Hook::Xdp, Variant::Run) => "run_xdp",
        (Hook::Xdp, Variant::Resized) => "resized_xdp",
        (Hook::Xdp, Variant::Plain) => "kube_vip_xdp",
        (Hook::Egress, Variant::Floor) => "floor_egress",
        (Hook::Egress, Variant::Null) => "null_egress",
        (Hook::Egress, Variant::Run | Variant::Resized) => "run_egress",
        (Hook::Egress, Variant::Plain) => "kube_vip_egress",
    }
}

/// What became of a frame.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// By the kernel's number.
    pub(crate) verdict: u32,
    pub(crate) frame: Vec<u8>,
}

pub(crate) struct Kernel {
    pub(crate) object: Object,
    original: Array<MapData, Original>,
}

impl Kernel {
    pub(crate) fn load() -> Result<Self> {
        let bytes = object_bytes()?;
        let mut object = Object::load_from(&bytes, &LIMITS, None).context("loading bench.o")?;
        for variant in [Variant::Floor, Variant::Null, Variant::Run] {
            xdp(&mut object, variant)?.load()?;
            egress(&mut object, variant)?.load()?;
        }
        xdp(&mut object, Variant::Resized)?.load()?;
        let own = Uplink { mac: MacAddress::new(HOST.0), pad: [0; 2] };
        object.maps.uplinks.insert(IFINDEX, own, 0)?;
        let (mut mirror, desired) = (Mirror::new(&object.maps, &LIMITS)?, configuration());
        mirror.apply(&mut object.maps, &desired, 0)?;
        let fence = object.maps.fence()?;
        for (index, lease, _) in mirror.number_leases(&desired)? {
            fence.offer(lease, Term { epoch: 1, until: u64::MAX })?;
            fence.take_up(lease, index, 1)?;
        }
        let original = object.programs.take_map("ORIGINAL").context("bench.o has no ORIGINAL")?;
        Ok(Self { object, original: original.try_into()? })
    }

    /// Has these programs make their frame this one again, for so many flows, after the program has
    /// taken so many bytes off its head.
    pub(crate) fn set(&mut self, frame: &[u8], flows: u32, missing: i32) -> Result<()> {
        ensure!(flows.is_power_of_two(), "{flows} flows are no power of two");
        Ok(self.original.set(0, original(frame, flows, missing), 0)?)
    }

    /// Runs a program `repeat` times and returns how long one took, in nanoseconds.
    pub(crate) fn time(
        &mut self,
        hook: Hook,
        variant: Variant,
        frame: &[u8],
        repeat: u32,
    ) -> Result<f64> {
        let start = cpu_time()?;
        self.test(
            hook,
            variant,
            TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() },
        )?;
        Ok((cpu_time()? - start).as_secs_f64() * 1e9 / f64::from(repeat))
    }

    /// Runs a program once.
    pub(crate) fn once(&mut self, hook: Hook, variant: Variant, frame: &[u8]) -> Result<Outcome> {
        // A tunnel's header more at most.
        let mut out = vec![0; frame.len() + 40];
        let (verdict, length) = self.test(
            hook,
            variant,
            TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            },
        )?;
        out.truncate(length as usize);
        Ok(Outcome { verdict, frame: out })
    }

    fn test(
        &mut self,
        hook: Hook,
        variant: Variant,
        options: TestRunOptions<'_>,
    ) -> Result<(u32, u32)> {
        let result = match hook {
            Hook::Xdp => xdp(&mut self.object, variant)?.test_run(options),
            Hook::Egress => egress(&mut self.object, variant)?.test_run(options),
        };
        let result = result.with_context(|| format!("running {}", program(hook, variant)))?;
        Ok((result.return_value, result.data_size_out))
    }
}

/// The measuring programs, as they were compiled.
pub(crate) fn object_bytes() -> Result<Vec<u8>> {
    let directory = std::env::var_os("KUBE_VIP_BPF_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf")),
        PathBuf::from,
    );
    let path = directory.join("bench.o");
    std::fs::read(&path)
        .with_context(|| format!("reading {} (cargo xtask build-ebpf)", path.display()))
}

fn xdp(object: &mut Object, variant: Variant) -> Result<&mut Xdp> {
    let name = program(Hook::Xdp, variant);
    Ok(object.programs.program_mut(name).context(name)?.try_into()?)
}

fn egress(object: &mut Object, variant: Variant) -> Result<&mut SchedClassifier> {
    let name = program(Hook::Egress, variant);
    Ok(object.programs.program_mut(name).context(name)?.try_into()?)
}
