//! A client that is a process of its host: `visitor KIND TARGET COUNT`.
//!
//! The lab's other clients are threads of the test, which is in none of the hosts' cgroups. For
//! each visit a line says `ok HOST PEER`, the host that answered and the peer the socket shows, or
//! `error KIND`. KIND is `tcp`, `udp` (connected), `sendto` (not connected), or `hold`: TCP, and the
//! same lines again after each line that is read.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// How long a visit may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> io::Result<()> {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let wrong = || io::Error::new(ErrorKind::InvalidInput, "visitor KIND TARGET COUNT");
    let [kind, target, count] = arguments.as_slice() else {
        return Err(wrong());
    };
    let target = target.parse::<SocketAddr>().map_err(|_| wrong())?;
    let count = count.parse::<usize>().map_err(|_| wrong())?;
    let visit = match kind.as_str() {
        "tcp" => |target| ask(&mut open(target)?),
        "udp" => connected,
        "sendto" => unconnected,
        "hold" => return hold(target, count),
        _ => return Err(wrong()),
    };
    (0..count).try_for_each(|_| say(visit(target)))
}

type Answer = io::Result<(String, SocketAddr)>;

fn say(answer: Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match answer {
        Ok((host, peer)) => writeln!(out, "ok {host} {peer}"),
        Err(error) => writeln!(out, "error {:?}", error.kind()),
    }
}

fn open(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> Answer {
    stream.write_all(b"who\n")?;
    let mut line = String::new();
    // The server says one line and waits.
    BufReader::new(&*stream).read_line(&mut line)?;
    Ok((host(line.as_bytes())?, stream.peer_addr()?))
}

fn hold(target: SocketAddr, count: usize) -> io::Result<()> {
    let mut streams = (0..count).map(|_| open(target)).collect::<io::Result<Vec<_>>>()?;
    streams.iter_mut().try_for_each(|stream| say(ask(stream)))?;
    for line in io::stdin().lines() {
        line?;
        streams.iter_mut().try_for_each(|stream| say(ask(stream)))?;
    }
    Ok(())
}

/// The name that a server's answer begins with.
fn host(answer: &[u8]) -> io::Result<String> {
    let text = String::from_utf8_lossy(answer);
    let name = text.split(' ').next().filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

fn socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> Answer {
    let mut buffer = [0; 512];
    let (length, peer) = socket.recv_from(&mut buffer)?;
    Ok((host(&buffer[..length])?, peer))
}

/// Answers that must all be the same.
fn same(answers: &[(String, SocketAddr)]) -> Answer {
    match answers {
        [first, rest @ ..] if rest.iter().all(|one| one == first) => Ok(first.clone()),
        _ => Err(io::Error::new(ErrorKind::InvalidData, format!("{answers:?}"))),
    }
}

fn connected(target: SocketAddr) -> Answer {
    let socket = socket(target)?;
    socket.connect(target)?;
    socket.send(b"who")?;
    let first = receive(&socket)?;
    let shown = (first.0.clone(), socket.peer_addr()?);
    // The same peer by name: it must be the one the socket takes answers from.
    socket.send_to(b"who", target)?;
    let second = receive(&socket)?;
    same(&[first, shown, second])
}

fn unconnected(target: SocketAddr) -> Answer {
    let socket = socket(target)?;
    let ask = |_| {
        socket.send_to(b"who", target)?;
        receive(&socket)
    };
    same(&(0..3).map(ask).collect::<io::Result<Vec<_>>>()?)
}
