//! How hosts talk: requests and answers over TCP, encrypted and authenticated by one secret.
//!
//! A connection begins with a handshake (`Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`): who does not
//! know the secret cannot make the first message, so it gets no answer at all; who replays one
//! cannot make the second. `frame` and `hello` are free of I/O.

mod client;
mod connection;
mod frame;
mod hello;
mod secret;
mod server;
mod session;
#[cfg(test)]
mod tests;

pub use client::{CallError, Client, Lane};
pub use frame::{FrameError, MAX_ASIDE, MAX_MESSAGE};
pub use hello::{ClusterId, Hello, HelloError, VERSIONS, Versions};
pub use secret::{Secret, SecretError};
pub use server::{Answering, Handler, Limits, Server};
pub use session::HandshakeError;

/// What protects what the hosts say to each other.
#[derive(Clone, Debug)]
pub enum Protection {
    /// The secret that all hosts share.
    Secret(Secret),
    /// Nothing: whoever reaches the port can take part.
    Insecure,
}
