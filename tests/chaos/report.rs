//! What was seen, in figures.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lab::{Interval, Question};

use crate::clients::Transfers;

pub(crate) struct Report {
    intervals: usize,
    questions: usize,
    unanswered: usize,
    transfers: Transfers,
    /// How long nobody answered, by kind of fault.
    outages: BTreeMap<&'static str, Vec<Duration>>,
}

impl Report {
    pub(crate) fn new(
        intervals: &[Interval],
        questions: &[Vec<Question>],
        transfers: &Transfers,
    ) -> Self {
        let asked = questions.iter().flatten();
        Self {
            intervals: intervals.len(),
            questions: questions.iter().map(Vec::len).sum(),
            unanswered: asked.filter(|question| question.answered.is_empty()).count(),
            transfers: transfers.clone(),
            outages: BTreeMap::new(),
        }
    }

    pub(crate) fn outage(&mut self, fault: &'static str, outage: Duration) {
        self.outages.entry(fault).or_default().push(outage);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { intervals, questions, unanswered, transfers, outages } = self;
        writeln!(out, "{intervals} ownerships in all hosts' maps")?;
        let share = 100.0 * *unanswered as f64 / *questions as f64;
        writeln!(out, "{questions} questions, {unanswered} of them ({share:.2}%) unanswered")?;
        writeln!(
            out,
            "{} connections, {} MB, {} failed, {} attempts failed, longest stall {:?}",
            transfers.connections,
            transfers.bytes / 1_000_000,
            transfers.failed(),
            transfers.refused,
            transfers.longest_stall,
        )?;
        writeln!(out, "longest time without an answer around each fault, per VIP:")?;
        writeln!(out, "{:26} {:>5} {:>8} {:>8}", "fault", "count", "median", "max")?;
        for (fault, all) in outages {
            let mut all = all.clone();
            all.sort();
            let (median, max) = (all[all.len() / 2].as_millis(), all[all.len() - 1].as_millis());
            writeln!(out, "{fault:26} {:>5} {median:>5} ms {max:>5} ms", all.len())?;
        }
        Ok(())
    }
}
