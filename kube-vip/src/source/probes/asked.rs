//! One address that is asked: when next, and what its answers and its silence mean. No I/O.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use kube_vip_common::probe::Message;
use tokio::time::Instant;

use crate::view::{Answer, Probe};

/// Between two questions, on average.
const PERIOD: Duration = Duration::from_secs(1);
/// Between the first questions, so that a cluster that starts need not wait.
const HASTE: Duration = Duration::from_millis(100);
/// For so long questions are asked in haste.
const HASTY: Duration = Duration::from_secs(3);
/// An address that has just been named is not judged before.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// Silence for so long means that nobody is there: three questions went unanswered.
pub(super) const SILENCE: Duration = Duration::from_millis(3500);
/// Who has said goodbye is not asked before it has had the time to go.
pub(super) const PARTING: Duration = Duration::from_secs(2);
/// So many questions of full size in a row without an answer, while short ones get theirs, mean
/// that such packets do not arrive and nobody says so (RFC 8899 §5.1.2, `MAX_PROBES`).
const WIDE_LOST: u32 = 3;
/// Answers that come later are not waited for.
const WAITED_FOR: usize = 8;

/// An address that is asked.
pub(super) struct Asked {
    since: Instant,
    due: Instant,
    /// Silence means nothing before.
    judged_from: Instant,
    waiting: VecDeque<Question>,
    answer: Option<Answer>,
    /// Questions of full size without an answer since the last one with one.
    wide_lost: u32,
    state: State,
    nonces: RandomState,
    count: u64,
}

struct Question {
    nonce: u64,
    wide: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Answered,
    Silent,
    Left,
}

impl Asked {
    /// Named now, and asked at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            due: now,
            judged_from: now + PATIENCE,
            waiting: VecDeque::new(),
            answer: None,
            wide_lost: 0,
            state: State::Pending,
            nonces: RandomState::new(),
            count: 0,
        }
    }

    /// When it is to be asked next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Judges the silence, and returns the questions that are due: a number for each, and whether it
    /// is of full size.
    pub(super) fn ask(&mut self, now: Instant, wide: bool) -> Vec<(u64, bool)> {
        if now < self.due {
            return Vec::new();
        }
        let silent = match (self.state, &self.answer) {
            (State::Pending, _) => true,
            (State::Answered, Some(answer)) => now - answer.at >= SILENCE,
            _ => false,
        };
        if silent && now >= self.judged_from {
            self.state = State::Silent;
        }
        let hasty = self.state != State::Answered && now - self.since < HASTY;
        let jitter = self.number() % (PERIOD.as_millis() as u64 / 5);
        let period = PERIOD - PERIOD / 10 + Duration::from_millis(jitter);
        self.due = now + if hasty { HASTE } else { period };
        let mut questions = vec![(self.number(), false)];
        // Before anybody answers at all there is nothing to be learnt about sizes.
        if wide && self.state == State::Answered {
            let earlier = self.waiting.iter().any(|question| question.wide);
            self.wide_lost = if earlier { self.wide_lost.saturating_add(1) } else { 0 };
            self.waiting.retain(|question| !question.wide);
            questions.push((self.number(), true));
        }
        if !wide {
            self.wide_lost = 0;
        }
        self.waiting.extend(questions.iter().map(|&(nonce, wide)| Question { nonce, wide }));
        while self.waiting.len() > WAITED_FOR {
            self.waiting.pop_front();
        }
        questions
    }

    /// An answer came.
    pub(super) fn answered(&mut self, now: Instant, message: &Message) {
        let asked = self.waiting.iter().position(|question| question.nonce == message.nonce);
        // Nobody was asked that, or not lately.
        let Some(question) = asked.and_then(|index| self.waiting.remove(index)) else { return };
        if question.wide {
            self.wide_lost = 0;
        }
        let Message { hash, digest, age, version, .. } = *message;
        self.answer = Some(Answer { at: now, version, hash, digest, age, narrow: false });
        self.state = State::Answered;
    }

    /// Its data plane works from now on, it says. If it did not for a moment, that is over.
    pub(super) fn greeted(&mut self, now: Instant) {
        self.due = now;
        self.judged_from = now + PATIENCE;
    }

    /// It is leaving, it says. What it was asked before is not waited for: its programs answer to
    /// the end.
    pub(super) fn left(&mut self, now: Instant) {
        self.state = State::Left;
        self.waiting.clear();
        self.due = now + PARTING;
    }

    /// What is known now.
    pub(super) fn probe(&self) -> Probe {
        match (self.state, self.answer) {
            (State::Pending, _) => Probe::Pending,
            (State::Answered, Some(answer)) => {
                Probe::Answered(Answer { narrow: self.wide_lost >= WIDE_LOST, ..answer })
            }
            (State::Left, _) => Probe::Left,
            _ => Probe::Silent,
        }
    }

    /// A number that nobody else can guess.
    fn number(&mut self) -> u64 {
        self.count += 1;
        self.nonces.hash_one(self.count)
    }
}
