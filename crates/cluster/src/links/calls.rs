//! The calls on one connection: those that wait for answers here, and those that
//! are being answered here.
//!
//! Everything that waits is bounded. Control requests fail at once where a bound is
//! met: who sends them has something better to do than to wait. Bulk requests wait,
//! and a reader that has too many stops reading, so that the sender slows down.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::connection::{Connection, End, Queued};
use super::frame::{Kind, Message};
use super::{CallError, Limits, Refusal, Service, Traffic};

/// Bytes that one permit of a budget stands for.
const PERMIT_BYTES: usize = 1024;

type Answered = Result<Bytes, Refusal>;

/// The calls on one connection.
pub struct Calls {
    /// What may wait to be sent
    outgoing: Arc<Semaphore>,
    /// What requests that are being answered may take
    incoming: Arc<Semaphore>,
    permits: u32,
    pending: Mutex<Pending>,
    /// Requests that are being answered, by service
    serving: Mutex<HashMap<u16, usize>>,
}

/// Requests that wait for their answers.
#[derive(Default)]
struct Pending {
    next: u64,
    waiting: HashMap<u64, (u16, oneshot::Sender<Answered>)>,
    by_service: HashMap<u16, usize>,
    /// Set once the connection has ended
    ended: Option<End>,
}

impl Pending {
    fn take(&mut self, id: u64) -> Option<oneshot::Sender<Answered>> {
        let (service, sender) = self.waiting.remove(&id)?;
        if let Some(count) = self.by_service.get_mut(&service) {
            *count -= 1;
        }
        Some(sender)
    }
}

impl Calls {
    pub fn new(limits: &Limits) -> Calls {
        let permits = u32::try_from(limits.waiting_bytes / PERMIT_BYTES).unwrap_or(u32::MAX).max(1);
        let budget = || Arc::new(Semaphore::new(permits as usize));
        Calls { outgoing: budget(), incoming: budget(), permits, pending: Mutex::default(), serving: Mutex::default() }
    }

    /// How many requests wait for answers.
    pub fn waiting(&self) -> usize {
        self.pending.lock().waiting.len()
    }

    /// How many requests are being answered.
    pub fn being_answered(&self) -> usize {
        self.serving.lock().values().sum()
    }

    /// How many are on their way, in whichever direction.
    pub fn under_way(&self) -> usize {
        self.waiting() + self.being_answered()
    }

    /// Takes in an answer.
    pub fn answered(&self, id: u64, answer: Answered) {
        // An unknown one was abandoned.
        if let Some(sender) = self.pending.lock().take(id) {
            let _ = sender.send(answer);
        }
    }

    /// Fails what waits, and whatever comes later.
    pub fn end(&self, why: &End) {
        let mut pending = self.pending.lock();
        pending.ended = Some(why.clone());
        pending.waiting.clear();
        pending.by_service.clear();
    }

    /// What a body takes of a budget. One that is larger than the whole budget takes
    /// all of it, and goes alone.
    fn permits(&self, body: &Bytes) -> u32 {
        u32::try_from(1 + body.len() / PERMIT_BYTES).map_or(self.permits, |wanted| wanted.min(self.permits))
    }
}

