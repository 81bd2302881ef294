use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::config::{HealthCheck, HttpProbe, Probe};

fn check(backend: SocketAddr, probe: Probe) -> Check {
    let (period, timeout) = (Duration::from_millis(30), Duration::from_millis(500));
    Check { backend, how: HealthCheck { probe, port: None, period, timeout, fall: 3, rise: 2 } }
}

fn get() -> Probe {
    Probe::Http(HttpProbe {
        path: "/healthz".into(),
        host: Some("backend".into()),
        status: (200, 299),
        tls: None,
    })
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Answers each connection with what stands there, until aborted.
fn serve(listener: TcpListener, answer: watch::Receiver<&'static str>) -> AbortHandle {
    let serve = async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            let answer = *answer.borrow();
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let got = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..got]).into_owned();
                assert!(request.starts_with("GET /healthz HTTP/1.1\r\nHost: backend\r\n"));
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    };
    tokio::spawn(serve).abort_handle()
}

async fn until(health: &mut watch::Receiver<Healths>, check: &Check, up: bool) -> Health {
    let known = health.wait_for(|all| all.get(check).is_some_and(|health| health.up == up));
    let patience = Duration::from_secs(20);
    let all = tokio::time::timeout(patience, known).await.expect("in time").expect("followed");
    all[check].clone()
}

#[tokio::test]
async fn a_server_that_ends_is_down_and_one_that_comes_back_is_up() {
    let (listener, address) = listener().await;
    let check = check(address, Probe::Tcp);
    let (wanted, asked) = watch::channel([check.clone()].into());
    let mut health = follow(asked);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(until(&mut health, &check, true).await.error.is_none());
    drop(listener);
    let down = until(&mut health, &check, false).await;
    assert_eq!(down.error.as_deref(), Some("connect: connection refused"));
    let _listener = TcpListener::bind(address).await.expect("the same port");
    assert_eq!(until(&mut health, &check, true).await.error, None);
    wanted.send_replace(BTreeSet::new());
    while !health.borrow().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn only_a_good_status_is_up() {
    let (listener, address) = listener().await;
    let check = check(address, get());
    let (answer, answers) = watch::channel("HTTP/1.1 200 OK\r\n\r\n");
    let server = serve(listener, answers);
    let (_wanted, asked) = watch::channel([check.clone()].into());
    let mut health = follow(asked);
    for (bad, error) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "http: status 503"),
        ("SSH-2.0-x\r\n", "http: the answer is not HTTP"),
        ("", "http: nothing within 500ms"),
    ] {
        answer.send_replace(bad);
        assert_eq!(until(&mut health, &check, false).await.error.as_deref(), Some(error));
        answer.send_replace("HTTP/1.1 204 No Content\r\n\r\n");
        until(&mut health, &check, true).await;
    }
    server.abort();
}

#[tokio::test]
async fn what_is_known_stays_known_when_only_the_pace_changes() {
    let (listener, address) = listener().await;
    drop(listener);
    let before = check(address, Probe::Tcp);
    let mut after = before.clone();
    after.how.fall = 50;
    after.how.period = Duration::from_secs(60);
    let (wanted, asked) = watch::channel([before.clone()].into());
    let mut health = follow(asked);
    until(&mut health, &before, false).await;
    wanted.send_replace([after.clone()].into());
    while !health.borrow().contains_key(&after) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!health.borrow()[&after].up);
    assert!(!health.borrow().contains_key(&before));
}

#[tokio::test]
async fn a_certificate_authority_that_cannot_be_read_counts_neither_way() {
    let (_listener, address) = listener().await;
    let Probe::Http(http) = get() else { unreachable!() };
    let file = crate::config::Trust::CaFile("/does/not/exist".into());
    let check = check(address, Probe::Http(HttpProbe { tls: Some(file), ..http }));
    let outcome = Prober::new(&check).probe().await;
    assert!(matches!(&outcome, Outcome::Unknown(why) if why.contains("/does/not/exist")));
}
