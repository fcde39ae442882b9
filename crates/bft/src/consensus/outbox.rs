//! What must be durable before what: nothing a validator says leaves it before
//! everything it was derived from is on disk. And nothing is written for its own
//! sake: what others said is put into the log with the next thing said here.
//!
//! A validator that forgets what it said may say the opposite after a crash, and
//! two thirds that do so can decide twice. So its outputs come in an order, and the
//! order is kept here: a message or a block waits until all records before it are
//! durable. Only what promises nothing passes by: asking the application to check a
//! block, or telling people what happened.
//!
//! ```text
//! step ──▶ append a · send m · append b · commit c · check d
//!              │        ╰── after a          │         ╰── at once
//!              ▼                             ╰── after b
//!            log ── durable(1) ──▶ m    durable(2) ──▶ c
//! ```

use std::collections::VecDeque;

use polity_base::planted::{Bug, planted};

use super::record::Record;
use super::validator::Output;

/// Outputs of a validator on their way.
#[derive(Default)]
pub struct Outbox {
    /// Records that nothing waits for yet: most of what others say
    idle: Vec<Record>,
    /// How many records were handed to the log
    appended: u64,
    /// How many of them are durable
    durable: u64,
    /// Outputs, each with how many records must be durable before it
    waiting: VecDeque<(u64, Output)>,
}

/// What to do now with what a step put out.
#[derive(Default)]
pub struct Ready {
    /// Records for the log, in order; [`Outbox::durable`] is to be told
    pub records: Vec<Record>,
    /// What may be done at once
    pub outputs: Vec<Output>,
}

impl Outbox {
    /// Takes the outputs of a step.
    pub fn push(&mut self, outputs: Vec<Output>) -> Ready {
        let mut ready = Ready::default();
        for output in outputs {
            match output {
                Output::Append(record) => {
                    self.appended += 1;
                    self.idle.push(record);
                }
                output if !output.promises() => ready.outputs.push(output),
                output if planted(Bug::SignBeforeFsync) => ready.outputs.push(output),
                // Also keeps the order among those that wait.
                output if self.durable < self.appended => self.waiting.push_back((self.appended, output)),
                output => ready.outputs.push(output),
            }
        }
        if !self.waiting.is_empty() {
            ready.records = std::mem::take(&mut self.idle);
        }
        ready
    }

    /// Takes note that so many more records are durable; what may be done now.
    pub fn durable(&mut self, records: usize) -> Vec<Output> {
        self.durable += records as u64;
        assert!(self.durable <= self.appended, "more records are durable than were appended");
        let count = self.waiting.iter().take_while(|(needs, _)| *needs <= self.durable).count();
        self.waiting.drain(..count).map(|(_, output)| output).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::message::{Message, Seen};
    use crate::consensus::record::{Entry, Step};
    use crate::consensus::validator::To;
    use crate::types::Height;

    fn append(round: u32) -> Output {
        Output::Append(Record { height: Height(1), entry: Entry::Timeout(Step::Propose, round) })
    }

    fn promise(height: u64) -> Output {
        let seen = Seen { height: Height(height), votes: Vec::new(), proposals: Vec::new() };
        Output::Send(To::All, Message::Seen(seen))
    }

    fn heights(outputs: &[Output]) -> Vec<u64> {
        let height = |output: &Output| match output {
            Output::Send(_, Message::Seen(seen)) => seen.height.0,
            Output::Build(height, _) => height.0,
            other => panic!("unexpected {other:?}"),
        };
        outputs.iter().map(height).collect()
    }

    #[test]
    fn a_promise_waits_for_the_records_before_it_and_for_no_others() {
        let mut outbox = Outbox::default();
        let ready = outbox.push(vec![promise(1), append(0), promise(2), append(1), Output::Build(Height(9), 0)]);
        assert_eq!((ready.records.len(), heights(&ready.outputs)), (2, vec![1, 9]));
        let later = outbox.push(vec![append(2), promise(3)]);
        assert_eq!((later.records.len(), later.outputs.len()), (1, 0));
        assert_eq!(heights(&outbox.durable(1)), [2]);
        assert_eq!(heights(&outbox.durable(2)), [3]);
    }

    #[test]
    fn records_that_nothing_waits_for_are_written_with_the_next_promise() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(vec![append(0), append(1)]).records.len(), 0);
        assert_eq!(outbox.push(vec![append(2), promise(1)]).records.len(), 3);
        assert_eq!(heights(&outbox.durable(3)), [1]);
    }
}
