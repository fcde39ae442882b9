//! Propose and read on any member: whoever leads decides.
//!
//! A caller need not know who leads. Its member asks the leader it knows, and when
//! that one does not lead any more, or does not answer, asks again whoever leads
//! then. For a batch this is safe because batches carry an id: the state applies
//! each once, and answers the second time when that was
//! ([`BatchOutcome::Duplicate`]).
//!
//! ```text
//! caller ──▶ leader known? ── this member ──▶ proposer ──▶ log
//!               │   │ other member ── Propose ─▶ its proposer ──▶ log
//!               │   ╰─ nobody, or no answer: look again in a moment
//!               ╰─ none for `refuse_after`: NoQuorum, or OutcomeUnknown if the batch was
//!                  handed to somebody whose answer never came
//! ```

use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use parking_lot::Mutex;
use polity_base::planted::{Bug, planted};
use polity_base::{Batch, NodeId, Timestamp};
use polity_store::state::BatchOutcome;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::error::Error;
use crate::group::Group;
use crate::metrics::add;
use crate::network::{CallError, Declined, Request, Response};
use crate::types::Peer;

/// How long to wait before looking again who leads.
const MOMENT: Duration = Duration::from_millis(10);
/// How long to wait for a decision before looking whether it can still come.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A leader that neither answers nor is lost to the links is given up after this.
const DECISION_PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for the answer to a question before asking again.
const QUESTION_PATIENCE: Duration = Duration::from_secs(1);
/// Once a batch was handed over it is better to learn its fate late than never:
/// so many times longer is waited then.
const DOUBT: u32 = 3;
/// Questions that may be under way at once.
const QUESTIONS: usize = 4;

/// Who is to be asked.
enum Whom {
    Here,
    There(NodeId),
    Nobody,
}

/// Those who wait for a read barrier.
#[derive(Default)]
pub(crate) struct Questions {
    inner: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    under_way: usize,
    callers: Vec<oneshot::Sender<Result<Timestamp, Error>>>,
}

impl Group {
    /// Proposes a batch, by whichever member leads, and waits for what became of it;
    /// what was committed is applied here when this returns. Batches of concurrent
    /// callers share log entries. Not cancellation-safe in one sense: a batch whose
    /// future is dropped may still be applied.
    ///
    /// # Errors
    /// [`Error::NoQuorum`] if nobody could be asked for
    /// [`GroupOptions::refuse_after`](crate::GroupOptions::refuse_after);
    /// [`Error::OutcomeUnknown`] if somebody was asked whose answer was lost.
    pub async fn propose(&self, batch: Batch) -> Result<BatchOutcome, Error> {
        self.propose_claiming(batch, None).await
    }

    /// The same, unless the leader's [`Admission`] says that what the batch claims is
    /// taken.
    ///
    /// A claim is a courtesy. A leader without an admission orders the batch, and so does
    /// one that is asked again because an answer was lost: what the batch must not
    /// change is for its preconditions to say.
    ///
    /// # Errors
    /// [`Error::Taken`], and those of [`Group::propose`].
    pub async fn propose_if_free(&self, batch: Batch, claim: Bytes) -> Result<BatchOutcome, Error> {
        self.propose_claiming(batch, Some(claim)).await
    }

    async fn propose_claiming(&self, batch: Batch, claim: Option<Bytes>) -> Result<BatchOutcome, Error> {
        let (metrics, begun) = (&self.inner.shared.metrics, Instant::now());
        add(&metrics.proposals, 1);
        let alone = claim.is_none() && self.leads_alone_and_is_current();
        let outcome = if alone { self.propose_here(batch).await } else { self.decide(batch, claim).await };
        match &outcome {
            Ok(_) => metrics.commit_micros.record_micros(begun.elapsed()),
            Err(_) => add(&metrics.failures, 1),
        }
        outcome
    }

