//! Both sides on loopback, and what strangers can do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::cluster::NodeId;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LONG: Duration = Duration::from_secs(10);

/// Answers every request with its bytes reversed; nothing to one that says so.
struct Reverse {
    hello: Hello,
    handled: AtomicU64,
}

impl Handler for Reverse {
    fn hello(&self) -> Hello {
        self.hello.clone()
    }

    fn knows(&self, address: IpAddr) -> bool {
        address == HOME
    }

    fn handle(self: Arc<Self>, _: Arc<Hello>, mut request: Vec<u8>) -> Answering {
        Box::pin(async move {
            self.handled.fetch_add(1, Ordering::Relaxed);
            request.reverse();
            (request != b"gnihton").then_some(request)
        })
    }

    /// Slowly, and told from the others.
    fn aside(self: Arc<Self>, _: Arc<Hello>, body: Vec<u8>) -> Answering {
        Box::pin(async move {
            sleep(Duration::from_millis(200)).await;
            Some([b"aside: ", &body[..]].concat())
        })
    }
}

fn hello(node: NodeId) -> Hello {
    Hello { versions: VERSIONS, cluster: None, node, name: format!("n{node}"), lease: 5 }
}

async fn server(protection: &Protection, limits: Limits, hello: Hello) -> (Server, Arc<Reverse>) {
    let handler = Arc::new(Reverse { hello, handled: AtomicU64::new(0) });
    let address = SocketAddr::new(HOME, 0);
    let server =
        Server::listen(address, protection.clone(), limits, Arc::clone(&handler)).await.unwrap();
    (server, handler)
}

fn client(address: SocketAddr, protection: &Protection, own: Hello) -> Client {
    Client::new(&[address], None, protection, move || own.clone())
}

fn secret() -> Protection {
    Protection::Secret(Secret::random().unwrap())
}

#[tokio::test]
async fn requests_are_answered_on_every_lane() {
    for protection in [secret(), Protection::Insecure] {
        let (server, handler) = server(&protection, Limits::default(), hello(1)).await;
        let client = client(server.address(), &protection, hello(2));
        for lane in [Lane::Bulk, Lane::Urgent(0), Lane::Urgent(1)] {
            let answer = client.call(lane, b"abc".to_vec(), LONG).await;
            assert_eq!(answer, Ok(b"cba".to_vec()));
        }
        let long: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let answer = client.call(Lane::Bulk, long.clone(), LONG).await.unwrap();
        assert!(answer.iter().rev().eq(&long));
        assert_eq!(client.met(), Some(hello(1)));
        assert_eq!(handler.handled.load(Ordering::Relaxed), 4);
        assert_eq!(server.refused(), 0);
    }
}

#[tokio::test]
async fn what_is_somebody_elses_goes_aside_and_holds_nothing_up() {
    let protection = secret();
    let (server, handler) = server(&protection, Limits::default(), hello(1)).await;
    let client = Arc::new(client(server.address(), &protection, hello(2)));
    let long = vec![7; MAX_ASIDE];
    let aside = {
        let (client, long) = (Arc::clone(&client), long.clone());
        tokio::spawn(async move { client.call(Lane::Aside, long, LONG).await })
    };
    for number in 0..20 {
        client.call(Lane::Urgent(number), b"abc".to_vec(), LONG).await.unwrap();
    }
    assert!(!aside.is_finished(), "it takes 200 ms");
    let answer = aside.await.unwrap().unwrap();
    assert_eq!(answer, [b"aside: ", &long[..]].concat());
    assert_eq!(handler.handled.load(Ordering::Relaxed), 20, "it is no request");
    let longer = vec![7; MAX_ASIDE + 1];
    let refused = client.call(Lane::Aside, longer, LONG).await;
    assert_eq!(refused, Err(CallError::TooLong(MAX_ASIDE + 1)));
}

