//! The programs for sockets, as older kernels are given them.

use std::path::PathBuf;
use std::process::Command;

use aya::EbpfLoader;
use aya::programs::CgroupSockAddr;

/// The program as the kernel runs it, dead code taken out.
fn translated(name: &str, has_set_retval: u8) -> String {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf");
    let directory =
        std::env::var_os("KUBE_VIP_BPF_DIR").map_or_else(|| built.into(), PathBuf::from);
    let object =
        std::fs::read(directory.join("kube-vip-ebpf.o")).expect("the kernel programs are built");
    let mut loader = EbpfLoader::new();
    loader.btf(None).override_global("HAS_SET_RETVAL", &has_set_retval, true);
    let mut programs = loader.load(&object).expect("maps are made");
    let program: &mut CgroupSockAddr =
        programs.program_mut(name).expect("a program").try_into().expect("for sockets");
    program.load().expect("the verifier takes it");
    let id = program.info().expect("it is loaded").id().to_string();
    let output = Command::new("bpftool").args(["prog", "dump", "xlated", "id", &id]).output();
    String::from_utf8(output.expect("bpftool runs").stdout).expect("text")
}

#[test]
fn kernels_without_set_retval_never_see_a_call_of_it() {
    for name in ["connect4", "connect6", "sendmsg4", "sendmsg6"] {
        let [without, with] = [0, 1].map(|has| translated(name, has));
        assert!(with.contains("bpf_set_retval"), "{with}");
        assert!(without.contains("bpf_get_prandom_u32") || without.contains("bpf_user_rnd_u32"));
        assert!(!without.contains("bpf_set_retval"), "{without}");
    }
}
