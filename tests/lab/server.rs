//! Backends: TCP and UDP servers that say who they are and whom they saw.
//!
//! TCP is spoken in lines: `who` is answered with the host's name and the client's address as
//! the server sees it, `echo TEXT` with TEXT, `download N` with N bytes of known content,
//! `upload N` and N bytes of it with `ok N` or `differs at K`. Connections stay open until the
//! client ends them. A UDP datagram is answered like `who`, unless it begins with `echo `: that one
//! comes back as it is, and `echo ` alone as a datagram without content.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::agent::PATIENCE;
use crate::content;
use crate::host::Host;
use crate::net::NetRuntime;
use crate::wait::eventually;

/// Servers on one host; they end, with all their connections, when this is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    _runtime: NetRuntime,
}

#[derive(Debug)]
struct Shared {
    name: String,
    /// Said first on every connection, as SSH does.
    banner: Option<String>,
    tcp: Mutex<Vec<SocketAddr>>,
    udp: Mutex<Vec<SocketAddr>>,
}

impl Server {
    /// TCP and UDP on each of `addresses`, which the host need not hold yet.
    pub fn start(host: &Host, addresses: &[SocketAddr]) -> Result<Self> {
        Self::launch(Some(host), host.name(), addresses, None)
    }

    /// A server that greets every TCP connection with `banner`.
    pub fn with_banner(host: &Host, addresses: &[SocketAddr], banner: &str) -> Result<Self> {
        Self::launch(Some(host), host.name(), addresses, Some(format!("{banner}\r\n")))
    }

    /// TCP and UDP on the host's own IPv4 and IPv6 address at `port`.
    pub fn on_port(host: &Host, port: u16) -> Result<Self> {
        Self::start(host, &[(host.v4(), port).into(), (host.v6(), port).into()])
    }

    /// Where this process is, for a process that runs in a host already.
    pub fn here(name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        Self::launch(None, name, addresses, None)
    }

    fn launch(
        host: Option<&Host>,
        name: &str,
        addresses: &[SocketAddr],
        banner: Option<String>,
    ) -> Result<Self> {
        let runtime = NetRuntime::start(host)?;
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            banner,
            tcp: Mutex::default(),
            udp: Mutex::default(),
        });
        for &address in addresses {
            // A process that is just being started in another host may hold an earlier listener
            // until it becomes its program.
            eventually(PATIENCE, "a free address", || {
                let shared = Arc::clone(&shared);
                runtime.run(async move { listen(address, &shared) })
            })?;
        }
        Ok(Self { shared, _runtime: runtime })
    }

    /// The clients of all TCP connections so far, as this server saw them.
    pub fn tcp_clients(&self) -> Vec<SocketAddr> {
        copy(&self.shared.tcp)
    }

    /// The senders of all datagrams so far, as this server saw them.
    pub fn udp_clients(&self) -> Vec<SocketAddr> {
        copy(&self.shared.udp)
    }
}

fn copy(list: &Mutex<Vec<SocketAddr>>) -> Vec<SocketAddr> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn note(list: &Mutex<Vec<SocketAddr>>, client: SocketAddr) {
    list.lock().unwrap_or_else(PoisonError::into_inner).push(client);
}

fn listen(address: SocketAddr, shared: &Arc<Shared>) -> Result<()> {
    let what = || format!("listening on {address} in {}", shared.name);
    let stream = bound(address, Type::STREAM, Protocol::TCP).with_context(what)?;
    stream.listen(4096).with_context(what)?;
    let listener = TcpListener::from_std(stream.into()).with_context(what)?;
    let datagrams = bound(address, Type::DGRAM, Protocol::UDP).with_context(what)?;
    // A server that is late on a busy machine must not be the one who loses datagrams.
    setsockopt(&datagrams, RcvBufForce, &(8 << 20)).with_context(what)?;
    let datagrams = UdpSocket::from_std(datagrams.into()).with_context(what)?;
    tokio::spawn(accept(listener, Arc::clone(shared)));
    tokio::spawn(answer_datagrams(datagrams, Arc::clone(shared)));
    Ok(())
}

fn bound(address: SocketAddr, kind: Type, protocol: Protocol) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                note(&shared.tcp, client);
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A client that resets its connection is no concern of the server's.
                    let _ = serve(stream, client, &shared).await;
                });
            }
            Err(error) => eprintln!("lab: a server of {} cannot accept: {error}", shared.name),
        }
    }
}

async fn serve(stream: TcpStream, client: SocketAddr, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    if let Some(banner) = &shared.banner {
        stream.write_all(banner.as_bytes()).await?;
    }
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (verb, rest.parse::<u64>()) {
            ("who", _) => {
                stream.write_all(format!("{} {client}\n", shared.name).as_bytes()).await?;
            }
            ("echo", _) => stream.write_all(format!("{rest}\n").as_bytes()).await?,
            ("download", Ok(length)) => download(&mut stream, length).await?,
            ("upload", Ok(length)) => upload(&mut stream, length).await?,
            _ => stream.write_all(format!("cannot {line:?}\n").as_bytes()).await?,
        }
    }
}

async fn download(stream: &mut BufReader<TcpStream>, length: u64) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < length {
        let part = content::from_offset(sent, length - sent);
        stream.write_all(part).await?;
        sent += part.len() as u64;
    }
    Ok(())
}

async fn upload(stream: &mut BufReader<TcpStream>, length: u64) -> std::io::Result<()> {
    let (mut received, mut differs) = (0, None);
    let mut buffer = vec![0; 256 << 10];
    while received < length {
        let most = buffer.len().min(usize::try_from(length - received).unwrap_or(usize::MAX));
        let got = stream.read(&mut buffer[..most]).await?;
        if got == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        differs = differs.or_else(|| content::first_difference(received, &buffer[..got]));
        received += got as u64;
    }
    let verdict = differs.map_or(format!("ok {received}\n"), |at| format!("differs at {at}\n"));
    stream.write_all(verdict.as_bytes()).await
}

async fn answer_datagrams(socket: UdpSocket, shared: Arc<Shared>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        // Errors here are ICMP answers to datagrams sent before; the socket lives on.
        if let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            note(&shared.udp, client);
            let who = format!("{} {client}\n", shared.name);
            let answer = match &buffer[..length] {
                b"echo " => b"",
                datagram if datagram.starts_with(b"echo ") => datagram,
                _ => who.as_bytes(),
            };
            let _ = socket.send_to(answer, client).await;
        }
    }
}
