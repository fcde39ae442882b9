//! One connection to a peer, from its first message to its end.
//!
//! A connection carries requests one way, from whoever dialled, and answers the
//! other; [`super::calls`] holds both. One task reads and writes it until either
//! side has a reason to end it. Whoever ends it says why, so that the log of the
//! other side does too.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;

use super::calls::Calls;
use super::frame::{self, Frame, Kind, Message};
use super::hub::Hub;
use super::passage::Passage;
use super::peer::{Counters, Peer};
use super::refused::Reason;
use super::{Service, Traffic, Way};

/// Frames are written once they have so many bytes.
const FULL_FRAME: usize = 64 * 1024;
/// Bytes that must be free in the buffer that is read into.
const LEAST_ROOM: usize = 8 * 1024;
/// A body from which on it is written as it is, not copied into the frame.
const LARGE_BODY: usize = 32 * 1024;
/// Messages that may wait to be written.
const QUEUE: usize = 8192;
/// How long telling the peer why a connection ends may take.
const GOODBYE: Duration = Duration::from_millis(250);

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
    /// The peer ended it, and said why.
    #[error("it ended the connection: {0}")]
    Dismissed(String),
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

impl End {
    /// What the peer is told; nothing if it cannot be listening.
    fn goodbye(&self) -> Option<Message> {
        let why = match self {
            End::Silent(_) | End::Closed(_) | End::Dismissed(_) => return None,
            End::Offence(what) => format!("it was sent {what}"),
            End::Stopped => "its links are stopped".to_owned(),
            End::Replaced | End::Outlived => self.to_string(),
        };
        Some(Message::bare(Kind::Rejected(why)))
    }
}

/// A message on its way out, with what it holds of the budget.
pub(super) struct Queued {
    pub message: Message,
    /// Given back when the message is handed over
    pub budget: Option<OwnedSemaphorePermit>,
}

impl Queued {
    /// One that no budget counts: small, and few.
    pub fn small(message: Message) -> Queued {
        Queued { message, budget: None }
    }
}

/// One connection, as everybody but its own task sees it.
pub struct Connection {
    pub(super) hub: Arc<Hub>,
    pub peer: Arc<Peer>,
    pub traffic: Traffic,
    /// Whether this node dialled
    dialled: bool,
    /// Until when the peer's certificate is valid, in seconds since 1970
    pub not_after: i64,
    pub(super) calls: Calls,
    pub(super) queue: mpsc::Sender<Queued>,
    pub(super) end: watch::Sender<Option<End>>,
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

impl Connection {
    pub fn new<S>(
        hub: Arc<Hub>,
        peer: Arc<Peer>,
        particulars: Particulars,
        stream: S,
        buffer: BytesMut,
    ) -> (Arc<Connection>, Ends<S>) {
        let (queue, queued) = mpsc::channel(QUEUE);
        let connection = Connection {
            calls: Calls::new(&hub.limits),
            peer,
            traffic: particulars.traffic,
            dialled: particulars.dialled,
            not_after: particulars.not_after,
            queue,
            end: watch::Sender::new(None),
            retire: watch::Sender::new(false),
            epoch: Instant::now(),
            heard: AtomicU64::new(0),
            hub,
        };
        (Arc::new(connection), Ends { stream, queued, buffer })
    }

    fn counters(&self) -> &Counters {
        self.peer.counters(self.traffic)
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
            let _ = self.queue.try_send(Queued::small(Message::bare(Kind::Retire)));
        }
    }

