//! What `cargo xtask bench` measures.
fn main() {}
