//! The announcer over a pretended wire and clock.

use std::sync::mpsc;

use super::*;
use crate::view::Mac;

const INTERVAL: Duration = Duration::from_secs(3);

/// Notes (interface, first bytes' kind, milliseconds since the start) of every frame.
struct Recorder {
    frames: mpsc::Sender<(u32, Vec<u8>, u128)>,
    start: Instant,
    down: Arc<Mutex<bool>>,
}

impl Wire for Recorder {
    fn send(&mut self, interface: u32, frame: &[u8]) -> io::Result<()> {
        if *self.down.lock().unwrap() {
            return Err(io::Error::from_raw_os_error(libc::ENETDOWN));
        }
        let at = self.start.elapsed().as_millis();
        self.frames.send((interface, frame.to_vec(), at)).unwrap();
        Ok(())
    }
}

struct Bench {
    announcer: Announcer,
    frames: mpsc::Receiver<(u32, Vec<u8>, u128)>,
    down: Arc<Mutex<bool>>,
}

impl Bench {
    fn new() -> Self {
        let (sender, frames) = mpsc::channel();
        let down = Arc::new(Mutex::new(false));
        let wire = Recorder { frames: sender, start: Instant::now(), down: Arc::clone(&down) };
        Self { announcer: Announcer::on(wire), frames, down }
    }

    fn apply(&mut self, addresses: &[&str]) {
        let desired = addresses
            .iter()
            .map(|address| Announcement {
                interface: 7,
                mac: Mac([2, 0, 0, 0, 0, 1]),
                address: address.parse().unwrap(),
            })
            .collect();
        self.announcer.apply(&desired, INTERVAL);
    }

    async fn pass(&self, milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    fn times(&self) -> Vec<u128> {
        self.frames.try_iter().map(|(_, _, at)| at).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_vip_is_announced_at_once_in_both_forms_then_in_a_burst() {
    let mut bench = Bench::new();
    bench.apply(&["192.0.2.1"]);
    bench.pass(8_500).await;
    let sent: Vec<_> = bench.frames.try_iter().collect();
    let operations: Vec<u8> = sent.iter().take(4).map(|(_, frame, _)| frame[21]).collect();
    assert_eq!(operations, [1, 2, 1, 2]);
    assert!(sent.iter().all(|(interface, ..)| *interface == 7));
    let mut times: Vec<_> = sent.iter().map(|(.., at)| *at).collect();
    times.dedup();
    // The clock of tokio's timers counts whole milliseconds, rounding up.
    let expected = [0, 50, 150, 400, 900, 1200, 2000, 5000, 8000];
    for (at, expected) in times.iter().zip(expected) {
        assert!(at.abs_diff(expected) <= 9, "{times:?}");
    }
    assert_eq!(times.len(), expected.len());
    assert_eq!(bench.announcer.sent()[&"192.0.2.1".parse::<IpAddr>().unwrap()], 18);
}

#[tokio::test(start_paused = true)]
async fn a_removed_vip_is_silent_when_apply_returns_and_others_keep_their_rhythm() {
    let mut bench = Bench::new();
    bench.apply(&["192.0.2.1", "2001:db8::1"]);
    bench.pass(100).await;
    bench.times();
    bench.apply(&["2001:db8::1"]);
    bench.pass(10_000).await;
    let sent: Vec<_> = bench.frames.try_iter().collect();
    assert!(sent.iter().all(|(_, frame, _)| frame[12..14] == [0x86, 0xdd]));
    assert!(sent[0].2.abs_diff(150) <= 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_again_starts_no_new_burst_but_coming_back_does() {
    let mut bench = Bench::new();
    bench.apply(&["2001:db8::1"]);
    bench.pass(2_500).await;
    bench.times();
    bench.apply(&["2001:db8::1"]);
    bench.pass(1_000).await;
    assert_eq!(bench.times(), [] as [u128; 0]);
    bench.apply(&[]);
    bench.apply(&["2001:db8::1"]);
    bench.pass(100).await;
    assert_eq!(bench.times().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_interval_counts_from_now() {
    let mut bench = Bench::new();
    bench.apply(&["2001:db8::1"]);
    bench.pass(2_100).await;
    bench.times();
    let desired: BTreeSet<_> = bench.announcer.shared.lock().running.keys().cloned().collect();
    bench.announcer.apply(&desired, Duration::from_millis(200));
    bench.pass(1_000).await;
    assert!((4..=5).contains(&bench.times().len()));
    bench.announcer.apply(&desired, Duration::MAX);
    bench.pass(1_000).await;
    assert!(bench.times().len() <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_comes_back_gets_the_whole_burst() {
    let mut bench = Bench::new();
    *bench.down.lock().unwrap() = true;
    bench.apply(&["2001:db8::1"]);
    bench.pass(5_100).await;
    assert_eq!(bench.times(), [] as [u128; 0]);
    *bench.down.lock().unwrap() = false;
    bench.pass(2_900).await;
    let times = bench.times();
    assert_eq!(times.len(), 7, "{times:?}");
    assert!(times[0].abs_diff(5_500) < 100);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_vips_are_all_announced() {
    let mut bench = Bench::new();
    let addresses: Vec<String> = (0..1_000).map(|n| format!("2001:db8::{n:x}")).collect();
    bench.apply(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    bench.pass(10).await;
    assert_eq!(bench.times().len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn dropping_it_ends_it() {
    let mut bench = Bench::new();
    bench.apply(&["2001:db8::1"]);
    bench.pass(10).await;
    bench.times();
    drop(bench.announcer);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.frames.try_iter().count(), 0);
}
