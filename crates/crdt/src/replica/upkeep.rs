//! What is done now and then: forgetting what all have seen, building indexes, letting
//! old conflicts go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use polity_base::planted::{Bug, planted};
use polity_base::{Key, NodeId, Timestamp};
use tokio::sync::watch;

use super::Shared;
use super::book::{self, Book};
use super::draft::Draft;
use crate::error::Error;
use crate::stamp::VersionVector;

/// Notes that are looked at in one piece of work.
const AT_ONCE: usize = 512;

/// Takes care of the replica until `stop` turns true.
pub(super) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut trimmed = shared.floor.read().clone();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(shared.limits.upkeep_every) => {}
        }
        if let Err(error) = shared.take_care(&mut trimmed).await {
            // Nothing is lost by it; the next turn tries again.
            tracing::warn!(%error, "what can be forgotten was not");
        }
    }
}

impl Shared {
    async fn take_care(self: &Arc<Shared>, trimmed: &mut VersionVector) -> Result<(), Error> {
        let (everywhere, stable) = {
            let machine = self.machine.lock();
            (machine.known_everywhere(), machine.stable())
        };
        for (origin, after, up_to) in everywhere.beyond(trimmed) {
            self.trim(origin, after, up_to).await?;
            trimmed.advance(origin, up_to);
        }
        let stable = if planted(Bug::CollectEarly) { self.applied.borrow().clone() } else { stable };
        self.collect(stable).await
    }

    /// Forgets the deltas of `origin` after `after`, up to `up_to`: all have them.
    async fn trim(self: &Arc<Shared>, origin: NodeId, after: Timestamp, up_to: Timestamp) -> Result<(), Error> {
        self.floor.write().advance(origin, up_to);
        let span = book::deltas(origin, after, up_to);
        loop {
            let span = span.clone();
            let forget = move |draft: &mut Draft<'_>| {
                let (keys, more) = draft.keys(&span, AT_ONCE)?;
                for key in keys {
                    if draft.get(&key)?.is_some() {
                        draft.delete(key);
                    }
                }
                Ok(more)
            };
            if !self.run(forget).await?.0 {
                return Ok(());
            }
        }
    }

    /// Forgets deleted rows and elements that every replica has seen go.
    async fn collect(self: &Arc<Shared>, stable: VersionVector) -> Result<(), Error> {
        // By the time it went, so that what cannot be forgotten yet is not looked at.
        let Some(oldest) = stable.iter().map(|(_, at)| at).max() else { return Ok(()) };
        let mut from = Book::ToCollect.span().start;
        loop {
            let (shared, stable, start) = (self.clone(), stable.clone(), from.clone());
            let forget = move |draft: &mut Draft<'_>| shared.collect_some(draft, &stable, start, oldest);
            match self.run(forget).await?.0 {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    fn collect_some(
        &self,
        draft: &mut Draft<'_>,
        stable: &VersionVector,
        start: Key,
        newest: Timestamp,
    ) -> Result<Option<Key>, Error> {
        let mut span = Book::ToCollect.span();
        span.start = start;
        let (notes, more) = draft.keys(&span, AT_ONCE)?;
        let mut last = None;
        for note in notes {
            last = Some(note.successor());
            let Some((stamp, row)) = book::parse_to_collect(&note) else { continue };
            if stamp.at > newest {
                return Ok(None);
            }
            if draft.get(&note)?.is_none() || !stable.covers(stamp) {
                continue;
            }
            let before = draft.row(&row)?;
            let mut after = before.clone();
            if after.collect(stable) {
                draft.store(&row, &before, &after);
                self.counts.collected.fetch_add(1, Ordering::Relaxed);
            }
            draft.delete(note);
        }
        Ok(last.filter(|_| more))
    }
}
