//! The socket an agent answers on: whoever connects sends a request, one line of JSON, and is sent an
//! answer, one JSON document.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube_vip_quorum::node::{Order, OrderError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::request::{Answer, Reply, Request};
use super::status::Status;

/// How long one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// An order waits for an election, and for a host that joins or goes.
const ORDER_PATIENCE: Duration = Duration::from_secs(40);
/// No status is larger, not of a hundred thousand backends.
const LARGEST: u64 = 256 << 20;
/// No request is larger.
const LARGEST_REQUEST: u64 = 64 << 10;
/// Requests that have been read and wait.
const WAITING: usize = 16;

/// The socket could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A live process listens there.
    #[error(
        "another agent (pid {pid}) answers at {}: stop it, \
         or give this one another name (`instance: NAME` in the configuration)",
        path.display()
    )]
    Taken {
        /// The socket.
        path: PathBuf,
        /// The process, where the kernel says.
        pid: i32,
    },
    /// The file system does not let us.
    #[error("cannot listen at {}: {cause}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
}

/// The agent's end of the socket; dropped, it is gone.
#[derive(Debug)]
pub struct AgentSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl AgentSocket {
    /// Listens, for root only. A socket left by a dead agent is replaced.
    ///
    /// # Errors
    /// A live agent listens there, or the file system does not let us.
    pub async fn bind(dir: &Path, instance: &str) -> Result<Self, SocketError> {
        let path = path(dir, instance);
        if let Ok(live) = UnixStream::connect(&path).await {
            let pid = live.peer_cred().ok().and_then(|cred| cred.pid()).unwrap_or(0);
            return Err(SocketError::Taken { path, pid });
        }
        match Self::listen(dir, &path) {
            Ok((listener, identity)) => Ok(Self { listener, path, identity }),
            Err(cause) => Err(SocketError::Io { path, cause }),
        }
    }

    fn listen(dir: &Path, path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
        fs::create_dir_all(dir)?;
        // Nobody can connect before the mode is set: the name comes last, and in one step.
        let unnamed = dir.join(format!(".{}.sock", std::process::id()));
        remove_if_there(&unnamed)?;
        let listener = UnixListener::bind(&unnamed)?;
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))?;
        let identity = identity(&unnamed)?;
        fs::rename(&unnamed, path)?;
        Ok((listener, identity))
    }

    /// Answers for as long as it is polled. `reply` is asked once for each request, one at a time;
    /// what it puts off does not hold up others.
    pub async fn serve<F>(&self, mut reply: impl FnMut(Request) -> F)
    where
        F: Future<Output = Reply>,
    {
        let (asked, mut requests) = mpsc::channel(WAITING);
        let mut conversations = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let asked = asked.clone();
                        conversations.spawn(async move { listen_to(stream, asked).await });
                    }
                    Err(error) => {
                        tracing::warn!("agent socket: {error}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
                Some((request, stream)) = requests.recv() => {
                    let reply = reply(request).await;
                    conversations.spawn(async move { send(stream, reply.answer().await).await });
                }
            }
            while conversations.try_join_next().is_some() {}
        }
    }
}

/// Reads the request of whoever has connected.
async fn listen_to(stream: UnixStream, asked: mpsc::Sender<(Request, UnixStream)>) {
    let mut reader = BufReader::new(stream.take(LARGEST_REQUEST));
    let mut line = String::new();
    let read = tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await;
    let stream = reader.into_inner().into_inner();
    match read {
        Ok(Ok(_)) => match serde_json::from_str(&line) {
            Ok(request) => drop(asked.send((request, stream)).await),
            Err(error) => {
                let version = env!("CARGO_PKG_VERSION");
                let why = format!("the agent, version {version}, does not understand: {error}");
                send(stream, Answer::Refused(why)).await;
            }
        },
        Ok(Err(error)) => tracing::debug!("agent socket: {error}"),
        Err(_) => tracing::debug!("agent socket: no request for {PATIENCE:?}"),
    }
}

/// A client that does not read is nobody's concern but its own.
async fn send(mut stream: UnixStream, answer: Answer) {
    let sent = async {
        stream.write_all(&serde_json::to_vec(&answer)?).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, sent).await {
        tracing::debug!("agent socket: the client went away: {error}");
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn path(dir: &Path, instance: &str) -> PathBuf {
    dir.join(format!("{instance}.sock"))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "no kube-vip agent answers at {}: is it running? (kube-vip start -c FILE){}",
        path.display(), hint(others)
    )]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Other instances that have one.
        others: Vec<String>,
    },
    /// The socket is root's.
    #[error("{} is for root only: try again with sudo", .0.display())]
    Forbidden(PathBuf),
    /// It listens, and says nothing in time or nothing that makes sense.
    #[error("the agent at {} does not answer as it should: {why}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// It does not do that.
    #[error("{0}")]
    Refused(String),
    /// It tried, or had the leader try.
    #[error(transparent)]
    Order(#[from] OrderError),
}

fn hint(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!("; other instances here: {} (--instance NAME)", others.join(", ")),
    }
}

/// Asks an instance on this host for its status.
///
/// # Errors
/// It cannot be reached or does not answer.
pub fn fetch(dir: &Path, instance: &str) -> Result<Status, AskError> {
    match ask(dir, instance, &Request::Status, PATIENCE)? {
        Answer::Status(status) => Ok(*status),
        answer => Err(out_of_turn(dir, instance, answer)),
    }
}

