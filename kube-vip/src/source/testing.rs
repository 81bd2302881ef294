//! Network namespaces for tests: each belongs to a thread, and goes when the thread does.

use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, gettid};

/// Runs `body` in a network namespace of its own, on a runtime of its own (a netlink socket
/// belongs to the namespace of the thread that opens it). Without root it says so and is skipped.
pub(crate) fn in_namespace<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let thread = std::thread::spawn(move || {
        enter();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    // Addresses of this namespace are used at once, the links' own included.
    sysctl("net/ipv6/conf/default/accept_dad", "0");
}

/// `ip` in the namespace of the calling thread.
#[track_caller]
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Sets a sysctl of the namespace of the calling thread, named by its path.
#[track_caller]
pub(crate) fn sysctl(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{path}"), value).unwrap();
}

/// Another host: a namespace at the other end of a veth pair.
pub(crate) struct Peer {
    jobs: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// `here` in the caller's namespace, `there` in the peer's; both up, with link-local addresses.
    pub(crate) fn new(here: &str, there: &str) -> Self {
        let (jobs, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready, thread_id) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter();
            ready.send(gettid()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let id = thread_id.recv().unwrap();
        ip(&format!("link add {here} type veth peer name {there} netns {id}"));
        ip(&format!("link set {here} up"));
        let peer = Self { jobs: Some(jobs), thread: Some(thread) };
        let there = there.to_owned();
        peer.run(move || ip(&format!("link set {there} up")));
        peer
    }

    /// Runs something on the other host.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || drop(done.send(job())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().expect("the peer's job panicked")
    }

    /// `ip` on the other host.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.jobs.take();
        let _ = self.thread.take().unwrap().join();
    }
}

/// Waits until a watched value is as it should be.
pub(crate) async fn until<T: Clone + std::fmt::Debug>(
    receiver: &mut tokio::sync::watch::Receiver<T>,
    within: Duration,
    mut wanted: impl FnMut(&T) -> bool,
) -> T {
    let waited = tokio::time::timeout(within, receiver.wait_for(|value| wanted(value))).await;
    if let Some(value) = waited.ok().map(|value| value.unwrap().clone()) {
        return value;
    }
    panic!("after {within:?} it is still {:#?}", receiver.borrow());
}
