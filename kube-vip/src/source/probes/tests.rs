//! Time by hand, and no socket; then two hosts on one machine.

use super::asked::{Asked, PARTING, PATIENCE, SILENCE};
use super::*;
use crate::view::{Answer, Probe};

fn answer_to(nonce: u64) -> Message {
    Message {
        kind: Kind::Answer,
        nonce,
        digest: 7,
        age: 3,
        version: [1, 2, 3],
        ..message(Kind::Answer, 0)
    }
}

/// One that has been answered for a while.
fn answered() -> (Asked, Instant) {
    let mut now = Instant::now();
    let mut asked = Asked::new(now);
    for _ in 0..5 {
        let questions = asked.ask(now, false);
        questions.iter().for_each(|(nonce, _)| asked.answered(now, &answer_to(*nonce)));
        now = asked.due();
    }
    (asked, now)
}

#[test]
fn first_questions_are_asked_in_haste_and_nobody_is_judged_before() {
    let start = Instant::now();
    let mut asked = Asked::new(start);
    let mut count = 0;
    while asked.due() < start + PATIENCE {
        let now = asked.due();
        count += asked.ask(now, true).len();
        assert_eq!(asked.probe(), Probe::Pending);
    }
    assert_eq!(count, 5);
    asked.ask(asked.due(), true);
    assert_eq!(asked.probe(), Probe::Silent);
    // After a while there is no hurry any more.
    while asked.due() < start + Duration::from_secs(10) {
        asked.ask(asked.due(), true);
    }
    let now = asked.due();
    assert!(asked.ask(now - Duration::from_millis(1), true).is_empty());
    assert_eq!(asked.ask(now, true).len(), 1);
    assert!(asked.due() - now > Duration::from_millis(800));
}

#[test]
fn questions_are_about_a_second_apart_and_never_in_step() {
    let (mut asked, mut now) = answered();
    let mut gaps = Vec::new();
    for _ in 0..50 {
        asked.ask(now, false);
        gaps.push(asked.due() - now);
        now = asked.due();
    }
    let about = Duration::from_millis(900)..Duration::from_millis(1100);
    assert!(gaps.iter().all(|gap| about.contains(gap)), "{gaps:?}");
    gaps.sort();
    gaps.dedup();
    assert!(gaps.len() > 10, "{gaps:?}");
}

#[test]
fn only_what_was_asked_is_an_answer() {
    let now = Instant::now();
    let mut asked = Asked::new(now);
    let [(nonce, false)] = asked.ask(now, true)[..] else { panic!("one short question") };
    asked.answered(now, &answer_to(nonce ^ 1));
    assert_eq!(asked.probe(), Probe::Pending);
    asked.answered(now, &answer_to(nonce));
    let Probe::Answered(Answer { at, version, digest, age, narrow, .. }) = asked.probe() else {
        panic!("{:?}", asked.probe());
    };
    assert_eq!((at, version, digest, age, narrow), (now, [1, 2, 3], 7, 3, false));
    // Nor is it one twice.
    asked.left(now);
    asked.answered(now, &answer_to(nonce));
    assert_eq!(asked.probe(), Probe::Left);
}

#[test]
fn silence_is_judged_after_three_questions() {
    let (mut asked, mut now) = answered();
    let last = asked.ask(now, false)[0].0;
    asked.answered(now, &answer_to(last));
    let end = now + SILENCE;
    while now < end {
        assert!(matches!(asked.probe(), Probe::Answered(_)));
        now = asked.due();
        asked.ask(now, false);
    }
    assert_eq!(asked.probe(), Probe::Silent);
    // A late answer counts, and so does the next one.
    let nonce = asked.ask(asked.due(), false)[0].0;
    asked.answered(asked.due(), &answer_to(nonce));
    assert!(matches!(asked.probe(), Probe::Answered(_)));
}

#[test]
fn who_has_left_is_not_relied_on_until_it_answers_anew() {
    let (mut asked, now) = answered();
    let earlier = asked.ask(now, false)[0].0;
    asked.left(now);
    assert_eq!(asked.probe(), Probe::Left);
    // Its programs answer to the end.
    asked.answered(now, &answer_to(earlier));
    assert_eq!(asked.probe(), Probe::Left);
    assert_eq!(asked.due(), now + PARTING);
    // It is back.
    asked.greeted(now + Duration::from_millis(10));
    assert_eq!(asked.due(), now + Duration::from_millis(10));
    let nonce = asked.ask(asked.due(), false)[0].0;
    asked.answered(asked.due(), &answer_to(nonce));
    assert!(matches!(asked.probe(), Probe::Answered(_)));
}

#[test]
fn who_comes_back_within_the_time_was_never_away() {
    let (mut asked, now) = answered();
    let back = now + SILENCE;
    asked.greeted(back);
    assert_eq!(asked.due(), back);
    let nonce = asked.ask(back, false)[0].0;
    assert!(matches!(asked.probe(), Probe::Answered(_)));
    asked.answered(back, &answer_to(nonce));
    assert!(matches!(asked.probe(), Probe::Answered(Answer { at, .. }) if at == back));
    // Saying so is not enough.
    let later = back + SILENCE;
    asked.greeted(later);
    asked.ask(later, false);
    asked.ask(later + PATIENCE + Duration::from_secs(1), false);
    assert_eq!(asked.probe(), Probe::Silent);
}

#[test]
fn packets_of_full_size_that_never_arrive_are_noticed() {
    let (mut asked, mut now) = answered();
    let narrow =
        |asked: &Asked| matches!(asked.probe(), Probe::Answered(Answer { narrow: true, .. }));
    let mut turn = |asked: &mut Asked, answer: fn(bool) -> bool| {
        for (nonce, wide) in asked.ask(now, true) {
            if answer(wide) {
                asked.answered(now, &answer_to(nonce));
            }
        }
        now = asked.due();
    };
    for lost in 0..4 {
        assert!(!narrow(&asked), "{lost} are no proof");
        turn(&mut asked, |wide| !wide);
    }
    assert!(narrow(&asked));
    turn(&mut asked, |_| true);
    assert!(!narrow(&asked));
}

#[tokio::test]
async fn silence_is_noticed_and_notices_are_heard() {
    // Two addresses of the loopback are two hosts.
    let [one, two] = [[127, 77, 0, 1], [127, 77, 0, 2]].map(IpAddr::from);
    let free = std::net::UdpSocket::bind((one, 0)).expect("a socket");
    let port = free.local_addr().expect("its address").port();
    drop(free);
    let targets = |from, to| {
        let peers = BTreeMap::from([(to, Target { port, size: None })]);
        watch::channel(Targets { from: vec![from], port, peers })
    };
    let (_aim, aimed) = targets(one, two);
    let (mut known, _voice) = follow(aimed);
    let until = |wanted| move |probes: &Probes| probes.get(&two) == Some(&wanted);
    let long = Duration::from_secs(20);
    let silent = tokio::time::timeout(long, known.wait_for(until(Probe::Silent)));
    silent.await.expect("soon").expect("still asked");
    // Nobody answers but programs; notices go from agent to agent.
    let (_aim, aimed) = targets(two, one);
    let (_known, voice) = follow(aimed);
    voice.goodbye().await;
    let left = tokio::time::timeout(long, known.wait_for(until(Probe::Left)));
    left.await.expect("soon").expect("still asked");
}
