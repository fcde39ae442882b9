//! Being asked, and asking, for what was lost on the way.
//!
//! Messages get lost, and a liar keeps some to himself. So whoever makes no progress
//! says where it is and what it lacks ([`Status`]), and whoever is there too, or
//! further, sends it: votes and proposals of the height, a block, or where the ledger
//! is, from which follows what to fetch. Everyone is helped at most so often.

use polity_base::NodeId;

use super::{Event, Output, Phase, Tip, To, Validator};
use crate::consensus::catch_up::Received;
use crate::consensus::message::{Message, SnapshotPart, Status};
use crate::types::Height;

/// So many blocks are sent in answer to a status: one proposed, one locked.
const BLOCKS: usize = 2;

impl Validator {
    pub(super) fn say_status(&mut self, to: To, asks: bool) {
        let status = Status {
            committed: self.tip.height,
            round: self.round(),
            lacks: self.hands.candidates.lacking().take(BLOCKS).collect(),
            asks,
        };
        self.hands.outputs.push(Output::Send(to, Message::Status(status)));
    }

    /// Nothing has happened for a while.
    pub(super) fn ask_peers(&mut self) {
        self.say_status(To::All, true);
    }

    pub(super) fn receive_status(&mut self, from: NodeId, status: Status) {
        self.catch_up.claims(from, status.committed);
        if status.committed < self.tip.height {
            return self.tell_where(from);
        }
        let together = status.committed == self.tip.height && self.phase == Phase::Running;
        if !(status.asks && together && self.may_help(from)) {
            return;
        }
        let round = status.round.unwrap_or(0).min(self.round().unwrap_or(0));
        let seen = self.hands.watch.seen(self.height(), round);
        let mut answers = vec![Message::Seen(seen)];
        if let Some(entered) = self.core.round_certificate().filter(|_| status.round < self.round()) {
            answers.push(Message::Round(entered.certificate.clone().into()));
        }
        let lacking = status.lacks.iter().take(BLOCKS);
        answers.extend(lacking.filter_map(|id| self.hands.candidates.block(id)).map(Message::Block));
        self.hands.outputs.extend(answers.into_iter().map(|message| Output::Send(To::Node(from), message)));
    }

    /// Tells a node that is behind where the ledger is.
    pub(super) fn tell_where(&mut self, node: NodeId) {
        if self.may_help(node) {
            self.say_status(To::Node(node), false);
        }
    }

    fn may_help(&mut self, node: NodeId) -> bool {
        let (now, pause) = (self.hands.now.elapsed, self.options.pace.repeat / 4);
        let last = self.helped.insert(node, now);
        match last.is_none_or(|last| now.saturating_sub(last) >= pause) {
            true => true,
            false => {
                self.helped.extend(last.map(|last| (node, last)));
                false
            }
        }
    }

    /// Fetches what others have decided.
    pub(super) fn catch_up_if_behind(&mut self) {
        if !matches!(self.phase, Phase::Waiting | Phase::Running) {
            return;
        }
        let (now, patience) = (self.hands.now.elapsed, self.hands.pace.repeat());
        let Some((node, first, last)) = self.catch_up.ask(self.height(), now, patience) else { return };
        self.hands.outputs.push(Output::Notify(Event::Behind(last)));
        self.hands.outputs.push(Output::Send(To::Node(node), Message::Fetch(first, last)));
    }

    /// A node does not have the blocks any more that it was asked for.
    pub(super) fn receive_pruned(&mut self, from: NodeId, snapshot: Option<Height>) {
        let now = self.hands.now.elapsed;
        if let Some(height) = self.catch_up.pruned(from, snapshot, self.height(), now) {
            let question = Message::FetchSnapshot(height, 0);
            self.hands.outputs.push(Output::Send(To::Node(from), question));
        }
    }

    pub(super) fn receive_part(&mut self, from: NodeId, part: SnapshotPart) {
        let height = part.height;
        match self.catch_up.part(from, part, self.options.snapshot_limit, self.hands.now.elapsed) {
            Received::Unasked => {}
            Received::Senseless => self.strike(from, "parts of a snapshot that do not fit"),
            Received::Part(next) => {
                let question = Message::FetchSnapshot(height, next);
                self.hands.outputs.push(Output::Send(To::Node(from), question));
            }
            Received::Whole(parts)
                if height > self.tip.height && matches!(self.phase, Phase::Waiting | Phase::Running) =>
            {
                self.before_installing = self.phase;
                self.phase = Phase::Installing;
                self.hands.outputs.push(Output::Install(from, height, parts));
            }
            Received::Whole(_) => {}
        }
    }

    pub(super) fn installed(&mut self, from: NodeId, outcome: Result<Tip, String>) {
        match outcome {
            Ok(tip) => self.advance(tip),
            Err(_) => {
                self.catch_up.refuted(from);
                self.strike(from, "a snapshot that does not prove itself");
                self.phase = self.before_installing;
            }
        }
    }
}
