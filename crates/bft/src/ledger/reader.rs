//! What can be asked of a ledger while blocks are being applied: rows as of any height
//! that is kept, their history, headers and certificates, validators, accusations, and
//! proofs of all of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use polity_base::{IndexId, Key, Span};

use super::error::Error;
use super::journal::Journal;
use super::records::{self, Kind, Table, storage_of};
use super::storage::{View, Views};
use super::tree::{Authenticated, Jellyfish};
use crate::codec::{Decoded, Reader, Write};
use crate::evidence::Evidence;
use crate::genesis::Genesis;
use crate::proof::{Item, Proof, Step};
use crate::transaction::Privileges;
use crate::types::{BlockId, Height, LedgerId, Validators};

/// Where a ledger is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The newest committed height
    pub height: Height,
    /// The height at which this node's blocks begin: that of the snapshot it began with
    pub base: Height,
}

impl Place {
    /// Its record.
    pub fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        out.u64(self.height.0);
        out.u64(self.base.0);
        out.into()
    }

    fn decode(bytes: &[u8]) -> Decoded<Place> {
        Reader::whole(bytes, |reader| Ok(Place { height: reader.height()?, base: reader.height()? }))
    }

    /// Where a state is; none if it is empty.
    pub fn of<V: View>(view: &V) -> Result<Option<Place>, Error> {
        let record = view.get(&records::place())?;
        record.map(|bytes| Place::decode(&bytes).map_err(|e| Error::damaged("where the ledger is", &e))).transpose()
    }
}

/// What a state remembers of a height.
pub fn journal<V: View>(view: &V, height: Height) -> Result<Option<Journal>, Error> {
    let stored = view.get(&records::journal_at(height))?;
    stored.map(|bytes| Journal::decode(&bytes).map_err(|e| Error::damaged("a journal", &e))).transpose()
}

