//! What `cargo xtask bench` measures.

mod frames;
mod kernel;
mod measure;
mod ways;

use anyhow::Result;
use kernel::{Hook, Kernel, Variant};
use measure::Samples;

fn main() -> Result<()> {
    measure::pin()?;
    let mut kernel = Kernel::load()?;
    let only = std::env::args().nth(2).unwrap_or_default();
    let mut ways = ways::all();
    ways.retain(|way| format!("{} {} {}", way.name, way.family, way.flows).contains(&only));
    for way in &ways {
        if std::env::var_os("BENCH_NOCHECK").is_none() { way.check(&mut kernel)?; }
    }
    let (mut floor, mut floor_tc) = (Samples::default(), Samples::default());
    let rounds = std::env::args().nth(1).map_or(9, |n| n.parse().unwrap_or(9));
    for _ in 0..rounds {
        floor.add(kernel.time(Hook::Xdp, Variant::Floor, &[0; 64], 1_000_000)?);
        floor_tc.add(kernel.time(Hook::Egress, Variant::Floor, &[0; 64], 1_000_000)?);
        for way in &mut ways {
            way.sample(&mut kernel, 1_000_000)?;
        }
    }
    println!("floor {:.1} {:.1}", floor.median(), floor_tc.median());
    for way in &ways {
        let floor = if way.hook == Hook::Xdp { &floor } else { &floor_tc };
        let floor = floor.median();
        let net = if way.changes { way.raw.median() - (way.null.median() - floor) } else { way.raw.median() };
        println!(
            "{:26} {:5} {:7} {:6.1} ({:.1}-{:.1}) null {:.1} raw/floor {:.2} net/floor {:.2} {:?}",
            way.name, way.family, way.flows, way.raw.median(), way.raw.min(), way.raw.max(), way.null.median(),
            way.raw.median() / floor, net / floor, way.target,
        );
    }
    Ok(())
}
