//! The lab itself, with nothing but the kernel in it.

use anyhow::Result;
use lab::Lab;
use std::time::Instant;

#[test]
fn hosts_reach_each_other() -> Result<()> {
    let began = Instant::now();
    let lab = Lab::bridge(3, 1)?;
    let built = began.elapsed();
    println!("built in {built:?}");
    let client = lab.host("c1");
    for node in lab.nodes() {
        client.run(&["ping", "-c1", "-W1", &node.v4().to_string()])?;
        client.run(&["ping", "-c1", "-W1", &node.v6().to_string()])?;
    }
    println!("{}", client.shell("hostname; cat /proc/self/cgroup; ls /sys/class/net /sys/fs/bpf /sys/fs/cgroup /run; ip -br a; findmnt -t bpf,cgroup2,sysfs,tmpfs")?);
    let began = Instant::now();
    drop(lab);
    println!("gone in {:?}", began.elapsed());
    Ok(())
}