    async fn decide(&self, batch: Batch, mut claim: Option<Bytes>) -> Result<BatchOutcome, Error> {
        let mut deadline = Instant::now() + self.inner.refuse_after;
        let mut doubt: Option<String> = None;
        loop {
            let tried = match self.whom() {
                Whom::Here => self.propose_here_if_free(batch.clone(), claim.as_ref()).await,
                Whom::There(node) => self.propose_there(node, batch.clone(), claim.clone()).await,
                Whom::Nobody => Err(self.not_leader()),
            };
            match tried {
                Ok(outcome) => return self.until_applied(outcome).await,
                Err(Error::NotLeader { .. } | Error::NoQuorum { .. }) => {}
                Err(Error::OutcomeUnknown { .. }) if planted(Bug::ReportUnknownAsFailed) => {
                    return Ok(BatchOutcome::TooOld);
                }
                Err(Error::OutcomeUnknown { .. }) if planted(Bug::ReportUnknownAsDone) => {
                    return Ok(BatchOutcome::Committed(self.applied()));
                }
                Err(Error::OutcomeUnknown { reason, .. }) => {
                    if doubt.is_none() {
                        deadline += self.inner.refuse_after * (DOUBT - 1);
                    }
                    doubt = Some(reason);
                    // It may be decided already, and is only asked after.
                    claim = None;
                }
                Err(error) => {
                    let Some(reason) = doubt else { return Err(error) };
                    return Err(Error::OutcomeUnknown { range: self.inner.id, reason });
                }
            }
            if Instant::now() >= deadline {
                let unknown = |reason| Error::OutcomeUnknown { range: self.inner.id, reason };
                return Err(doubt.map_or_else(|| self.no_quorum(), unknown));
            }
            sleep(MOMENT).await;
        }
    }

