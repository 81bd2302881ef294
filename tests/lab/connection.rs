//! One TCP connection of a client, used step by step.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::content;
use crate::host::Host;

/// How long a step may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who answered, and what client address it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The name of the host the server runs on.
    pub host: String,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
}

impl Who {
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let words = line.trim_end().split_once(' ');
        let parsed = words.and_then(|(host, client)| {
            Some(Self { host: host.to_owned(), client: client.parse().ok()? })
        });
        parsed.with_context(|| format!("{line:?} is no answer of a lab server"))
    }
}

/// An open connection to a server of the lab.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects from inside `host`.
    pub fn open(host: &Host, target: SocketAddr) -> Result<Self> {
        Self::open_from(host, target, None, Duration::from_secs(5))
    }

    /// Connects from a given source (port 0 for any), or gives up after `patience`.
    pub fn open_from(
        host: &Host,
        target: SocketAddr,
        source: Option<SocketAddr>,
        patience: Duration,
    ) -> Result<Self> {
        host.in_net(|| {
            let socket =
                Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
            if let Some(source) = source {
                // A port whose last connection is in TIME-WAIT may be used again.
                socket.set_reuse_address(true)?;
                socket.bind(&source.into()).with_context(|| format!("binding {source}"))?;
            }
            socket
                .connect_timeout(&target.into(), patience)
                .with_context(|| format!("connecting from {} to {target}", host.name()))?;
            Self::of(socket.into())
        })
    }

    pub(crate) fn of(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::with_capacity(64 << 10, stream) })
    }

    /// The client's own address.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.get_ref().local_addr()?)
    }

    /// Asks who is at the other end.
    pub fn who(&mut self) -> Result<Who> {
        Who::parse(&self.ask("who")?)
    }

    /// Sends a text and expects it back.
    pub fn echo(&mut self, text: &str) -> Result<()> {
        let answer = self.ask(&format!("echo {text}"))?;
        ensure!(answer.trim_end() == text, "sent {text:?}, got {answer:?} back");
        Ok(())
    }

    /// Sends `length` bytes, which the server checks.
    pub fn upload(&mut self, length: u64) -> Result<()> {
        self.send(format!("upload {length}\n").as_bytes())?;
        let mut sent = 0;
        while sent < length {
            let part = content::from_offset(sent, length - sent);
            self.send(part).with_context(|| format!("after {sent} of {length} bytes"))?;
            sent += part.len() as u64;
        }
        let verdict = self.read_line()?;
        ensure!(verdict.trim_end() == format!("ok {length}"), "upload of {length}: {verdict:?}");
        Ok(())
    }

    /// Receives `length` bytes and checks them.
    pub fn download(&mut self, length: u64) -> Result<()> {
        self.send(format!("download {length}\n").as_bytes())?;
        let mut buffer = vec![0; 256 << 10];
        let mut received = 0;
        while received < length {
            let most = buffer.len().min(usize::try_from(length - received)?);
            let got = self
                .stream
                .read(&mut buffer[..most])
                .with_context(|| format!("after {received} of {length} bytes"))?;
            ensure!(got > 0, "the server closed after {received} of {length} bytes");
            if let Some(at) = content::first_difference(received, &buffer[..got]) {
                bail!("byte {at} of a download of {length} differs");
            }
            received += got as u64;
        }
        Ok(())
    }

    /// Sends a line and reads one.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.send(format!("{line}\n").as_bytes())?;
        self.read_line()
    }

    /// Reads a line (a banner).
    pub fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        let got = self.stream.read_line(&mut line).context("waiting for an answer")?;
        ensure!(got > 0, "the server closed the connection instead of answering");
        Ok(line)
    }

    /// Ends it with RST instead of FIN.
    pub fn reset(self) -> Result<()> {
        Ok(socket2::SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO))?)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes)?)
    }
}

/// How a connection attempt ended, for tests that expect it to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Somebody accepted it.
    Accepted,
    /// RST.
    Refused,
    /// An ICMP error.
    Unreachable,
    /// No answer at all.
    Silence,
}

impl Attempt {
    /// Tries to connect from inside `host`.
    pub fn to(host: &Host, target: SocketAddr, patience: Duration) -> Result<Self> {
        let Err(error) = Connection::open_from(host, target, None, patience) else {
            return Ok(Self::Accepted);
        };
        match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(ErrorKind::ConnectionRefused) => Ok(Self::Refused),
            Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
                Ok(Self::Unreachable)
            }
            Some(ErrorKind::TimedOut | ErrorKind::WouldBlock) => Ok(Self::Silence),
            _ => Err(error),
        }
    }
}

/// Sends one datagram from inside `host`, from a given port if wanted, and waits for the answer.
pub fn ask_by_datagram(host: &Host, target: SocketAddr, source_port: u16) -> Result<Who> {
    host.in_net(|| {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = std::net::UdpSocket::bind((any, source_port))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send(b"who")?;
        let mut buffer = [0; 512];
        let got = socket
            .recv(&mut buffer)
            .with_context(|| format!("waiting for the answer of {target} in {}", host.name()))?;
        Who::parse(&String::from_utf8_lossy(&buffer[..got]))
    })
}
