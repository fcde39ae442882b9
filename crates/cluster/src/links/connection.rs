//! One connection to a peer, from its first message to its end.
//!
//! A connection carries requests one way, from whoever dialled, and answers the
//! other. One task reads and writes it; each request is answered in a task of its
//! own, so a slow one delays no other, and requests may overtake each other.
//!
//! Everything that waits is bounded. Control requests fail at once where a bound is
//! met: who sends them has something better to do than to wait. Bulk requests wait,
//! and a reader that has too many stops reading, so that the sender slows down.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::frame::{self, Frame, Kind, Message};
use super::hub::Hub;
use super::peer::Peer;
use super::{CallError, Refusal, Service, Traffic, Way};

/// Frames are written once they have so many bytes.
const FULL_FRAME: usize = 64 * 1024;
/// A body from which on it is written as it is, not copied into the frame.
const LARGE_BODY: usize = 32 * 1024;
/// Messages that may wait to be written.
const QUEUE: usize = 8192;
/// Bytes that one permit of a budget stands for.
const PERMIT_BYTES: usize = 1024;

/// Why a connection ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum End {
    /// Nothing came from the peer for too long.
    #[error("nothing was heard from it for {0:?}")]
    Silent(Duration),
    /// The connection was closed or broke.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// The peer sent what it must not.
    #[error("it sent {0}")]
    Offence(String),
    /// Another connection takes its place.
    #[error("the connection was replaced")]
    Replaced,
    /// The certificate under which it was made is not valid any more.
    #[error("the certificate that the connection was made with is not valid any more")]
    Outlived,
    /// This node's links are stopped.
    #[error("this node's links are stopped")]
    Stopped,
}

/// A message on its way out, with what it holds of the budget.
struct Queued {
    message: Message,
    _budget: Option<OwnedSemaphorePermit>,
}

/// Requests that wait for their answers.
#[derive(Default)]
struct Pending {
    next: u64,
    waiting: HashMap<u64, (u16, oneshot::Sender<Result<Bytes, Refusal>>)>,
    by_service: HashMap<u16, usize>,
    /// Set once the connection has ended
    ended: Option<End>,
}

impl Pending {
    fn take(&mut self, id: u64) -> Option<oneshot::Sender<Result<Bytes, Refusal>>> {
        let (service, sender) = self.waiting.remove(&id)?;
        if let Some(count) = self.by_service.get_mut(&service) {
            *count -= 1;
        }
        Some(sender)
    }
}

/// One connection, as everybody but its own task sees it.
pub struct Connection {
    hub: Arc<Hub>,
    pub peer: Arc<Peer>,
    pub traffic: Traffic,
    /// Whether this node dialled
    dialled: bool,
    /// Until when the peer's certificate is valid, in seconds since 1970
    pub not_after: i64,
    queue: mpsc::Sender<Queued>,
    outgoing: Arc<Semaphore>,
    incoming: Arc<Semaphore>,
    serving: Mutex<HashMap<u16, usize>>,
    pending: Mutex<Pending>,
    end: watch::Sender<Option<End>>,
    /// Set when the peer asks for a new connection in place of this one
    retire: watch::Sender<bool>,
    epoch: Instant,
    /// When the peer was last heard, in microseconds after `epoch`
    heard: AtomicU64,
}

/// What only the connection's own task holds.
pub struct Ends<S> {
    pub stream: S,
    queued: mpsc::Receiver<Queued>,
    /// What was read already, beyond the first message
    pub buffer: BytesMut,
}

/// What is known when a connection is made.
pub struct Particulars {
    pub traffic: Traffic,
    pub dialled: bool,
    pub not_after: i64,
}

fn permits(message: &Message) -> u32 {
    // A message larger than a whole budget is let through alone.
    u32::try_from(1 + message.body.len() / PERMIT_BYTES).unwrap_or(u32::MAX)
}