/// Has the leader of the hosts do something, by way of an instance on this host.
///
/// # Errors
/// The instance cannot be reached, takes no part in an election, or the leader has not done it.
pub fn order(dir: &Path, instance: &str, order: Order) -> Result<(), AskError> {
    match ask(dir, instance, &Request::Order(order), ORDER_PATIENCE)? {
        Answer::Ordered(result) => Ok(result?),
        answer => Err(out_of_turn(dir, instance, answer)),
    }
}

fn out_of_turn(dir: &Path, instance: &str, answer: Answer) -> AskError {
    match answer {
        Answer::Refused(why) => AskError::Refused(why),
        Answer::Status(_) | Answer::Ordered(_) => {
            let why = "it answers something else".to_owned();
            AskError::Broken { path: path(dir, instance), why }
        }
    }
}

fn ask(
    dir: &Path,
    instance: &str,
    request: &Request,
    patience: Duration,
) -> Result<Answer, AskError> {
    let path = path(dir, instance);
    let mut stream = match std::os::unix::net::UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(AskError::Forbidden(path));
        }
        Err(_) => return Err(AskError::NoAgent { path, others: others(dir, instance) }),
    };
    let mut json = Vec::new();
    let mut converse = || {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        (&stream).take(LARGEST).read_to_end(&mut json)
    };
    let why = match converse() {
        Ok(_) => match serde_json::from_slice(&json) {
            Ok(answer) => return Ok(answer),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            format!("nothing came for {} seconds", patience.as_secs())
        }
        Err(error) => error.to_string(),
    };
    Err(AskError::Broken { path, why })
}

fn others(dir: &Path, instance: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".sock")?.to_owned()))
        .filter(|name| name != instance && !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::example;
    use super::*;
    use crate::testing::TempDir;

    async fn fetch_async(dir: &Path, instance: &'static str) -> Result<Status, AskError> {
        let dir = dir.to_owned();
        tokio::task::spawn_blocking(move || fetch(&dir, instance)).await.unwrap()
    }

    #[tokio::test]
    async fn whoever_connects_is_told() {
        let dir = TempDir::new();
        let socket = AgentSocket::bind(&dir.path().join("run"), "a").await.unwrap();
        let dir = dir.path().join("run");
        let mode = fs::metadata(dir.join("a.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let client = async {
            for _ in 0..3 {
                assert_eq!(fetch_async(&dir, "a").await.unwrap(), example());
            }
        };
        tokio::select! {
            () = socket.serve(async |_| Reply::Now(Answer::Status(Box::new(example())))) => unreachable!("it serves for ever"),
            () = client => {}
        }
        drop(socket);
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = TempDir::new();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("a.sock")).unwrap());
        let live = AgentSocket::bind(dir.path(), "a").await.unwrap();
        let error = AgentSocket::bind(dir.path(), "a").await.unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.starts_with(&format!("another agent (pid {pid}) answers at")), "{error}");
        drop(live);
        AgentSocket::bind(dir.path(), "a").await.unwrap();
    }

    #[tokio::test]
    async fn an_absent_agent_is_told_with_the_way_out() {
        let dir = TempDir::new();
        let here = dir.path().display().to_string();
        let error = fetch_async(dir.path(), "default").await.unwrap_err().to_string();
        let expected = format!(
            "no kube-vip agent answers at {here}/default.sock: \
             is it running? (kube-vip start -c FILE)"
        );
        assert_eq!(error, expected);

        let _other = AgentSocket::bind(dir.path(), "services").await.unwrap();
        let error = fetch_async(dir.path(), "default").await.unwrap_err().to_string();
        assert_eq!(error, expected + "; other instances here: services (--instance NAME)");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_told() {
        let dir = TempDir::new();
        let listener = UnixListener::bind(dir.path().join("a.sock")).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(b"{\"status\":").await.unwrap();
        });
        let error = fetch_async(dir.path(), "a").await.unwrap_err().to_string();
        assert!(error.contains("does not answer as it should: EOF"), "{error}");
    }

    #[tokio::test]
    async fn an_order_holds_up_nobody_and_is_answered() {
        let dir = TempDir::new();
        let socket = AgentSocket::bind(dir.path(), "a").await.unwrap();
        let order = |dir: PathBuf| {
            let order = Order::Admit { host: "n4".to_owned() };
            tokio::task::spawn_blocking(move || super::order(&dir, "a", order))
        };
        let (carry_out, carried_out) = tokio::sync::watch::channel(false);
        let client = async {
            let ordered = order(dir.path().to_owned());
            fetch_async(dir.path(), "a").await.unwrap();
            assert!(!ordered.is_finished());
            carry_out.send_replace(true);
            let error = ordered.await.unwrap().unwrap_err().to_string();
            assert_eq!(error, "no leader can be reached: there is none");
        };
        let reply = async |request| match request {
            Request::Status => Reply::Now(Answer::Status(Box::new(example()))),
            Request::Order(_) => {
                let mut carried_out = carried_out.clone();
                Reply::Later(Box::pin(async move {
                    let _ = carried_out.wait_for(|it| *it).await;
                    Answer::Ordered(Err(OrderError::NoLeader("there is none".to_owned())))
                }))
            }
        };
        tokio::select! {
            () = socket.serve(reply) => unreachable!("it serves for ever"),
            () = client => {}
        }
    }

    #[tokio::test]
    async fn a_request_of_another_time_is_refused() {
        let dir = TempDir::new();
        let socket = AgentSocket::bind(dir.path(), "a").await.unwrap();
        let client = async {
            let mut stream = UnixStream::connect(dir.path().join("a.sock")).await.unwrap();
            stream.write_all(b"{\"dance\": true}\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("does not understand: unknown variant `dance`"), "{answer}");
        };
        tokio::select! {
            () = socket.serve(async |_| unreachable!("it was no request")) => {}
            () = client => {}
        }
    }
}
