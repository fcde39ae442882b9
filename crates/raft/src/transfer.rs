//! Sending rows to a member that the log cannot bring up to date any more.
//!
//! ```text
//! sender                          receiver
//! export of the rows of now
//!   chunk 0, 1, 2, …  ─ Stage ──▶  puts each aside, durably
//!   after the last    ─ Install ▶  takes over all of them, or none
//! ```
//! One chunk is on its way at a time, over the bulk connection: a slow receiver slows
//! nobody but itself. A chunk whose answer is lost is sent again. The position of
//! the rows is later than that of the checkpoint openraft asked to be sent, which
//! is what it believes the receiver has afterwards; the receiver skips the entries
//! in between. Until then the log keeps them ([`Shared::sending`]).

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use openraft::AnyError;
use openraft::errors::{NetworkError, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use polity_base::{Guarantee, NodeId};
use polity_store::state::transfer::Export;
use tokio::time::{Instant, sleep};

use crate::machine::{GroupSnapshot, Shared, SnapshotRows, on_worker};
use crate::network::{CallError, Links, Request, Response};
use crate::types::{SnapshotMeta, Types, Vote};

/// How long one chunk may take to be put aside.
const CHUNK_PATIENCE: Duration = Duration::from_secs(20);
/// How long the receiver may take to take over all rows.
const INSTALL_PATIENCE: Duration = Duration::from_secs(600);
/// How long the receiver may be out of reach before the transfer is given up,
const SILENCE: Duration = Duration::from_secs(30);
/// and how often it is tried meanwhile.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// Chunks are about this large.
const CHUNK_BYTES: usize = 1 << 20;

/// Notes for as long as it lives that rows are being sent.
struct Sending(Shared);

impl Sending {
    fn new(shared: &Shared) -> Sending {
        shared.sending.fetch_add(1, Ordering::AcqRel);
        Sending(shared.clone())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Links {
    /// Sends the rows of now to the member on node `to`.
    pub async fn send_rows(&self, to: NodeId, vote: Vote) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let failed = |why: String| StreamingError::Network(NetworkError::new(&AnyError::error(why)));
        let shared = &self.shared;
        let _sending = Sending::new(shared);
        let export = shared.state.export(shared.group, vec![Guarantee::Strong.span()]);
        let mut export = export.map_err(|e| failed(e.to_string()))?;
        let meta = shared.meta_at(export.mark());
        // No other transfer to anyone has this number: this node gives no time twice.
        let transfer = u128::from(shared.clock.now().0) << 64 | u128::from(to.0);
        let (begun, mut number, mut bytes) = (Instant::now(), 0, 0);
        while let Some(chunk) = next(&mut export).map_err(|e| failed(e.to_string()))? {
            bytes += chunk.len();
            let request = Request::Stage { transfer, number, chunk };
            match self.insist(to, request, CHUNK_PATIENCE).await? {
                Response::Staged => number += 1,
                other => return Err(failed(format!("{to} answered a chunk with {other:?}"))),
            }
        }
        drop(export);
        // Taking rows over is quick beside putting them aside, and if its answer is lost
        // nothing is sent to that member until it is given up.
        let patience = SILENCE.max(begun.elapsed() * 4).min(INSTALL_PATIENCE);
        let request = Request::Install { vote, meta, transfer };
        match self.ask(to, request, patience).await {
            Ok(Response::Installed(response)) => {
                tracing::info!(%to, bytes, "sent rows in {:.1?}", begun.elapsed());
                Ok(response)
            }
            Ok(other) => Err(failed(format!("{to} answered a snapshot with {other:?}"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Asks until there is an answer, or there was none for too long.
    async fn insist(
        &self,
        to: NodeId,
        request: Request,
        patience: Duration,
    ) -> Result<Response, StreamingError<Types>> {
        let begun = Instant::now();
        loop {
            match self.ask(to, request.clone(), patience).await {
                Ok(response) => return Ok(response),
                Err(error) if begun.elapsed() < SILENCE => {
                    tracing::debug!(%error, "a chunk is sent again");
                    sleep(RETRY_EVERY).await;
                }
                Err(error @ CallError::Unreachable(..)) => {
                    return Err(StreamingError::Unreachable(Unreachable::new(&error)));
                }
                Err(error) => return Err(StreamingError::Network(NetworkError::new(&error))),
            }
        }
    }
}

fn next(export: &mut Export) -> Result<Option<Bytes>, polity_store::Error> {
    on_worker(CHUNK_BYTES, || export.next_chunk())
}

impl crate::Group {
    /// Puts a chunk aside.
    pub(crate) async fn stage(&self, transfer: u128, number: u64, chunk: Bytes) -> Result<Response, crate::Error> {
        let state = self.inner.shared.state.clone();
        let staged = polity_store::blocking(move || {
            if number > state.staged(transfer)? {
                return Ok(false);
            }
            state.stage(transfer, number, &chunk)?;
            Ok::<_, polity_store::Error>(true)
        });
        let refused = |reason: String| crate::Error::Transfer { range: self.inner.id, reason };
        match staged.await {
            Ok(Ok(true)) => Ok(Response::Staged),
            Ok(Ok(false)) => Err(refused(format!("chunk {number} came before the one before it"))),
            Ok(Err(error)) => Err(refused(error.to_string())),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Takes over rows that are put aside.
    pub(crate) async fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        transfer: u128,
    ) -> Result<Response, crate::Error> {
        let snapshot = GroupSnapshot { meta, snapshot: SnapshotRows::Staged(transfer) };
        let installed = self.inner.raft.install_full_snapshot(vote, snapshot).await;
        installed.map(Response::Installed).map_err(|e| self.stopped_by(e.to_string()))
    }
}