impl Connection {
    pub fn new<S>(
        hub: Arc<Hub>,
        peer: Arc<Peer>,
        particulars: Particulars,
        stream: S,
        buffer: BytesMut,
    ) -> (Arc<Connection>, Ends<S>) {
        let (queue, queued) = mpsc::channel(QUEUE);
        let budget = || Arc::new(Semaphore::new(hub.limits.waiting_bytes / PERMIT_BYTES));
        let connection = Connection {
            outgoing: budget(),
            incoming: budget(),
            peer,
            traffic: particulars.traffic,
            dialled: particulars.dialled,
            not_after: particulars.not_after,
            queue,
            serving: Mutex::default(),
            pending: Mutex::default(),
            end: watch::Sender::new(None),
            retire: watch::Sender::new(false),
            epoch: Instant::now(),
            heard: AtomicU64::new(0),
            hub,
        };
        (Arc::new(connection), Ends { stream, queued, buffer })
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Waits until it has ended; gives the reason.
    pub async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone()).unwrap_or(End::Stopped)
    }

    /// Ends it.
    pub fn close(&self, why: End) {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(why);
            }
            first
        });
    }

    /// Has a new connection made in its place, by whoever made this one.
    pub fn renew(&self) {
        if self.dialled {
            self.retire.send_replace(true);
        } else {
            let _ = self.queue.try_send(Queued { message: Message::bare(Kind::Retire), _budget: None });
        }
    }

    /// Waits until the connection is to be replaced by a new one.
    pub async fn to_be_retired(&self) {
        let mut retire = self.retire.subscribe();
        if retire.wait_for(|retire| *retire).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// How many requests wait for answers.
    pub fn waiting(&self) -> usize {
        self.pending.lock().waiting.len()
    }

    /// Asks the peer, and waits for its answer.
    pub async fn call(self: &Arc<Self>, service: Service, request: Bytes) -> Result<Bytes, CallError> {
        let to = self.peer.node;
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut pending = self.pending.lock();
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
        let wanted = permits(&message).min((self.hub.limits.waiting_bytes / PERMIT_BYTES) as u32);
        let full = || CallError::Overloaded { to, what: "too much waits to be sent to it".to_owned() };
        match self.traffic {
            Traffic::Bulk => {
                let room = async {
                    let budget = self.outgoing.clone().acquire_many_owned(wanted).await.map_err(|_| over())?;
                    self.queue.send(Queued { message, _budget: Some(budget) }).await.map_err(|_| over())
                };
                tokio::select! {
                    done = room => done,
                    _ = self.ended() => Err(over()),
                }
            }
            Traffic::Control => {
                let budget = self.outgoing.clone().try_acquire_many_owned(wanted).map_err(|_| full())?;
                self.queue.try_send(Queued { message, _budget: Some(budget) }).map_err(|e| match e {
                    mpsc::error::TrySendError::Full(_) => full(),
                    mpsc::error::TrySendError::Closed(_) => over(),
                })
            }
        }
    }

    /// Reads and writes until the connection ends; gives the reason.
    pub async fn run<S: AsyncRead + AsyncWrite>(self: Arc<Self>, ends: Ends<S>) -> End {
        let Ends { stream, queued, buffer } = ends;
        let (reader, writer) = tokio::io::split(stream);
        let mut stop = self.hub.stopping();
        let why = tokio::select! {
            why = self.read(reader, buffer) => why,
            why = self.write(writer, queued) => why,
            why = self.listen() => why,
            why = self.ended() => why,
            _ = stop.wait_for(|stop| *stop) => End::Stopped,
        };
        self.close(why.clone());
        let mut pending = self.pending.lock();
        pending.ended = Some(why.clone());
        pending.waiting.clear();
        pending.by_service.clear();
        why
    }

    /// Whether the peer is still there: whoever dialled asks now and then, and
    /// either side gives up after a silence. Bulk connections are not asked, since
    /// they may rightly be stuck; they share the fate of the control connection.
    async fn listen(&self) -> End {
        if self.traffic == Traffic::Bulk {
            return std::future::pending().await;
        }
        let limits = &self.hub.limits;
        // Whoever is asked gives up later than whoever asks.
        let patience = if self.dialled { limits.silence } else { limits.silence * 2 };
        let mut ticker = tokio::time::interval(limits.ping_every);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticker.tick().await;
            let now = self.epoch.elapsed();
            let silence = now.saturating_sub(Duration::from_micros(self.heard.load(Ordering::Relaxed)));
            if silence > patience {
                return End::Silent(silence);
            }
            if self.dialled {
                let ping = Message::bare(Kind::Ping { stamp: now.as_micros() as u64 });
                let _ = self.queue.try_send(Queued { message: ping, _budget: None });
            }
        }
    }

    async fn write<S: AsyncWrite>(&self, mut writer: WriteHalf<S>, mut queued: mpsc::Receiver<Queued>) -> End {
        let mut passage = self.hub.passage(&self.peer, Way::Outgoing);
        let mut frame = Frame::default();
        loop {
            let first = tokio::select! {
                message = queued.recv(), if passage.has_room() => match message {
                    Some(Queued { message, _budget }) => passage.admit(message).map(|message| (message, _budget)),
                    None => return End::Stopped,
                },
                message = passage.due() => Some((message, None)),
            };
            // Budgets are given back once the bytes are handed over.
            let mut budgets = Vec::new();
            let mut next = first;
            let written = loop {
                if let Some((message, budget)) = next {
                    budgets.push(budget);
                    if message.body.len() >= LARGE_BODY {
                        let large = self.write_frame(&mut writer, &mut frame).await;
                        let large = match large {
                            Ok(()) => self.write_large(&mut writer, &message).await,
                            failed => failed,
                        };
                        if large.is_err() {
                            break large;
                        }
                    } else {
                        frame.push(&message);
                    }
                }
                if frame.bytes() >= FULL_FRAME || frame.messages() >= frame::MOST_MESSAGES || !passage.has_room() {
                    break Ok(());
                }
                match queued.try_recv() {
                    Ok(Queued { message, _budget }) => next = passage.admit(message).map(|m| (m, _budget)),
                    Err(_) => break Ok(()),
                }
            };
            let flushed = match written {
                Ok(()) => self.write_frame(&mut writer, &mut frame).await,
                failed => failed,
            };
            if let Err(error) = async { flushed.and(writer.flush().await) }.await {
                return End::Closed(error.to_string());
            }
        }
    }

    async fn write_frame<S: AsyncWrite>(&self, writer: &mut WriteHalf<S>, frame: &mut Frame) -> std::io::Result<()> {
        if frame.messages() == 0 {
            return Ok(());
        }
        let traffic = &self.peer.traffic;
        traffic.messages_sent.fetch_add(frame.messages() as u64, Ordering::Relaxed);
        let bytes = frame.finish();
        writer.write_all(&bytes).await?;
        traffic.frames_sent.fetch_add(1, Ordering::Relaxed);
        traffic.bytes_sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn write_large<S: AsyncWrite>(&self, writer: &mut WriteHalf<S>, message: &Message) -> std::io::Result<()> {
        let head = Frame::of_one(message);
        writer.write_all(&head).await?;
        writer.write_all(&message.body).await?;
        let traffic = &self.peer.traffic;
        traffic.messages_sent.fetch_add(1, Ordering::Relaxed);
        traffic.frames_sent.fetch_add(1, Ordering::Relaxed);
        traffic.bytes_sent.fetch_add((head.len() + message.body.len()) as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn read<S: AsyncRead>(self: &Arc<Self>, mut reader: ReadHalf<S>, mut buffer: BytesMut) -> End {
        let mut passage = self.hub.passage(&self.peer, Way::Incoming);
        let limit = self.hub.limits.message_bytes(self.traffic) + frame::HEAD_BYTES + frame::KIND_BYTES;
        loop {
            loop {
                let messages = match frame::take(&mut buffer, limit) {
                    Ok(Some(content)) => {
                        self.peer.traffic.frames_received.fetch_add(1, Ordering::Relaxed);
                        frame::decode(content)
                    }
                    Ok(None) => break,
                    Err(malformed) => Err(malformed),
                };
                let messages = match messages {
                    Ok(messages) => messages,
                    Err(malformed) => return End::Offence(malformed.to_string()),
                };
                self.peer.traffic.messages_received.fetch_add(messages.len() as u64, Ordering::Relaxed);
                for message in messages {
                    if let Some(message) = passage.admit(message)
                        && let Err(end) = self.receive(message).await
                    {
                        return end;
                    }
                }
            }
            buffer.reserve(FULL_FRAME);
            tokio::select! {
                read = reader.read_buf(&mut buffer), if passage.has_room() => match read {
                    Ok(0) => return End::Closed("by the peer".to_owned()),
                    Ok(bytes) => {
                        self.peer.traffic.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
                        // Under a cut nothing is heard, whatever the network brings.
                        if !passage.is_cut() {
                            self.heard.store(self.epoch.elapsed().as_micros() as u64, Ordering::Relaxed);
                        }
                    }
                    Err(error) => return End::Closed(error.to_string()),
                },
                message = passage.due() => if let Err(end) = self.receive(message).await {
                    return end;
                },
            }
        }
    }

    /// Acts on one message.
    async fn receive(self: &Arc<Self>, message: Message) -> Result<(), End> {
        match message.kind {
            Kind::Request { id, service } if !self.dialled => self.serve(id, Service(service), message.body).await,
            Kind::Answer { id } if self.dialled => {
                self.answered(id, Ok(message.body));
                Ok(())
            }
            Kind::Refused { id, refusal } if self.dialled => {
                self.peer.traffic.refused.fetch_add(1, Ordering::Relaxed);
                self.answered(id, Err(refusal));
                Ok(())
            }
            Kind::Ping { stamp } if !self.dialled => {
                let pong = Message::bare(Kind::Pong { stamp });
                let _ = self.queue.try_send(Queued { message: pong, _budget: None });
                Ok(())
            }
            Kind::Pong { stamp } if self.dialled => {
                let now = self.epoch.elapsed().as_micros() as u64;
                self.peer.traffic.measured(now.saturating_sub(stamp));
                Ok(())
            }
            Kind::Retire if self.dialled => {
                self.renew();
                Ok(())
            }
            other => Err(End::Offence(format!("a message out of place ({})", other.word()))),
        }
    }

    fn answered(&self, id: u64, answer: Result<Bytes, Refusal>) {
        // An unknown one was abandoned.
        if let Some(sender) = self.pending.lock().take(id) {
            let _ = sender.send(answer);
        }
    }

    /// Has a request answered by its service, in a task of its own.
    async fn serve(self: &Arc<Self>, id: u64, service: Service, request: Bytes) -> Result<(), End> {
        let message = Message { kind: Kind::Request { id, service: service.0 }, body: request };
        let wanted = permits(&message).min((self.hub.limits.waiting_bytes / PERMIT_BYTES) as u32);
        let refuse = |refusal| {
            let refused = Message::bare(Kind::Refused { id, refusal });
            let _ = self.queue.try_send(Queued { message: refused, _budget: None });
            Ok(())
        };
        let Some(handler) = self.hub.handler(service) else { return refuse(Refusal::NoService) };
        let budget = match self.traffic {
            Traffic::Bulk => self.incoming.clone().acquire_many_owned(wanted).await.map_err(|_| End::Stopped)?,
            Traffic::Control => match self.incoming.clone().try_acquire_many_owned(wanted) {
                Ok(budget) => budget,
                Err(_) => return refuse(Refusal::Overloaded),
            },
        };
        let Some(slot) = Slot::take(self, service) else { return refuse(Refusal::Overloaded) };
        let (connection, from) = (self.clone(), self.peer.node);
        self.hub.spawn(async move {
            let answer = std::panic::AssertUnwindSafe(handler.answer(from, message.body));
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
        let wanted = permits(&message).min((self.hub.limits.waiting_bytes / PERMIT_BYTES) as u32);
        let room = async {
            if let Ok(budget) = self.outgoing.clone().acquire_many_owned(wanted).await {
                let _ = self.queue.send(Queued { message, _budget: Some(budget) }).await;
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
        self.connection.pending.lock().take(self.id);
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
        let mut serving = connection.serving.lock();
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
        if let Some(count) = self.connection.serving.lock().get_mut(&self.service.0) {
            *count -= 1;
        }
    }
}
