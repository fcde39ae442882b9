//! The task that reads deltas, sends them, and tells the machine what became of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use polity_base::{Guarantee, NodeId, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::machine::{Input, Output};
use super::message::{Request, Response, decode, encode};
use crate::error::Error;
use crate::replica::peers::Traffic;
use crate::replica::{Shared, book};
use crate::stamp::VersionVector;

/// Deltas of one message at most, whatever their size.
const DELTAS: usize = 4096;
/// A message of more bytes is bulk.
const CONTROL_BYTES: usize = 64 << 10;

/// Tells the machine what happens, and does what it says, until `stop` turns true.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut inputs: mpsc::UnboundedReceiver<Input>,
    mut stop: watch::Receiver<bool>,
) {
    let begun = Instant::now();
    let mut applied = shared.applied.subscribe();
    let mut ticks = interval((shared.limits.status_every / 5).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let input = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            Some(input) = inputs.recv() => input,
            changed = applied.changed() => match changed {
                Ok(()) => Input::Here(shared.about()),
                Err(_) => return,
            },
            _ = ticks.tick() => {
                shared.tell(Input::Peers(shared.peers.members().nodes));
                shared.tell(Input::Here(shared.about()));
                Input::Tick
            }
        };
        let outputs = shared.machine.lock().step(begun.elapsed(), input);
        for output in outputs {
            shared.act(output);
        }
    }
}

impl Shared {
    /// Tells the machine something, soon.
    pub(crate) fn tell(&self, input: Input) {
        // Without a driver nothing is sent any more.
        let _ = self.inputs.send(input);
    }

    fn act(self: &Arc<Shared>, output: Output) {
        match output {
            Output::Push { to, after, up_to } => {
                tokio::spawn(self.clone().push(to, after, up_to));
            }
            Output::Kept { ticket } => {
                if let Some(waiter) = self.waiters.lock().remove(&ticket) {
                    let _ = waiter.send(());
                }
            }
            Output::Fill(from) => self.want_fill(from),
        }
    }

    async fn push(self: Arc<Shared>, to: NodeId, after: VersionVector, up_to: VersionVector) {
        let input = match self.push_now(to, &after, &up_to).await {
            Ok((about, wants)) => Input::Answered { peer: to, about, wants },
            Err(error) => {
                tracing::debug!(%to, %error, "deltas were not taken");
                Input::Failed(to)
            }
        };
        self.tell(input);
    }

    async fn push_now(
        &self,
        to: NodeId,
        after: &VersionVector,
        up_to: &VersionVector,
    ) -> Result<(super::message::About, VersionVector), Error> {
        let deltas = self.deltas(after, up_to)?;
        let (count, bytes) = (deltas.len() as u64, deltas.iter().map(Bytes::len).sum::<usize>());
        let request = encode(&Request::Push { about: self.about(), deltas })?;
        let traffic = if bytes > CONTROL_BYTES { Traffic::Bulk } else { Traffic::Control };
        let response = self.call(to, traffic, request).await?;
        self.counts.sent_deltas.fetch_add(count, Ordering::Relaxed);
        self.counts.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        match response {
            Response::Pushed { about, wants } => Ok((about, wants)),
            _ => Err(Error::Nonsense { from: to, reason: "another answer than to deltas".to_owned() }),
        }
    }

    /// Asks another replica, and waits for its answer for so long.
    pub(crate) async fn call(&self, to: NodeId, traffic: Traffic, request: Bytes) -> Result<Response, Error> {
        self.call_counted(to, traffic, request).await.map(|(response, _)| response)
    }

    /// The same, and the size of the answer.
    pub(crate) async fn call_counted(
        &self,
        to: NodeId,
        traffic: Traffic,
        request: Bytes,
    ) -> Result<(Response, u64), Error> {
        let unreachable = |reason: String| Error::Unreachable { node: to, reason };
        match timeout(self.limits.call_within, self.peers.call(to, traffic, request)).await {
            Ok(Ok(bytes)) => Ok((decode(to, &bytes)?, bytes.len() as u64)),
            Ok(Err(error)) => Err(unreachable(error.0)),
            Err(_) => Err(unreachable("no answer in time".to_owned())),
        }
    }

    /// The deltas beyond `after` up to `up_to` that are kept, as many as a message
    /// takes, by time: so none comes before one it depends on.
    pub(crate) fn deltas(&self, after: &VersionVector, up_to: &VersionVector) -> Result<Vec<Bytes>, Error> {
        let wanted = up_to.beyond(after);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let reader = self.state.snapshot()?;
        let (now, limit) = (reader.applied(Guarantee::Eventual), self.limits.message_bytes);
        let mut found: Vec<(Timestamp, NodeId, Bytes)> = Vec::new();
        // Of an origin that has more than fits, nothing after this is complete.
        let mut complete = Timestamp::MAX;
        for (origin, after, up_to) in wanted {
            if self.floor.read().of(origin) > after {
                continue;
            }
            let mut scan = reader.scan(&book::deltas(origin, after, up_to), now)?;
            let chunk = scan.next_chunk(DELTAS, limit)?;
            let full = chunk.len() >= DELTAS || chunk.iter().map(|(_, delta)| delta.len()).sum::<usize>() >= limit;
            let stamped = chunk.into_iter().filter_map(|(key, delta)| Some((book::delta_stamp(&key)?, delta)));
            found.extend(stamped.map(|(stamp, delta)| (stamp.at, origin, delta)));
            if full && let Some((last, _, _)) = found.last() {
                complete = complete.min(*last);
            }
        }
        found.retain(|(at, _, _)| *at <= complete);
        found.sort_unstable_by_key(|(at, origin, _)| (*at, *origin));
        let mut bytes = 0;
        let fits = |delta: &(Timestamp, NodeId, Bytes)| {
            let first = bytes == 0;
            bytes += delta.2.len();
            first || bytes <= limit
        };
        Ok(found.into_iter().take_while(fits).take(DELTAS).map(|(_, _, delta)| delta).collect())
    }
}