    fn whom(&self) -> Whom {
        let metrics = self.inner.raft.metrics();
        let now = metrics.borrow_watched();
        if now.state != ServerState::Leader {
            return match now.current_leader {
                Some(leader) if leader != self.inner.node => Whom::There(leader),
                _ => Whom::Nobody,
            };
        }
        // One that nobody has answered for long leads nobody: what it is given would
        // only be in doubt.
        let alone = now.membership_config.membership().voter_ids().eq([self.inner.node]);
        let answered = now.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < 2 * self.inner.lease);
        if alone || answered { Whom::Here } else { Whom::Nobody }
    }

    async fn propose_here_if_free(&self, batch: Batch, claim: Option<&Bytes>) -> Result<BatchOutcome, Error> {
        let _held = match (claim, self.inner.admission.get()) {
            (Some(claim), Some(admission)) => match admission.admit(&batch, claim) {
                Some(held) => Some(held),
                None => return Err(Error::Taken { range: self.inner.id }),
            },
            _ => None,
        };
        self.propose_here(batch).await
    }

    async fn propose_here(&self, batch: Batch) -> Result<BatchOutcome, Error> {
        let mut outcome = self.inner.proposer.propose(batch)?;
        let mut hopeless: Option<Instant> = None;
        loop {
            match timeout(LOOK_EVERY, &mut outcome).await {
                Ok(answer) => return answer.unwrap_or_else(|_| Err(self.lost())),
                Err(_) if matches!(self.whom(), Whom::Here) => hopeless = None,
                Err(_) => {
                    let since = *hopeless.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.inner.refuse_after {
                        let reason = "the leader lost its majority before it was decided".to_owned();
                        return Err(Error::OutcomeUnknown { range: self.inner.id, reason });
                    }
                }
            }
        }
    }

    async fn propose_there(&self, node: NodeId, batch: Batch, claim: Option<Bytes>) -> Result<BatchOutcome, Error> {
        let range = self.inner.id;
        let request = match claim {
            Some(claim) => Request::ProposeIfFree { batch, claim },
            None => Request::Propose(batch),
        };
        match self.inner.links.ask(node, request, DECISION_PATIENCE).await {
            Ok(Response::Proposed(Ok(outcome))) => Ok(outcome),
            Ok(Response::Proposed(Err(declined))) => Err(self.declined(declined)),
            Ok(_) => Err(Error::OutcomeUnknown { range, reason: format!("{node} answered something else") }),
            Err(CallError::Unreachable(..)) => Err(self.not_leader()),
            Err(CallError::Failed(_, reason)) => Err(Error::OutcomeUnknown { range, reason }),
        }
    }

    fn declined(&self, declined: Declined) -> Error {
        let range = self.inner.id;
        match declined {
            Declined::NotLeader | Declined::Stopped(_) => self.not_leader(),
            Declined::Unknown(reason) => Error::OutcomeUnknown { range, reason },
            Declined::Taken => Error::Taken { range },
            Declined::TooLarge { size, limit } => Error::TooLarge { size: size as usize, limit: limit as usize },
        }
    }

    /// Waits until this member has applied what was committed. If that takes too
    /// long the outcome is what it is: the next read finds out.
    async fn until_applied(&self, outcome: BatchOutcome) -> Result<BatchOutcome, Error> {
        if let BatchOutcome::Committed(at) | BatchOutcome::Duplicate(at) = &outcome
            && self.inner.shared.progress.commit() < *at
        {
            let mut commits = self.inner.shared.state.observe_commits(self.inner.id.guarantee());
            let _ = timeout(self.inner.refuse_after, commits.wait_for(|now| now >= at)).await;
        }
        Ok(outcome)
    }

    /// Answers a member that believes this one leads.
    pub(crate) async fn proposed(&self, batch: Batch, claim: Option<Bytes>) -> Result<BatchOutcome, Declined> {
        if !matches!(self.whom(), Whom::Here) {
            return Err(Declined::NotLeader);
        }
        self.propose_here_if_free(batch, claim.as_ref()).await.map_err(|error| match error {
            Error::Taken { .. } => Declined::Taken,
            Error::OutcomeUnknown { reason, .. } => Declined::Unknown(reason),
            Error::TooLarge { size, limit } => Declined::TooLarge { size: size as u64, limit: limit as u64 },
            Error::Stopped { reason, .. } => Declined::Stopped(reason),
            _ => Declined::NotLeader,
        })
    }

    /// A read barrier, shared with all who ask at the same time.
    pub(crate) async fn shared_barrier(&self) -> Result<Timestamp, Error> {
        let (caller, answer) = oneshot::channel();
        let ask = {
            let mut waiting = self.inner.questions.inner.lock();
            waiting.callers.push(caller);
            let ask = waiting.under_way < QUESTIONS;
            waiting.under_way += usize::from(ask);
            ask
        };
        if ask {
            tokio::spawn(self.clone().ask_for_all());
        }
        answer.await.unwrap_or_else(|_| Err(self.is_stopped()))
    }

    async fn ask_for_all(self) {
        loop {
            let callers = {
                let mut waiting = self.inner.questions.inner.lock();
                if waiting.callers.is_empty() {
                    waiting.under_way -= 1;
                    return;
                }
                std::mem::take(&mut waiting.callers)
            };
            let answer = self.barrier().await;
            for caller in callers {
                let _ = caller.send(answer.clone());
            }
        }
    }

    async fn barrier(&self) -> Result<Timestamp, Error> {
        let deadline = Instant::now() + self.inner.refuse_after;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let tried = match self.whom() {
                Whom::Here => timeout(left, self.slow_barrier()).await.unwrap_or_else(|_| Err(self.no_quorum())),
                Whom::There(node) => self.ask_for_barrier(node, left).await,
                Whom::Nobody => Err(self.not_leader()),
            };
            match tried {
                Err(Error::NotLeader { .. } | Error::NoQuorum { .. }) if Instant::now() < deadline => {}
                Err(Error::NotLeader { .. }) => return Err(self.no_quorum()),
                answer => return answer,
            }
            sleep(MOMENT).await;
        }
    }

    async fn ask_for_barrier(&self, node: NodeId, left: Duration) -> Result<Timestamp, Error> {
        let at = match self.inner.links.ask(node, Request::Barrier, left.min(QUESTION_PATIENCE)).await {
            Ok(Response::Barrier(Ok(at))) => at,
            Ok(Response::Barrier(Err(declined))) => return Err(self.declined(declined)),
            Ok(_) | Err(_) => return Err(self.not_leader()),
        };
        if planted(Bug::SkipWaitForApplied) {
            return Ok(at);
        }
        let mut commits = self.inner.shared.state.observe_commits(self.inner.id.guarantee());
        match timeout(left, commits.wait_for(|now| *now >= at)).await {
            Ok(Ok(_)) => Ok(at),
            Ok(Err(_)) => Err(self.is_stopped()),
            // The leader answers, but what it says does not arrive.
            Err(_) => Err(self.no_quorum()),
        }
    }

    /// Answers a member that believes this one leads.
    pub(crate) async fn asked_for_barrier(&self) -> Result<Timestamp, Declined> {
        if self.leads_alone_and_is_current() {
            return Ok(self.inner.shared.progress.commit());
        }
        match timeout(QUESTION_PATIENCE, self.slow_barrier()).await {
            Ok(Ok(at)) => Ok(at),
            Ok(Err(Error::Stopped { reason, .. })) => Err(Declined::Stopped(reason)),
            Ok(Err(_)) | Err(_) => Err(Declined::NotLeader),
        }
    }

    /// Where a member is.
    pub fn peer(&self, node: NodeId) -> Option<Peer> {
        self.inner.links.contacts.peer(node)
    }

    pub(crate) fn not_leader(&self) -> Error {
        Error::NotLeader { range: self.inner.id, leader: self.leader().filter(|leader| *leader != self.inner.node) }
    }

    pub(crate) fn no_quorum(&self) -> Error {
        let (unreachable, since) = self.inner.links.contacts.silent();
        Error::NoQuorum { range: self.inner.id, unreachable, since }
    }
}
