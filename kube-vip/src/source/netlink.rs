//! Talking to the kernel's routing tables: one connection for requests, another for events.
//!
//! They are kept apart because an event carries the sequence number of whoever caused it, and
//! because a flood of events must not cost a request its answer.

use std::io;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;
use tracing::debug;

/// The kernel answers within the system call; a longer wait means that the answer was lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Events that fit while the agent is not scheduled. Memory is taken only while they wait.
pub(crate) const EVENT_BUFFER: usize = 4 << 20;

/// A request the kernel refused, or that never got to it.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket for {purpose}: {cause}")]
    Open {
        /// What it was to be used for.
        purpose: &'static str,
        /// The kernel's word.
        cause: io::Error,
    },
    /// The kernel said no.
    #[error("cannot {action}: {cause}")]
    Refused {
        /// What was asked for.
        action: String,
        /// The kernel's word.
        cause: io::Error,
    },
    /// The connection ended, or nothing came back.
    #[error("cannot {action}: no answer from the kernel")]
    NoAnswer {
        /// What was asked for.
        action: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { cause, .. } | Self::Refused { cause, .. } => cause.raw_os_error(),
            Self::NoAnswer { .. } => None,
        }
    }
}

/// A connection for requests. It belongs to the network namespace of the thread that opens it.
pub(crate) struct Requests {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Requests {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _) = rtnetlink::new_connection()
            .map_err(|cause| NetlinkError::Open { purpose: "requests", cause })?;
        // Otherwise an answer cut short by the connection's end looks like a whole one.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// All objects of a kind. A dump that changed while it was read is read again.
    pub(crate) async fn dump(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        const TRIES: u32 = 5;
        for _ in 0..TRIES {
            let (answers, whole) = self.ask(action, message.clone(), NLM_F_DUMP).await?;
            if whole {
                return Ok(answers);
            }
            debug!(action, "changed while it was read, reading again");
        }
        // What is missing or doubled is corrected by the event that the change caused.
        self.ask(action, message, NLM_F_DUMP).await.map(|(answers, _)| answers)
    }

    /// One object.
    pub(crate) async fn get(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let (answers, _) = self.ask(action, message, 0).await?;
        Ok(answers.into_iter().next())
    }

    /// A change; `flags` besides request and acknowledgement.
    pub(crate) async fn change(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.ask(action, message, NLM_F_ACK | flags).await.map(drop)
    }

    async fn ask(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let no_answer = || NetlinkError::NoAnswer { action: action.to_owned() };
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let replies = self.handle.clone().request(request).map_err(|_| no_answer())?;
        tokio::time::timeout(PATIENCE, collect(action, replies)).await.map_err(|_| no_answer())?
    }
}

/// Removes the clsact qdisc from an interface, unless somebody else has put filters there meanwhile,
/// which would go with it.
///
/// # Errors
/// What the kernel said.
pub(crate) async fn delete_clsact(ifindex: u32) -> Result<(), NetlinkError> {
    use rtnetlink::packet_route::tc::{TcHandle, TcMessage};
    let requests = Requests::open()?;
    let at = |parent| {
        let mut message = TcMessage::with_index(ifindex.cast_signed());
        message.header.parent = parent;
        message
    };
    for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        let parent = TcHandle { major: TcHandle::CLSACT.major, minor };
        let query = RouteNetlinkMessage::GetTrafficFilter(at(parent));
        if !requests.dump("list the filters at clsact", query).await?.is_empty() {
            return Ok(());
        }
    }
    let message = RouteNetlinkMessage::DelQueueDiscipline(at(TcHandle::CLSACT));
    requests.change("remove the clsact qdisc", message, 0).await
}

/// The answers, and whether they belong to one moment.
async fn collect(
    action: &str,
    replies: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>,
) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
    let mut replies = std::pin::pin!(replies);
    let (mut answers, mut whole, mut ended) = (Vec::new(), true, false);
    while let Some(reply) = replies.next().await {
        whole &= reply.header.flags & NLM_F_DUMP_INTR == 0;
        ended = reply.header.flags & NLM_F_MULTIPART == 0;
        match reply.payload {
            NetlinkPayload::InnerMessage(message) => answers.push(message),
            NetlinkPayload::Error(error) => {
                if let Some(code) = error.code {
                    let cause = io::Error::from_raw_os_error(code.get().saturating_abs());
                    return Err(NetlinkError::Refused { action: action.to_owned(), cause });
                }
            }
            NetlinkPayload::Done(_) => ended = true,
            NetlinkPayload::Overrun(_) => whole = false,
            _ => {}
        }
    }
    if ended {
        Ok((answers, whole))
    } else {
        Err(NetlinkError::NoAnswer { action: action.to_owned() })
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Something happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// This.
    Message(RouteNetlinkMessage),
    /// More than could be kept: look at everything.
    Lost,
}

/// A connection that only listens.
pub(crate) struct Events {
    messages: futures_util::stream::BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    task: JoinHandle<()>,
}

impl Events {
    /// Events of these groups from now on; `buffer` bytes of them are kept by the kernel.
    pub(crate) fn open(groups: &[MulticastGroup], buffer: usize) -> Result<Self, NetlinkError> {
        let open = |cause| NetlinkError::Open { purpose: "events", cause };
        let (mut connection, _, messages) =
            rtnetlink::new_multicast_connection(groups).map_err(open)?;
        // Beyond net.core.rmem_max only with CAP_NET_ADMIN; less is no reason to give up.
        let socket: &rtnetlink::sys::Socket = connection.socket_mut().socket_ref();
        let _ = setsockopt(socket, sockopt::RcvBuf, &buffer);
        let _ = setsockopt(socket, sockopt::RcvBufForce, &buffer);
        let messages = messages.map(|(message, _): (_, SocketAddr)| message).boxed();
        Ok(Self { messages, task: tokio::spawn(connection) })
    }

    /// The next event; `None` when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.messages.next().await?.payload {
                NetlinkPayload::InnerMessage(message) => return Some(Event::Message(message)),
                NetlinkPayload::Overrun(_) => return Some(Event::Lost),
                _ => {}
            }
        }
    }

    /// As if the socket had failed.
    #[cfg(test)]
    pub(crate) fn kill(&self) {
        self.task.abort();
    }

    /// An event that has already happened.
    pub(crate) fn waiting(&mut self) -> Option<Event> {
        self.next().now_or_never().flatten()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}