    /// Waits until the connection is to be replaced by a new one.
    pub async fn to_be_retired(&self) {
        let mut retire = self.retire.subscribe();
        if retire.wait_for(|retire| *retire).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Reads and writes until the connection ends; gives the reason.
    pub async fn run<S: AsyncRead + AsyncWrite>(self: Arc<Self>, ends: Ends<S>) -> End {
        let Ends { stream, queued, buffer } = ends;
        let (reader, writer) = tokio::io::split(stream);
        let mut stop = self.hub.stopping();
        let mut writing = pin!(self.write(writer, queued));
        let mut speechless = false;
        let why = tokio::select! {
            why = self.read(reader, buffer) => why,
            why = &mut writing => {
                speechless = true;
                why
            }
            why = self.listen() => why,
            why = self.ended() => why,
            _ = stop.wait_for(|stop| *stop) => End::Stopped,
        };
        self.close(why.clone());
        // The first reason counts.
        let why = self.end.borrow().clone().unwrap_or(why);
        self.calls.end(&why);
        if let End::Offence(what) = &why {
            self.hub.refused(Reason::Offence, &self.peer.node.to_string(), what);
        }
        if !speechless {
            // The writer ends by itself, unless the peer takes nothing.
            let _ = tokio::time::timeout(GOODBYE, writing).await;
        }
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
                let _ = self.queue.try_send(Queued::small(ping));
            }
        }
    }

    async fn write<S: AsyncWrite>(&self, mut writer: WriteHalf<S>, mut queued: mpsc::Receiver<Queued>) -> End {
        let mut passage = self.hub.passage(&self.peer, Way::Outgoing);
        let mut ended = pin!(self.ended());
        loop {
            let first = tokio::select! {
                message = queued.recv(), if passage.has_room() => match message {
                    Some(Queued { message, budget }) => passage.admit(message).map(|message| Queued { message, budget }),
                    None => return End::Stopped,
                },
                message = passage.due() => Some(Queued::small(message)),
                end = &mut ended => {
                    if let Some(goodbye) = end.goodbye().and_then(|goodbye| passage.admit(goodbye)) {
                        let _ = writer.write_all(&Frame::of_one(&goodbye)).await;
                    }
                    let _ = writer.shutdown().await;
                    return End::Stopped;
                }
            };
            let written = self.write_all(&mut writer, &mut queued, &mut passage, first).await;
            if let Err(error) = async { written.and(writer.flush().await) }.await {
                return End::Closed(error.to_string());
            }
        }
    }

    /// Writes `next` and whatever else waits, in as few frames as possible. What the
    /// messages hold of the budget is given back once all are handed over.
    async fn write_all<S: AsyncWrite>(
        &self,
        writer: &mut WriteHalf<S>,
        queued: &mut mpsc::Receiver<Queued>,
        passage: &mut Passage,
        mut next: Option<Queued>,
    ) -> std::io::Result<()> {
        let (mut frame, mut budgets, mut yielded) = (Frame::default(), Vec::new(), false);
        loop {
            if let Some(Queued { message, budget }) = next {
                budgets.push(budget);
                if message.body.len() >= LARGE_BODY {
                    self.write_frame(writer, &mut frame).await?;
                    self.write_large(writer, &message).await?;
                } else {
                    frame.push(&message);
                }
            }
            if frame.bytes() >= FULL_FRAME || frame.messages() >= frame::MOST_MESSAGES || !passage.has_room() {
                break;
            }
            next = match queued.try_recv() {
                Ok(Queued { message, budget }) => passage.admit(message).map(|message| Queued { message, budget }),
                // Others who are about to say something share the frame.
                Err(_) if !yielded && self.calls.under_way() > frame.messages() => {
                    yielded = true;
                    tokio::task::yield_now().await;
                    None
                }
                Err(_) => break,
            };
        }
        self.write_frame(writer, &mut frame).await
    }

    async fn write_frame<S: AsyncWrite>(&self, writer: &mut WriteHalf<S>, frame: &mut Frame) -> std::io::Result<()> {
        if frame.messages() == 0 {
            return Ok(());
        }
        let traffic = self.counters();
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
        let traffic = self.counters();
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
                        self.counters().frames_received.fetch_add(1, Ordering::Relaxed);
                        frame::decode(content)
                    }
                    Ok(None) => break,
                    Err(malformed) => Err(malformed),
                };
                let messages = match messages {
                    Ok(messages) => messages,
                    Err(malformed) => return End::Offence(malformed.to_string()),
                };
                self.counters().messages_received.fetch_add(messages.len() as u64, Ordering::Relaxed);
                for message in messages {
                    if let Some(message) = passage.admit(message)
                        && let Err(end) = self.receive(message).await
                    {
                        return end;
                    }
                }
            }
            // A buffer whose messages are still in use is not moved, but left to them.
            if buffer.capacity() - buffer.len() < LEAST_ROOM {
                buffer.reserve(FULL_FRAME);
            }
            tokio::select! {
                read = reader.read_buf(&mut buffer), if passage.has_room() => match read {
                    Ok(0) => return End::Closed("by the peer".to_owned()),
                    Ok(bytes) => {
                        self.counters().bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
                        // Under a cut nothing is heard, whatever the network brings.
                        if !passage.is_cut() {
                            self.heard.store(self.epoch.elapsed().as_micros() as u64, Ordering::Relaxed);
                        }
                    }
                    // Nobody cuts short what is encrypted without being noticed; what was cut
                    // short, no caller takes for whole.
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                        return End::Closed("by the peer".to_owned());
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
                self.calls.answered(id, Ok(message.body));
                Ok(())
            }
            Kind::Refused { id, refusal } if self.dialled => {
                self.counters().refused.fetch_add(1, Ordering::Relaxed);
                self.calls.answered(id, Err(refusal));
                Ok(())
            }
            Kind::Ping { stamp } if !self.dialled => {
                let pong = Message::bare(Kind::Pong { stamp });
                let _ = self.queue.try_send(Queued::small(pong));
                Ok(())
            }
            Kind::Pong { stamp } if self.dialled => {
                let now = self.epoch.elapsed().as_micros() as u64;
                self.peer.measured(now.saturating_sub(stamp));
                Ok(())
            }
            Kind::Retire if self.dialled => {
                self.renew();
                Ok(())
            }
            Kind::Rejected(why) => Err(End::Dismissed(why)),
            other => Err(End::Offence(format!("a message out of place ({})", other.word()))),
        }
    }
}
