//! The socket an agent tells its status on: whoever connects is sent one JSON document.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use super::status::Status;

/// How long one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// No status is larger, not of a hundred thousand backends.
const LARGEST: u64 = 256 << 20;

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
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl StatusSocket {
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

    /// Answers for as long as it is polled; `status` is asked once for each connection.
    pub async fn serve<F>(&self, mut status: impl FnMut() -> F)
    where
        F: Future<Output = Status>,
    {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("status socket: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            match serde_json::to_vec(&status().await) {
                Ok(json) => drop(tokio::spawn(send(stream, json))),
                Err(error) => tracing::error!("status cannot be written as JSON: {error}"),
            }
        }
    }
}

/// A client that does not read is nobody's concern but its own.
async fn send(mut stream: UnixStream, json: Vec<u8>) {
    let sent = async {
        stream.write_all(&json).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, sent).await {
        tracing::debug!("status client went away: {error}");
    }
}

impl Drop for StatusSocket {
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

/// The status could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
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
pub fn fetch(dir: &Path, instance: &str) -> Result<Status, FetchError> {
    let path = path(dir, instance);
    let mut stream = match std::os::unix::net::UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(FetchError::Forbidden(path));
        }
        Err(_) => return Err(FetchError::NoAgent { path, others: others(dir, instance) }),
    };
    let mut json = Vec::new();
    let read = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.by_ref().take(LARGEST).read_to_end(&mut json));
    let why = match read {
        Ok(_) => match serde_json::from_slice(&json) {
            Ok(status) => return Ok(status),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            format!("nothing came for {} seconds", PATIENCE.as_secs())
        }
        Err(error) => error.to_string(),
    };
    Err(FetchError::Broken { path, why })
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

    async fn fetch_async(dir: &Path, instance: &'static str) -> Result<Status, FetchError> {
        let dir = dir.to_owned();
        tokio::task::spawn_blocking(move || fetch(&dir, instance)).await.unwrap()
    }

    #[tokio::test]
    async fn whoever_connects_is_told() {
        let dir = TempDir::new();
        let socket = StatusSocket::bind(&dir.path().join("run"), "a").await.unwrap();
        let dir = dir.path().join("run");
        let mode = fs::metadata(dir.join("a.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let client = async {
            for _ in 0..3 {
                assert_eq!(fetch_async(&dir, "a").await.unwrap(), example());
            }
        };
        tokio::select! {
            () = socket.serve(async || example()) => unreachable!("it serves for ever"),
            () = client => {}
        }
        drop(socket);
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = TempDir::new();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("a.sock")).unwrap());
        let live = StatusSocket::bind(dir.path(), "a").await.unwrap();
        let error = StatusSocket::bind(dir.path(), "a").await.unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.starts_with(&format!("another agent (pid {pid}) answers at")), "{error}");
        drop(live);
        StatusSocket::bind(dir.path(), "a").await.unwrap();
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

        let _other = StatusSocket::bind(dir.path(), "services").await.unwrap();
        let error = fetch_async(dir.path(), "default").await.unwrap_err().to_string();
        assert_eq!(error, expected + "; other instances here: services (--instance NAME)");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_told() {
        let dir = TempDir::new();
        let listener = UnixListener::bind(dir.path().join("a.sock")).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"{\"instance\":").await.unwrap();
        });
        let error = fetch_async(dir.path(), "a").await.unwrap_err().to_string();
        assert!(error.contains("does not answer as it should: EOF"), "{error}");
    }
}
