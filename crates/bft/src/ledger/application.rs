//! The ledger as consensus asks for it.

use std::sync::Arc;

use bytes::Bytes;

use super::entry::Entry;
use super::error::Error;
use super::machine::Ledger;
use super::outcome::Outcome;
use super::records;
use super::snapshot::{Prepared, Taken};
use super::storage::{Storage, Views};
use crate::block::{Block, Certificate};
use crate::consensus::application::{Application, CertifiedBlock, CommitError, Committed, Gate, Ingredients, Verified};
use crate::consensus::validator::Tip;
use crate::evidence::Evidence;
use crate::transaction::SignedTransaction;
use crate::types::Height;

/// A block's transactions take at most so many bytes.
const BLOCK_BYTES: usize = 16 << 20;

impl<S: Storage> Application for Ledger<S> {
    type Outcome = Outcome;

    fn tip(&self) -> Tip {
        let place = self.now.place;
        // A ledger has validators at every height: it was opened with them.
        let validators = self.validators_at(place.height.next()).unwrap_or(&self.genesis.validators).clone();
        Tip { height: place.height, block: self.now.block, validators }
    }

    fn admits(&self, transaction: &SignedTransaction) -> bool {
        self.may_order(transaction)
    }

    fn gate(&self) -> Gate {
        let (door, reader) = (self.door.clone(), self.reader());
        Arc::new(move |transaction| {
            let (author, expires) = (transaction.author(), transaction.expires());
            let is_validator = {
                let door = door.read();
                let in_time = expires >= door.next && expires <= door.last_expiry;
                if !in_time || transaction.body().ledger != reader.id() {
                    return false;
                }
                door.validators.contains(author)
            };
            // Whoever cannot be looked up may be known: it will be seen.
            is_validator || reader.get(&records::key(author), None).map_or(true, |user| user.is_some())
        })
    }

    fn admits_evidence(&self, evidence: &Evidence) -> bool {
        self.may_accuse(evidence).unwrap_or(false)
    }

    fn build(&mut self, ingredients: Ingredients) -> Result<Option<Arc<Block>>, CommitError> {
        let Ingredients { proposer, unix_ms, mut transactions, mut evidence } = ingredients;
        let (mut ids, mut bytes) = (std::collections::HashSet::new(), 0);
        transactions.retain(|transaction| {
            bytes += transaction.size();
            bytes <= BLOCK_BYTES && self.may_order(transaction) && ids.insert(transaction.id())
        });
        let mut about = std::collections::HashSet::new();
        evidence.retain(|evidence| self.admits_evidence(evidence) && about.insert(evidence.key()));
        let mut header = self.next_header()?;
        header.time_ms = unix_ms.max(self.now.time_ms + 1);
        header.proposer = proposer;
        Ok(self.make(header, transactions, evidence)?)
    }

    fn check(&mut self, block: &Arc<Block>, verified: Verified) -> Result<(), String> {
        let known = |transaction: &SignedTransaction| verified(&transaction.id());
        self.examine(block, &known).map_err(|e| e.to_string())
    }

    fn commit(
        &mut self,
        block: &Arc<Block>,
        certificate: &Arc<Certificate>,
    ) -> Result<Committed<Outcome>, CommitError> {
        if certificate.block != block.id() || certificate.height != block.header.height {
            return Err(CommitError::Invalid("its certificate is for another block".to_owned()));
        }
        self.examine(block, &|_| false)?;
        let outcomes = self.settle(block, certificate)?;
        let outcomes = block.transaction_ids().into_iter().zip(outcomes).collect();
        Ok(Committed { tip: self.tip(), outcomes })
    }

    fn block(&self, height: Height) -> Result<Option<CertifiedBlock>, CommitError> {
        let place = self.now.place;
        if height <= place.base || height > place.height {
            return Ok(None);
        }
        let Some(entry) = self.storage.entry(place.height.0 - height.0).map_err(CommitError::from)? else {
            return Ok(None);
        };
        match Entry::decode(&entry)? {
            Entry::Block(block, certificate) if block.header.height == height => Ok(Some((block, certificate))),
            _ => Ok(None),
        }
    }

    fn oldest_block(&self) -> Height {
        let place = self.now.place;
        let kept = Height((place.height.0 + 1).saturating_sub(self.storage.entries()));
        kept.max(place.base.next())
    }

    fn snapshot(&self) -> Option<Height> {
        let place = self.now.place;
        let ready = self.prepared.as_ref().map(|prepared| prepared.height);
        let fresh = ready.filter(|height| place.height.0 - height.0 < self.options.keep_snapshot);
        fresh.or((place.height > Height(0)).then_some(place.height))
    }

    fn snapshot_part(&mut self, height: Height, part: u32) -> Result<Option<(Bytes, u32)>, CommitError> {
        if self.prepared.as_ref().is_none_or(|prepared| prepared.height != height) {
            if self.snapshot().is_none_or(|newest| height > newest.max(self.now.place.height) || part > 0) {
                return Ok(None);
            }
            self.prepared = self.prepare(height)?;
        }
        Ok(self.prepared.as_ref().and_then(|prepared| prepared.part(part)))
    }

    fn install(&mut self, height: Height, parts: Vec<Bytes>) -> Result<Tip, CommitError> {
        let taken = Taken::read(&parts)?;
        if taken.height() != height || height <= self.now.place.height {
            return Err(CommitError::Invalid("it is of another height".to_owned()));
        }
        taken.verify(&self.genesis)?;
        // Before anything is durable: this verifies the rows.
        taken.writes(self.rules.as_ref())?;
        self.storage.append(Entry::Snapshot(height, parts).encode()).map_err(CommitError::from)?;
        self.replace(&taken)?;
        Ok(self.tip())
    }
}

impl<S: Storage> Ledger<S> {
    /// A snapshot of a height, if that state is still kept.
    fn prepare(&self, height: Height) -> Result<Option<Prepared>, Error> {
        let reader = self.reader();
        let journal = match reader.journal(height) {
            Ok(journal) => journal,
            Err(Error::Gone { .. } | Error::Ahead(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(view) = self.storage.views().at(journal.header.time_ms)? else { return Ok(None) };
        Prepared::new(&reader, &view, height).map(Some)
    }
}
