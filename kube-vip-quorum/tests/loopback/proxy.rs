//! A relay in front of a host, for what its peers send to it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Everything.
    Open,
    /// Everything, later.
    Slow(Duration),
    /// Nothing, as long as it lasts.
    Stalled,
    /// Nothing; what was connected is so no more.
    Cut,
}

/// A relay in front of one host.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    link: watch::Sender<Link>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn before(host: SocketAddr) -> Self {
        let listener = TcpListener::bind((host.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, state) = watch::channel(Link::Open);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                relays.spawn(relay(near, host, state.clone()));
            }
        });
        Self { address, link, _tasks: tasks }
    }

    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

/// Copies both ways until one side ends or the link is cut.
async fn relay(near: TcpStream, host: SocketAddr, state: watch::Receiver<Link>) {
    let mut cut = state.clone();
    let Ok(far) = TcpStream::connect(host).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        () = copy(near_read, far_write, state.clone()) => {}
        () = copy(far_read, near_write, state) => {}
        _ = cut.wait_for(|link| *link == Link::Cut) => {}
    }
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut state: watch::Receiver<Link>,
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if state.wait_for(|link| *link != Link::Stalled).await.is_err() {
            return;
        }
        let link = *state.borrow();
        if let Link::Slow(delay) = link {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
