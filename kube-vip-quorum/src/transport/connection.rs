//! Reading and writing chunks, and the handshake, on a TCP stream.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::frame::{Assembler, MAX_CHUNK, Message};
use super::session::{Handshake, HandshakeError, Session};
use super::{FrameError, Hello, Protection};

/// A hello with names and numbers has a few hundred bytes.
const MAX_HELLO: usize = 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The half that messages come from.
pub(super) struct Reader {
    stream: OwnedReadHalf,
    session: Arc<Mutex<Session>>,
    assembler: Assembler,
}

/// The half that messages go to.
pub(super) struct Writer {
    stream: OwnedWriteHalf,
    session: Arc<Mutex<Session>>,
}

impl Reader {
    pub(super) async fn next(&mut self) -> Result<Message, ConnectionError> {
        loop {
            let sealed = read_block(&mut self.stream, MAX_CHUNK).await?;
            let chunk = lock(&self.session).open(&sealed)?;
            if let Some(message) = self.assembler.push(&chunk)? {
                return Ok(message);
            }
        }
    }
}

impl Writer {
    pub(super) async fn send(&mut self, message: &Message) -> Result<(), ConnectionError> {
        let mut bytes = Vec::new();
        for chunk in message.chunks()? {
            let sealed = lock(&self.session).seal(&chunk)?;
            bytes.extend_from_slice(&block(&sealed));
        }
        Ok(self.stream.write_all(&bytes).await?)
    }
}

/// Shakes hands as the side that has connected.
pub(super) async fn initiate(
    mut stream: TcpStream,
    protection: &Protection,
    own: Hello,
) -> Result<(Reader, Writer, Hello), ConnectionError> {
    let mut handshake = Handshake::new(protection, true, own);
    stream.write_all(&block(&handshake.write()?)).await?;
    let answer = match read_block(&mut stream, MAX_HELLO).await {
        // Who does not know our secret says nothing and hangs up.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(HandshakeError::Secret.into());
        }
        answer => answer?,
    };
    let peer = handshake.read(&answer)?;
    Ok(split(stream, handshake.finish(peer)?))
}

/// Shakes hands as the side that was connected to.
pub(super) async fn respond(
    mut stream: TcpStream,
    protection: &Protection,
    own: Hello,
) -> Result<(Reader, Writer, Hello), ConnectionError> {
    let mut handshake = Handshake::new(protection, false, own);
    let first = read_block(&mut stream, MAX_HELLO).await?;
    let peer = handshake.read(&first)?;
    // The other side is told who we are even if we do not go together: it can say so, too.
    stream.write_all(&block(&handshake.write()?)).await?;
    Ok(split(stream, handshake.finish(peer)?))
}

fn split(stream: TcpStream, session: Session) -> (Reader, Writer, Hello) {
    let peer = session.peer.clone();
    let session = Arc::new(Mutex::new(session));
    let (read, write) = stream.into_split();
    let reader =
        Reader { stream: read, session: Arc::clone(&session), assembler: Assembler::default() };
    (reader, Writer { stream: write, session }, peer)
}

/// Connects, with what makes a dead peer be noticed soon.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    prepare(&stream)?;
    Ok(stream)
}

/// Small messages leave at once; a peer that is silent for seconds is given up.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(5)))
}

fn lock(session: &Mutex<Session>) -> std::sync::MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

fn block(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

async fn read_block(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length == 0 || length > most {
        let message = format!("a block of {length} bytes, at most {most} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut block = vec![0; length];
    stream.read_exact(&mut block).await?;
    Ok(block)
}
