//! What other replicas ask.

use std::sync::Arc;

use bytes::Bytes;
use polity_base::NodeId;

use super::Shared;
use super::compare::HASHES;
use crate::delta::Delta;
use crate::error::Error;
use crate::replication::machine::Input;
use crate::replication::message::{About, Request, Response, decode, encode};

impl Shared {
    /// Answers what `from` asks.
    pub(super) async fn serve(self: &Arc<Shared>, from: NodeId, request: &[u8]) -> Result<Bytes, Error> {
        let response = match decode(from, request)? {
            Request::Push { about, deltas } => self.pushed(from, about, deltas).await?,
            Request::Share { key, column, side, amount, urgent } => {
                let (given, at) = self.give(from, (key, column, side), amount, urgent).await?;
                Response::Shared { given, at }
            }
            Request::Page { from: place } => {
                self.was_complete()?;
                let shared = self.clone();
                let page = polity_store::blocking(move || shared.page(&place)).await;
                Response::Page(page.map_err(|e| Error::Stopped { reason: e.to_string() })??)
            }
            Request::Compare(compare) => {
                self.complete()?;
                let shared = self.clone();
                let differing = polity_store::blocking(move || shared.differing(&compare)).await;
                Response::Compared(differing.map_err(|e| Error::Stopped { reason: e.to_string() })??)
            }
            Request::Hashes(spans) => {
                self.complete()?;
                let mut hashes = Vec::new();
                for span in &spans {
                    hashes.extend(self.hashes(span, HASHES.saturating_sub(hashes.len()))?.0);
                }
                Response::Hashes(hashes)
            }
            Request::Exchange { places, page } => {
                self.complete()?;
                let ours = self.states(&places)?;
                self.mend(from, page).await?;
                Response::Page(ours)
            }
            Request::Depart(node) => Response::Departed(self.depart(node, None).await?),
        };
        encode(&response)
    }

    /// Whether rows can be had here: not from a replica that never had them all.
    fn was_complete(&self) -> Result<(), Error> {
        match &*self.filling.read() {
            Some(filling) if filling.frozen.is_none() => {
                Err(Error::NotReady { why: "it is being filled itself".to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Whether rows are what the vector says.
    fn complete(&self) -> Result<(), Error> {
        match &*self.filling.read() {
            Some(_) => Err(Error::NotReady { why: "it is being filled itself".to_owned() }),
            None => Ok(()),
        }
    }

    async fn pushed(self: &Arc<Shared>, from: NodeId, about: About, deltas: Vec<Bytes>) -> Result<Response, Error> {
        let decoded = deltas.iter().map(|bytes| Delta::decode(bytes));
        let decoded: Result<Vec<Delta>, _> = decoded.collect();
        let deltas = decoded.map_err(|e| Error::Nonsense { from, reason: e.to_string() })?;
        self.tell(Input::Told { peer: from, about });
        let can_use = !self.about().filling;
        if !deltas.is_empty() && can_use {
            self.take_in(deltas).await?;
        }
        let about = self.about();
        let wants = self.hold.lock().wants(&about.vector);
        Ok(Response::Pushed { about, wants })
    }
}