#[tokio::test]
async fn answers_find_their_requests() {
    let protection = secret();
    let (server, _) = server(&protection, Limits::default(), hello(1)).await;
    let client = Arc::new(client(server.address(), &protection, hello(2)));
    let calls = (0..300u32).map(|n| {
        let client = Arc::clone(&client);
        tokio::spawn(async move {
            let body = n.to_be_bytes();
            let answer = client.call(Lane::Urgent(0), body.to_vec(), LONG).await.unwrap();
            assert_eq!(answer, n.to_le_bytes());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn wrong_secret_is_named_and_reaches_no_handler() {
    let (server, handler) = server(&secret(), Limits::default(), hello(1)).await;
    for protection in [secret(), Protection::Insecure] {
        let client = client(server.address(), &protection, hello(2));
        let error = client.call(Lane::Bulk, b"abc".to_vec(), LONG).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("does not know the secret"), "{text}");
        assert_eq!(client.met(), None, "it has learned nothing");
    }
    assert_eq!(server.refused(), 2);
    assert_eq!(handler.handled.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn hosts_that_do_not_go_together_both_say_so() {
    let protection = secret();
    let later = Versions { oldest: 8, newest: 9 };
    let (server, handler) =
        server(&protection, Limits::default(), Hello { versions: later, ..hello(1) }).await;
    let client = client(server.address(), &protection, hello(2));
    let error = client.call(Lane::Bulk, b"abc".to_vec(), LONG).await.unwrap_err().to_string();
    assert!(error.contains("n1 speaks version 8 to 9"), "{error}");
    assert_eq!((server.refused(), handler.handled.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test]
async fn other_host_than_the_one_that_was_meant_is_not_spoken_to() {
    let protection = secret();
    let (server, handler) = server(&protection, Limits::default(), hello(1)).await;
    let own = || hello(2);
    let client = Client::new(&[server.address()], Some(7), &protection, own);
    let error = client.call(Lane::Bulk, b"abc".to_vec(), LONG).await.unwrap_err().to_string();
    assert!(error.contains("n1 is there with a new state directory"), "{error}");
    assert_eq!(handler.handled.load(Ordering::Relaxed), 0);
}

/// Copies one connection to the server and keeps what the client has sent.
async fn record(listener: TcpListener, server: SocketAddr) -> Vec<u8> {
    let (mut near, _) = listener.accept().await.unwrap();
    let mut far = TcpStream::connect(server).await.unwrap();
    let (mut seen, mut sent, mut answered) = (Vec::new(), vec![0; 4096], vec![0; 4096]);
    loop {
        tokio::select! {
            length = near.read(&mut sent) => match length {
                Ok(length @ 1..) => {
                    seen.extend_from_slice(&sent[..length]);
                    far.write_all(&sent[..length]).await.unwrap();
                }
                _ => return seen,
            },
            length = far.read(&mut answered) => {
                near.write_all(&answered[..length.unwrap()]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn replay_is_refused() {
    let protection = secret();
    let (server, handler) = server(&protection, Limits::default(), hello(1)).await;
    let listener = TcpListener::bind((HOME, 0)).await.unwrap();
    let through = listener.local_addr().unwrap();
    let recording = tokio::spawn(record(listener, server.address()));
    let client = client(through, &protection, hello(2));
    assert!(client.call(Lane::Bulk, b"abc".to_vec(), LONG).await.is_ok());
    drop(client);
    let recorded = recording.await.unwrap();
    assert_eq!(handler.handled.load(Ordering::Relaxed), 1);

    let mut replay = TcpStream::connect(server.address()).await.unwrap();
    replay.write_all(&recorded).await.unwrap();
    let mut answer = Vec::new();
    timeout(LONG, replay.read_to_end(&mut answer)).await.unwrap().unwrap();
    // The server's half of the handshake comes, with another key in it, and nothing else.
    assert!(answer.len() < 400, "{}", answer.len());
    assert!(!answer.windows(2).any(|bytes| bytes == b"n1"), "and it says nothing");
    assert_eq!(handler.handled.load(Ordering::Relaxed), 1, "the request was not heard twice");
}

#[tokio::test]
async fn garbage_gets_no_answer() {
    let (server, handler) = server(&secret(), Limits::default(), hello(1)).await;
    let block = |length: u16| [&length.to_be_bytes()[..], &vec![0x5a; length.into()]].concat();
    let cases: [Vec<u8>; 5] = [
        b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n".to_vec(),
        vec![0; 64],
        block(1),
        block(200),
        block(1024),
    ];
    for (count, garbage) in cases.iter().enumerate() {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"", "after {garbage:?}");
        assert_eq!(server.refused(), count as u64 + 1);
    }
    assert_eq!(handler.handled.load(Ordering::Relaxed), 0);
}

async fn stranger(to: SocketAddr, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn flood_of_half_open_connections_keeps_no_peer_out() {
    let protection = secret();
    let limits = Limits { half_open_strangers: 16, handshake: LONG, ..Limits::default() };
    let (server, _) = server(&protection, limits, hello(1)).await;
    let established = client(server.address(), &protection, hello(2));
    assert!(established.call(Lane::Bulk, b"abc".to_vec(), LONG).await.is_ok());
    let mut flood = Vec::new();
    for n in 0..200 {
        flood.push(stranger(server.address(), [127, 0, 0, 2 + n % 20]).await);
    }
    let deadline = Instant::now() + LONG;
    while server.refused() < 200 - 16 && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.refused(), 200 - 16, "the rest holds the places there are for strangers");
    let newcomer = client(server.address(), &protection, hello(3));
    for client in [&established, &newcomer] {
        let answer = client.call(Lane::Bulk, b"abc".to_vec(), Duration::from_secs(2)).await;
        assert_eq!(answer, Ok(b"cba".to_vec()));
    }
    // One address has fewer places, even a peer's.
    let from_home: Vec<_> = (0..20).map(|_| stranger(server.address(), [127, 0, 0, 1])).collect();
    let mut held = Vec::new();
    for stranger in from_home {
        held.push(stranger.await);
    }
    while server.refused() < 200 - 16 + 12 && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.refused(), 200 - 16 + 12);
    drop(flood);
}

#[tokio::test]
async fn slow_handshake_is_ended() {
    let limits = Limits { handshake: Duration::from_millis(50), ..Limits::default() };
    let (server, _) = server(&secret(), limits, hello(1)).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&[0, 200, 1]).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!((answer.len(), server.refused()), (0, 1));
}

#[tokio::test]
async fn silent_request_runs_into_its_timeout_and_the_next_is_answered() {
    let protection = secret();
    let (server, _) = server(&protection, Limits::default(), hello(1)).await;
    let client = client(server.address(), &protection, hello(2));
    let within = Duration::from_millis(50);
    let answer = client.call(Lane::Bulk, b"nothing".to_vec(), within).await;
    assert_eq!(answer, Err(CallError::Timeout(within)));
    assert_eq!(client.call(Lane::Bulk, b"ab".to_vec(), LONG).await, Ok(b"ba".to_vec()));
}

#[tokio::test]
async fn client_connects_anew_to_a_peer_that_comes_back() {
    let protection = secret();
    let (mut server, _) = server(&protection, Limits::default(), hello(1)).await;
    let address = server.address();
    let client = client(address, &protection, hello(2));
    assert!(client.call(Lane::Urgent(0), b"a".to_vec(), LONG).await.is_ok());
    server.close().await;
    let error = client.call(Lane::Urgent(0), b"a".to_vec(), LONG).await.unwrap_err();
    assert!(matches!(error, CallError::Broken | CallError::Unreachable { .. }), "{error}");
    let handler = Arc::new(Reverse { hello: hello(1), handled: AtomicU64::new(0) });
    let _server = Server::listen(address, protection, Limits::default(), handler).await.unwrap();
    let deadline = Instant::now() + LONG;
    while client.call(Lane::Urgent(0), b"a".to_vec(), LONG).await.is_err() {
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn peer_that_falls_silent_is_given_up() {
    let listener = TcpListener::bind((HOME, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    // It takes connections and shakes hands, and then says nothing more.
    let mute = tokio::spawn(async move {
        let mut held = Vec::new();
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            held.push(connection::respond(stream, &Protection::Insecure, hello(1)).await.unwrap());
        }
        held
    });
    let client = client(address, &Protection::Insecure, hello(2));
    assert_eq!(client.call(Lane::Urgent(0), b"a".to_vec(), LONG).await, Err(CallError::Broken));
    let second = client.call(Lane::Urgent(0), b"a".to_vec(), LONG).await;
    assert_eq!(second, Err(CallError::Broken));
    timeout(LONG, mute).await.expect("a second connection was made").unwrap();
}
