//! Starts the program; what it can do is in `kube_vip::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kube_vip::cli::main()
}
