//! Three hosts with an agent and one without share what arrives at a virtual address, on one machine, for
//! somebody who watches.

mod loss;
mod paint;
mod story;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lab::Server;

/// Shows a virtual address held by three hosts, which share the connections to it with a fourth that
/// has no agent. Then its owner is lost, and the next owner's agent hangs.
///
/// The hosts are made on this machine, with networks of their own, and are gone when the demo
/// ends. Everything shown is measured while it happens.
#[derive(Parser)]
#[command(bin_name = "cargo xtask demo")]
struct Arguments {
    /// Leave the hosts running at the end, and say how to enter them
    #[arg(long)]
    keep: bool,
    /// How many connections to open at each address
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u16).range(1..=20000))]
    connections: u16,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// A backend, started by the demo inside one of its hosts
    #[command(hide = true)]
    Serve {
        /// The host it is in
        name: String,
        /// Where it listens
        addresses: Vec<SocketAddr>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(Role::Serve { name, addresses }) => serve(name, addresses),
        None => {
            end_on_interrupt();
            story::tell(arguments.connections.into(), arguments.keep)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(name: &str, addresses: &[SocketAddr]) -> Result<()> {
    let _server = Server::here(name, addresses)?;
    println!("{}", story::LISTENING);
    loop {
        std::thread::park();
    }
}

/// The lab goes by itself when this process ends; this only says so.
fn end_on_interrupt() {
    std::thread::spawn(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(tokio::signal::ctrl_c()).context("waiting for Ctrl-C")?;
        eprintln!("\ndemo: interrupted, the hosts are removed");
        std::process::exit(130);
    });
}