impl Connection {
    /// Asks the peer, and waits for its answer.
    pub async fn call(self: &Arc<Self>, service: Service, request: Bytes) -> Result<Bytes, CallError> {
        let to = self.peer.node;
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut pending = self.calls.pending.lock();
            if let Some(end) = &pending.ended {
                return Err(CallError::Unreachable { to, why: end.to_string() });
            }
            let count = pending.by_service.entry(service.0).or_default();
            if *count >= self.hub.limits.calls {
                return Err(CallError::Overloaded { to, what: format!("{count} calls wait for it") });
            }
            *count += 1;
            pending.next += 1;
            let id = pending.next;
            pending.waiting.insert(id, (service.0, sender));
            id
        };
        let _abandon = Abandon { connection: self, id };
        self.send(Message { kind: Kind::Request { id, service: service.0 }, body: request }).await?;
        match receiver.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(refusal)) => Err(CallError::Refused { to, refusal }),
            Err(_) => Err(CallError::Lost { to, why: self.why_over() }),
        }
    }

    fn why_over(&self) -> String {
        self.end.borrow().as_ref().map_or_else(|| "the connection ended".to_owned(), End::to_string)
    }

    /// Queues a message: bulk waits for room, control does not.
    async fn send(&self, message: Message) -> Result<(), CallError> {
        let to = self.peer.node;
        let over = || CallError::Unreachable { to, why: self.why_over() };
        let wanted = self.calls.permits(&message.body);
        let full = || CallError::Overloaded { to, what: "too much waits to be sent to it".to_owned() };
        match self.traffic {
            Traffic::Bulk => {
                let room = async {
                    let budget = self.calls.outgoing.clone().acquire_many_owned(wanted).await.map_err(|_| over())?;
                    self.queue.send(Queued { message, budget: Some(budget) }).await.map_err(|_| over())
                };
                tokio::select! {
                    done = room => done,
                    _ = self.ended() => Err(over()),
                }
            }
            Traffic::Control => {
                let budget = self.calls.outgoing.clone().try_acquire_many_owned(wanted).map_err(|_| full())?;
                self.queue.try_send(Queued { message, budget: Some(budget) }).map_err(|e| match e {
                    mpsc::error::TrySendError::Full(_) => full(),
                    mpsc::error::TrySendError::Closed(_) => over(),
                })
            }
        }
    }

    /// Has a request answered by its service, in a task of its own.
    pub(super) async fn serve(self: &Arc<Self>, id: u64, service: Service, request: Bytes) -> Result<(), End> {
        let wanted = self.calls.permits(&request);
        let refuse = |refusal| {
            let refused = Message::bare(Kind::Refused { id, refusal });
            let _ = self.queue.try_send(Queued::small(refused));
            Ok(())
        };
        let Some(handler) = self.hub.handler(service) else { return refuse(Refusal::NoService) };
        let budget = match self.traffic {
            Traffic::Bulk => self.calls.incoming.clone().acquire_many_owned(wanted).await.map_err(|_| End::Stopped)?,
            Traffic::Control => match self.calls.incoming.clone().try_acquire_many_owned(wanted) {
                Ok(budget) => budget,
                Err(_) => return refuse(Refusal::Overloaded),
            },
        };
        let Some(slot) = Slot::take(self, service) else { return refuse(Refusal::Overloaded) };
        let (connection, from) = (self.clone(), self.peer.node);
        self.hub.spawn(async move {
            let answer = std::panic::AssertUnwindSafe(handler.answer(from, request));
            let answer = futures::FutureExt::catch_unwind(answer).await.unwrap_or_else(|_| {
                tracing::error!(%from, service = service.0, "a request could not be answered: a fault in Polity");
                Err(Refusal::Failed("a fault in Polity".to_owned()))
            });
            let message = match answer {
                Ok(body) if body.len() > connection.hub.limits.message_bytes(connection.traffic) => {
                    let what = format!("the answer takes {} bytes, more than a message may", body.len());
                    Message::bare(Kind::Refused { id, refusal: Refusal::Failed(what) })
                }
                Ok(body) => Message { kind: Kind::Answer { id }, body },
                Err(refusal) => {
                    let offence = refusal.offence();
                    let refused = Message::bare(Kind::Refused { id, refusal });
                    if let Some(offence) = offence {
                        connection.close(End::Offence(offence));
                    }
                    refused
                }
            };
            connection.reply(message).await;
            drop((slot, budget));
        });
        Ok(())
    }

    /// Queues an answer, waiting for room whatever the traffic: it is the request's
    /// slot that bounds how many wait.
    async fn reply(&self, message: Message) {
        let wanted = self.calls.permits(&message.body);
        let room = async {
            if let Ok(budget) = self.calls.outgoing.clone().acquire_many_owned(wanted).await {
                let _ = self.queue.send(Queued { message, budget: Some(budget) }).await;
            }
        };
        tokio::select! {
            () = room => {}
            _ = self.ended() => {}
        }
    }
}

/// Forgets a call whose caller went away.
struct Abandon<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.connection.calls.pending.lock().take(self.id);
    }
}

/// One of the requests that a connection has answered at a time, by service: a
/// service whose requests wait for long leaves the others theirs.
struct Slot {
    connection: Arc<Connection>,
    service: Service,
}

impl Slot {
    fn take(connection: &Arc<Connection>, service: Service) -> Option<Slot> {
        let mut serving = connection.calls.serving.lock();
        let count = serving.entry(service.0).or_default();
        if *count >= connection.hub.limits.calls {
            return None;
        }
        *count += 1;
        Some(Slot { connection: connection.clone(), service })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(count) = self.connection.calls.serving.lock().get_mut(&self.service.0) {
            *count -= 1;
        }
    }
}