/// The validators of a state, by the height from which on they decide.
pub fn validators<V: View>(view: &V) -> Result<BTreeMap<Height, Validators>, Error> {
    let (mut sets, mut damage) = (BTreeMap::new(), None);
    view.scan(&records::all(Kind::Validators), &mut |key, value| {
        let read = Reader::whole(value, Validators::read);
        match (records::validators_from(key), read) {
            (Some(from), Ok(validators)) => drop(sets.insert(from, validators)),
            (_, Err(e)) => damage = Some(Error::damaged("validators", &e)),
            (None, _) => damage = Some(Error::Damaged("the height of validators".to_owned())),
        }
        if damage.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    damage.map_or(Ok(sets), Err)
}

/// Who decides about a height.
pub fn validators_at(sets: &BTreeMap<Height, Validators>, height: Height) -> Result<&Validators, Error> {
    let found = sets.range(..=height).next_back();
    found.map(|(_, set)| set).ok_or_else(|| Error::Damaged(format!("nobody decides about height {height}")))
}

/// A value that a key had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revision {
    /// The height that gave it
    pub height: Height,
    /// The block's time, in milliseconds since 1970
    pub time_ms: u64,
    /// The value; none if it was taken away
    pub value: Option<Bytes>,
}

/// A ledger to ask. Clones are cheap.
#[derive(Clone)]
pub struct LedgerReader<V> {
    genesis: Arc<Genesis>,
    id: LedgerId,
    views: V,
}

impl<V: Views> LedgerReader<V> {
    /// The ledger that began so, as it is seen in `views`.
    pub fn new(genesis: Arc<Genesis>, views: V) -> LedgerReader<V> {
        let id = genesis.ledger();
        LedgerReader { genesis, id, views }
    }

    /// What the ledger began with.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The ledger's name.
    pub fn id(&self) -> LedgerId {
        self.id
    }

    /// The newest committed height.
    pub fn height(&self) -> Result<Height, Error> {
        Ok(Place::of(&self.views.now()?)?.unwrap_or_default().height)
    }

    /// What is remembered of a height.
    ///
    /// # Errors
    /// [`Error::Gone`] if that was too long ago, [`Error::Ahead`] if it is yet to come.
    pub fn journal(&self, height: Height) -> Result<Journal, Error> {
        self.journal_in(&self.views.now()?, height)
    }

    fn journal_in(&self, view: &V::View, height: Height) -> Result<Journal, Error> {
        if let Some(journal) = journal(view, height)? {
            return Ok(journal);
        }
        let place = Place::of(view)?.unwrap_or_default();
        if height > place.height {
            return Err(Error::Ahead(height));
        }
        Err(Error::Gone { height, oldest: oldest_journal(view, place)? })
    }

    /// The state after a height, and what is remembered of that. The newest one, if none
    /// is given.
    fn state(&self, height: Option<Height>) -> Result<(V::View, Journal), Error> {
        let now = self.views.now()?;
        let newest = Place::of(&now)?.unwrap_or_default().height;
        let height = height.unwrap_or(newest);
        let journal = self.journal_in(&now, height)?;
        if height == newest {
            return Ok((now, journal));
        }
        let view = self.views.at(journal.header.time_ms)?;
        let view = view.ok_or(Error::Gone { height, oldest: height.next() })?;
        Ok((view, journal))
    }

    /// The value of a key, as of a height or now.
    pub fn get(&self, key: &[u8], height: Option<Height>) -> Result<Option<Bytes>, Error> {
        match height {
            None => self.views.now()?.get(key),
            Some(height) => self.state(Some(height))?.0.get(key),
        }
    }

    /// A table, by the storage of its rows.
    pub fn table(&self, storage: IndexId) -> Result<Option<Table>, Error> {
        let record = self.views.now()?.get(&records::table(storage))?;
        record.map(|bytes| Table::decode(&bytes).map_err(|e| Error::damaged("a table", &e))).transpose()
    }

    /// All tables, by the storages of their rows.
    pub fn tables(&self) -> Result<Vec<(IndexId, Table)>, Error> {
        let records = self.records(Kind::Table)?;
        let read = |(key, value): (Key, Bytes)| {
            let table = Table::decode(&value).map_err(|e| Error::damaged("a table", &e))?;
            let storage = records::storage_named(&key);
            Ok((storage.ok_or_else(|| Error::Damaged("the key of a table".to_owned()))?, table))
        };
        records.into_iter().map(read).collect()
    }

    /// What users may do with a table besides its owner; everybody is the empty name.
    pub fn grants(&self, storage: IndexId) -> Result<BTreeMap<String, Privileges>, Error> {
        let read = |(_, value): (Key, Bytes)| {
            let (privileges, user) = records::decode_grant(&value);
            (user, privileges)
        };
        Ok(self.records_in(&records::grants(storage))?.into_iter().map(read).collect())
    }

    /// Validators, by the height from which on they decide.
    pub fn validators(&self) -> Result<BTreeMap<Height, Validators>, Error> {
        validators(&self.views.now()?)
    }

    /// Evidence that blocks hold, in the order of what it is about.
    pub fn evidence(&self) -> Result<Vec<Evidence>, Error> {
        let read = |(_, value): (Key, Bytes)| Evidence::decode(&value).map_err(|e| Error::damaged("evidence", &e));
        self.records(Kind::Accusation)?.into_iter().map(read).collect()
    }

    fn records(&self, kind: Kind) -> Result<Vec<(Key, Bytes)>, Error> {
        self.records_in(&records::all(kind))
    }

    fn records_in(&self, span: &Span) -> Result<Vec<(Key, Bytes)>, Error> {
        let mut found = Vec::new();
        self.views.now()?.scan(span, &mut |key, value| {
            found.push((Key(Bytes::copy_from_slice(key)), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The first keys of a span that have a value, or had one as far back as is kept.
    pub fn keys(&self, span: &Span, most: usize) -> Result<Vec<Key>, Error> {
        self.views.now()?.keys(span, most)
    }

    /// What a key had, newest first, as far back as is kept.
    pub fn history(&self, key: &[u8]) -> Result<Vec<Revision>, Error> {
        let view = self.views.now()?;
        let place = Place::of(&view)?.unwrap_or_default();
        let mut revisions = Vec::new();
        for (time_ms, value) in view.versions(key)? {
            // Blocks of which nothing is kept cannot be named.
            let Some(height) = height_of(&view, place, time_ms)? else { break };
            revisions.push(Revision { height, time_ms, value });
        }
        Ok(revisions)
    }

    /// The height of the newest block whose time is not later than that; 0 if there is
    /// none of which anything is kept.
    pub fn height_at(&self, time_ms: u64) -> Result<Height, Error> {
        let view = self.views.now()?;
        let place = Place::of(&view)?.unwrap_or_default();
        Ok(newest_before(&view, place, time_ms)?.map(|journal| journal.header.height).unwrap_or_default())
    }

    /// A proof of what keys have, as of a height or now: that they have these values, or
    /// none. With a row comes the definition of its table, so that whoever reads the
    /// proof can tell its columns.
    pub fn prove(&self, keys: &[Key], height: Option<Height>) -> Result<Proof, Error> {
        let (view, journal) = self.state(height)?;
        let mut keys = keys.to_vec();
        for table in keys.clone().iter().map(|key| records::table(storage_of(key))) {
            if !keys.contains(&table) {
                keys.push(table);
            }
        }
        let item = |key: Key| {
            let (value, path) = (view.get(&key)?, Jellyfish.prove(&view, &key)?);
            Ok(Item { key, value, path })
        };
        let items = keys.into_iter().map(item).collect::<Result<_, Error>>()?;
        let chain = self.chain(journal.header.height)?;
        Ok(Proof { ledger: self.id, chain, header: journal.header, certificate: journal.certificate, items })
    }

    /// The steps from genesis to those who decide about a height: one for each time that
    /// the validators changed.
    pub fn chain(&self, height: Height) -> Result<Vec<Step>, Error> {
        let view = self.views.now()?;
        let mut chain = Vec::new();
        for (from, validators) in validators(&view)? {
            if from <= Height(1) || from > height {
                continue;
            }
            let Journal { header, certificate, .. } = self.journal_in(&view, Height(from.0 - 1))?;
            chain.push(Step { header, certificate, validators });
        }
        Ok(chain)
    }
}

/// The oldest height of which something is kept, but for those where validators changed.
fn oldest_journal<V: View>(view: &V, place: Place) -> Result<Height, Error> {
    let (mut gone, mut kept) = (0, place.height.0);
    while kept - gone > 1 {
        let middle = gone + (kept - gone) / 2;
        match has_journal(view, Height(middle))? {
            true => kept = middle,
            false => gone = middle,
        }
    }
    Ok(Height(kept))
}

fn has_journal<V: View>(view: &V, height: Height) -> Result<bool, Error> {
    Ok(view.get(&records::journal_at(height))?.is_some())
}

/// The newest height that is kept and whose block is not later than a time.
fn newest_before<V: View>(view: &V, place: Place, time_ms: u64) -> Result<Option<Journal>, Error> {
    let (mut low, mut high) = (oldest_journal(view, place)?.0, place.height.0.saturating_add(1));
    let mut found = None;
    // Times grow with heights.
    while low < high {
        let middle = low + (high - low) / 2;
        match journal(view, Height(middle))? {
            Some(journal) if journal.header.time_ms <= time_ms => {
                low = middle + 1;
                found = Some(journal);
            }
            Some(_) => high = middle,
            None => low = middle + 1,
        }
    }
    Ok(found)
}

fn height_of<V: View>(view: &V, place: Place, time_ms: u64) -> Result<Option<Height>, Error> {
    let found = newest_before(view, place, time_ms)?;
    Ok(found.filter(|journal| journal.header.time_ms == time_ms).map(|journal| journal.header.height))
}

/// All keys of byzantine tables.
pub fn everything() -> Span {
    polity_base::Guarantee::Byzantine.span()
}

/// What a block is called, and when it was.
pub fn name(journal: &Journal) -> (BlockId, u64) {
    (journal.header.id(), journal.header.time_ms)
}
