//! The configuration file: tells when its content has changed.
//!
//! It looks twice a second instead of asking the kernel to be told: that sees every way in which a
//! file changes, the swapped symbolic links of a Kubernetes `ConfigMap` and files on a network too.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::config::{self, Config, ConfigError, Origin};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// A writer that truncates and writes is given this long to finish.
const SETTLE: Duration = Duration::from_millis(50);
/// A timestamp this young may stand for a later change too.
const FRESH: Duration = Duration::from_secs(2);
/// An editor may remove a file and write it anew; this many looks in a row miss it before it is said.
const MISSES: u32 = 3;

/// Watches a file, of which `current` is in force, and sends what becomes of it. SIGHUP makes it
/// look at once. It ends when the receiver is dropped. Where there is no file, nothing changes.
pub fn watch(origin: Origin, current: Arc<Config>) -> mpsc::Receiver<Result<Config, ConfigError>> {
    watch_every(INTERVAL, origin, current)
}

fn watch_every(
    interval: Duration,
    origin: Origin,
    current: Arc<Config>,
) -> mpsc::Receiver<Result<Config, ConfigError>> {
    let (sender, receiver) = mpsc::channel(1);
    let Some(path) = origin.file.clone() else {
        tokio::spawn(async move {
            // It would end the process otherwise.
            let _hangup = signal(SignalKind::hangup());
            sender.closed().await;
        });
        return receiver;
    };
    tokio::spawn(async move {
        let mut hangup = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!("SIGHUP has no effect: {error}"))
            .ok();
        let mut watcher = Watcher { path, origin, seen: None, stamp: None, misses: 0 };
        let mut current = Some(current);
        loop {
            if let Some(result) = watcher.look().await {
                // The file may have changed between the start's look and the first one here.
                let known = current.take().is_some_and(|config| result.as_ref() == Ok(&*config));
                if !known && sender.send(result).await.is_err() {
                    return;
                }
            }
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                _ = hung_up => {
                    tracing::info!("SIGHUP: looking at {}", watcher.path.display());
                    watcher.stamp = None;
                }
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

struct Watcher {
    path: PathBuf,
    origin: Origin,
    /// What was sent last.
    seen: Option<Content>,
    /// The file's state when it was read last; none if that proves nothing.
    stamp: Option<Stamp>,
    misses: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Bytes(u64),
    Unreadable(std::io::ErrorKind),
}

impl Watcher {
    /// The configuration, if the content is another one than last time.
    async fn look(&mut self) -> Option<Result<Config, ConfigError>> {
        let stamp = Stamp::of(&self.path);
        if stamp.is_some() && stamp == self.stamp {
            return None;
        }
        let (content, bytes) = self.settled().await;
        let known = self.seen.as_ref() == Some(&content);
        match &bytes {
            Err(_) if !known && self.misses + 1 < MISSES && self.seen.is_some() => {
                self.misses += 1;
                return None;
            }
            Err(_) => self.stamp = None,
            Ok(_) => {
                self.misses = 0;
                self.stamp = stamp.filter(|stamp| !stamp.is_fresh());
            }
        }
        if known {
            return None;
        }
        self.seen = Some(content);
        let origin = self.origin.clone();
        let parse = move || match bytes {
            Ok(bytes) => origin.parse(&bytes),
            Err(error) => Err(config::unreadable(&origin.name(), &error)),
        };
        spawn_blocking(parse).await.ok()
    }

    /// Reads until two reads agree.
    async fn settled(&self) -> (Content, std::io::Result<Vec<u8>>) {
        let mut before = None;
        loop {
            let bytes = config::read_file(&self.path);
            let content = match &bytes {
                Ok(bytes) => Content::Bytes(hash(bytes)),
                Err(error) => Content::Unreadable(error.kind()),
            };
            if self.seen.as_ref() == Some(&content) || before.as_ref() == Some(&content) {
                return (content, bytes);
            }
            before = Some(content);
            tokio::time::sleep(SETTLE).await;
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Changes whenever the file does, except for two changes within the clock's resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let age = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_sub(self.changed.0);
        age <= FRESH.as_secs() as i64
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::testing::TempDir;

    fn text(vip: &str) -> String {
        format!("localPeer: {{id: a, address: 10.0.0.1}}\ninterface: eth0\nvip: {vip}\n")
    }

    struct Watched {
        dir: TempDir,
        receiver: mpsc::Receiver<Result<Config, ConfigError>>,
    }

    impl Watched {
        fn path(&self) -> PathBuf {
            self.dir.path().join("config.yaml")
        }

        fn new() -> Self {
            let dir = TempDir::new();
            let path = dir.path().join("config.yaml");
            fs::write(&path, text("10.0.0.100")).unwrap();
            let config = Arc::new(Origin::file(&path).load().unwrap());
            let receiver = watch_every(Duration::from_millis(10), Origin::file(&path), config);
            Self { dir, receiver }
        }

        async fn vip(&mut self) -> Result<String, String> {
            let next = tokio::time::timeout(Duration::from_secs(5), self.receiver.recv());
            let result = next.await.expect("in time").expect("a watcher");
            result.map(|config| config.vips[0].to_string()).map_err(|error| error.to_string())
        }

        async fn nothing(&mut self) {
            let next = tokio::time::timeout(Duration::from_millis(400), self.receiver.recv());
            assert!(next.await.is_err());
        }
    }

    #[tokio::test]
    async fn changes_are_told_once_and_mistakes_too() {
        let mut watched = Watched::new();
        watched.nothing().await;
        fs::write(watched.path(), text("10.0.0.101")).unwrap();
        assert_eq!(watched.vip().await.unwrap(), "10.0.0.101");
        watched.nothing().await;
        fs::write(watched.path(), text("10.0.0.256")).unwrap();
        assert!(watched.vip().await.unwrap_err().contains("line 3: vip: \"10.0.0.256\""));
        fs::write(watched.path(), text("10.0.0.101")).unwrap();
        assert_eq!(watched.vip().await.unwrap(), "10.0.0.101");
        fs::write(watched.path(), text("10.0.0.101")).unwrap();
        watched.nothing().await;
    }

    #[tokio::test]
    async fn renames_over_the_file_are_followed() {
        let mut watched = Watched::new();
        let new = watched.dir.path().join("new");
        fs::write(&new, text("10.0.0.102")).unwrap();
        fs::rename(&new, watched.path()).unwrap();
        assert_eq!(watched.vip().await.unwrap(), "10.0.0.102");
    }

    #[tokio::test]
    async fn a_config_maps_links_are_followed() {
        let dir = TempDir::new();
        let at = |name: &str| dir.path().join(name);
        for (name, vip) in [("one", "10.0.0.1"), ("two", "10.0.0.2")] {
            fs::create_dir(at(name)).unwrap();
            fs::write(
                at(name).join("config.yaml"),
                text(vip).replace("address: 10.0.0.1", "address: 10.0.0.9"),
            )
            .unwrap();
        }
        symlink("one", at("..data")).unwrap();
        symlink("..data/config.yaml", at("config.yaml")).unwrap();
        let path = at("config.yaml");
        let config = Arc::new(Origin::file(&path).load().unwrap());
        let receiver = watch_every(Duration::from_millis(10), Origin::file(&path), config);
        symlink("two", at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        let mut watched = Watched { dir, receiver };
        assert_eq!(watched.vip().await.unwrap(), "10.0.0.2");
    }

    #[tokio::test]
    async fn a_file_that_goes_away_is_told() {
        let mut watched = Watched::new();
        watched.nothing().await;
        fs::remove_file(watched.path()).unwrap();
        assert!(watched.vip().await.unwrap_err().contains("cannot be read: No such file"));
        watched.nothing().await;
        fs::write(watched.path(), text("10.0.0.100")).unwrap();
        assert_eq!(watched.vip().await.unwrap(), "10.0.0.100");
    }

    #[tokio::test]
    async fn what_changed_before_the_first_look_is_told() {
        let dir = TempDir::new();
        let path = dir.path().join("config.yaml");
        fs::write(&path, text("10.0.0.100")).unwrap();
        let config = Arc::new(Origin::file(&path).load().unwrap());
        fs::write(&path, text("10.0.0.103")).unwrap();
        let receiver = watch_every(Duration::from_millis(10), Origin::file(&path), config);
        let mut watched = Watched { dir, receiver };
        assert_eq!(watched.vip().await.unwrap(), "10.0.0.103");
    }
}
