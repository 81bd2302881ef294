//! Handshake and encryption of one connection. No I/O.

use snow::{Builder, HandshakeState, TransportState};

use super::frame::MAX_CHUNK;
use super::{Hello, HelloError, Protection};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"kube-vip quorum";

/// Why two hosts did not come to talk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The other side does not know the secret, or is something else altogether.
    #[error("the other side does not know the secret (`secret` must be the same on all hosts)")]
    Secret,
    /// It knows it, but the hosts do not go together.
    #[error(transparent)]
    Hello(#[from] HelloError),
}

/// A handshake that is under way.
#[derive(Debug)]
pub(super) struct Handshake {
    noise: Option<Box<HandshakeState>>,
    own: Hello,
}

/// An open connection: seals and opens chunks, each in its order and once.
#[derive(Debug)]
pub(super) struct Session {
    noise: Option<Box<TransportState>>,
    /// Who is at the other end; whether it is really there is known once a chunk has been opened.
    pub(super) peer: Hello,
}

impl Handshake {
    /// One side of a handshake; the initiator is the one that has connected.
    pub(super) fn new(protection: &Protection, initiator: bool, own: Hello) -> Self {
        let noise = match protection {
            Protection::Insecure => None,
            Protection::Secret(secret) => {
                let builder = Builder::new(PATTERN.parse().expect("a pattern that snow knows"));
                let builder = builder.prologue(PROLOGUE).and_then(|it| it.psk(0, secret.bytes()));
                let built = builder.and_then(|builder| {
                    if initiator { builder.build_initiator() } else { builder.build_responder() }
                });
                Some(Box::new(built.expect("a complete set of keys")))
            }
        };
        Self { noise, own }
    }

    /// This side's message.
    pub(super) fn write(&mut self) -> Result<Vec<u8>, HandshakeError> {
        let hello = self.own.encode();
        let Some(noise) = &mut self.noise else { return Ok(hello) };
        let mut message = vec![0; hello.len() + 128];
        let length =
            noise.write_message(&hello, &mut message).map_err(|_| HandshakeError::Secret)?;
        message.truncate(length);
        Ok(message)
    }

    /// The other side's message.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<Hello, HandshakeError> {
        let Some(noise) = &mut self.noise else { return Ok(Hello::decode(message)?) };
        let mut hello = vec![0; message.len()];
        let length = noise.read_message(message, &mut hello).map_err(|_| HandshakeError::Secret)?;
        Ok(Hello::decode(&hello[..length])?)
    }

    /// Both messages are through. The hosts may still not go together.
    pub(super) fn finish(self, peer: Hello) -> Result<Session, HandshakeError> {
        self.own.meet(&peer)?;
        let noise = self.noise.map(|noise| noise.into_transport_mode());
        let noise = noise.transpose().map_err(|_| HandshakeError::Secret)?;
        Ok(Session { noise: noise.map(Box::new), peer })
    }
}

impl Session {
    /// What to send of a chunk.
    pub(super) fn seal(&mut self, chunk: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let Some(noise) = &mut self.noise else { return Ok(chunk.to_vec()) };
        let mut sealed = vec![0; MAX_CHUNK.min(chunk.len() + 16)];
        let length = noise.write_message(chunk, &mut sealed).map_err(|_| HandshakeError::Secret)?;
        sealed.truncate(length);
        Ok(sealed)
    }

    /// The chunk in what has come. Anything that the other side has not sealed, or not in this
    /// place of this connection, is refused.
    pub(super) fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let Some(noise) = &mut self.noise else { return Ok(sealed.to_vec()) };
        let mut chunk = vec![0; sealed.len()];
        let length = noise.read_message(sealed, &mut chunk).map_err(|_| HandshakeError::Secret)?;
        chunk.truncate(length);
        Ok(chunk)
    }
}
