//! A ledger's state on its way to a node that is too far behind for blocks.
//!
//! ```text
//! snapshot = "polity/bft/snapshot/1" step* journal* (key value)*      cut into parts
//! ```
//! `step*` leads from genesis to those who decided about the newest journal, as in a
//! proof. The journals are of the recent past, which decides about replays and conflicts;
//! each is the parent of the next. Then all that is in the tree, in key order.
//!
//! Nothing of it is believed: headers are certified by those whom the steps lead to from
//! genesis, and each is the parent of the next; what happened is what they say; keys and
//! values give the state root of the newest. What is not in the tree follows from what is, and is made anew:
//! entries of indexes from rows, and the tree itself.

use std::ops::ControlFlow;

use bytes::Bytes;
use polity_base::{Key, Span};

use super::error::Error;
use super::journal::Journal;
use super::reader::{self, LedgerReader, Place};
use super::recent::Recent;
use super::records::{self, Kind, Table, storage_of};
use super::rules::RowRules;
use super::storage::memory::MemoryStorage;
use super::storage::{Storage, View, Views, Writes};
use super::tree::{Authenticated, Changes, Jellyfish};
use crate::codec::{DecodeError, Reader, Write};
use crate::genesis::Genesis;
use crate::proof::{Step, verify};
use crate::types::Height;

const NAME: &str = "polity/bft/snapshot/1";
/// A part is so large, in bytes.
pub const PART: usize = 1 << 20;
/// What is larger than that is not taken, in bytes.
const MOST: usize = 1 << 30;

/// A snapshot that can be sent.
pub(super) struct Prepared {
    pub height: Height,
    bytes: Bytes,
}

impl Prepared {
    /// The state after a height, as parts.
    pub fn new<V: Views>(reader: &LedgerReader<V>, view: &V::View, height: Height) -> Result<Prepared, Error> {
        let mut out = Vec::with_capacity(PART);
        out.raw(NAME.as_bytes());
        let chain = reader.chain(height)?;
        out.count(chain.len());
        chain.iter().for_each(|step| step.write(&mut out));
        let oldest = Recent::new(reader.genesis().parameters.lifetime).oldest(height.next());
        out.count((height.0 + 1 - oldest.0) as usize);
        for height in (oldest.0..=height.0).map(Height) {
            let journal = reader::journal(view, height)?;
            journal.ok_or_else(|| Error::Damaged(format!("nothing is known of height {height}")))?.write(&mut out);
        }
        let count_at = out.len();
        out.u32(0);
        let mut count = 0u32;
        for span in in_tree(view)? {
            view.scan(&span, &mut |key, value| {
                out.bytes(key);
                out.bytes(value);
                count += 1;
                ControlFlow::Continue(())
            })?;
        }
        out[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
        Ok(Prepared { height, bytes: out.into() })
    }

    /// A part, and how many there are.
    pub fn part(&self, number: u32) -> Option<(Bytes, u32)> {
        let count = self.bytes.len().div_ceil(PART) as u32;
        let start = (number as usize).checked_mul(PART).filter(|start| *start < self.bytes.len())?;
        Some((self.bytes.slice(start..(start + PART).min(self.bytes.len())), count))
    }
}

/// The spans of what is in the tree.
fn in_tree<V: View>(view: &V) -> Result<Vec<Span>, Error> {
    let mut spans = vec![Span::of_index(records::records())];
    for kind in [Kind::Table, Kind::Dropped] {
        view.scan(&records::all(kind), &mut |key, _| {
            spans.extend(records::storage_named(key).map(Span::of_index));
            ControlFlow::Continue(())
        })?;
    }
    Ok(spans)
}

/// A snapshot that came.
pub(super) struct Taken {
    chain: Vec<Step>,
    journals: Vec<Journal>,
    newest: Journal,
    rows: Changes,
}

impl Taken {
    /// Reads the parts of a snapshot, right or not.
    pub fn read(parts: &[Bytes]) -> Result<Taken, Error> {
        let size: usize = parts.iter().map(Bytes::len).sum();
        if size > MOST {
            return Err(Error::Invalid(format!("a snapshot of {size} bytes is larger than the {MOST} that are taken")));
        }
        let bytes = parts.concat();
        let read = Reader::whole(&bytes, |reader| {
            reader.name(NAME)?;
            let chain = reader.list(400, Step::read)?;
            let journals = reader.list(300, Journal::read)?;
            let unordered = reader.error("rows that are not in order");
            let mut rows = Changes::new();
            for _ in 0..reader.count(8)? {
                let key = Key(Bytes::copy_from_slice(reader.bytes()?));
                if rows.last_key_value().is_some_and(|(last, _)| *last >= key) {
                    return Err(unordered);
                }
                rows.insert(key, Some(Bytes::copy_from_slice(reader.bytes()?)));
            }
            let none = reader.error("no journals");
            let newest = journals.last().cloned().ok_or(none)?;
            Ok(Taken { chain, journals, newest, rows })
        });
        read.map_err(|e: DecodeError| Error::Invalid(format!("a snapshot that cannot be read: {e}")))
    }

    /// Its height.
    pub fn height(&self) -> Height {
        self.newest.header.height
    }

    /// Whether it is a state of the ledger that began so. All of it but what
    /// [`Taken::writes`] verifies: that rows give the state root.
    pub fn verify(&self, genesis: &Genesis) -> Result<(), Error> {
        let invalid = |why: String| Error::Invalid(format!("a snapshot that does not hold: {why}"));
        let (ledger, header) = (genesis.ledger(), &self.newest.header);
        verify::follow(genesis, &self.chain).map_err(|fault| invalid(fault.to_string()))?;
        for Journal { header, certificate, .. } in &self.journals {
            // Those whom the last step before names.
            let step = self.chain.iter().rfind(|step| step.header.height < header.height);
            let validators = step.map_or(&genesis.validators, |step| &step.validators);
            let certified = verify::certified(&ledger, header, certificate, validators);
            certified.map_err(|fault| invalid(format!("height {}: {fault}", header.height)))?;
        }
        let oldest = Recent::new(genesis.parameters.lifetime).oldest(header.height.next());
        if self.journals.first().map(|journal| journal.header.height) != Some(oldest) {
            return Err(invalid("the recent past is not all there".to_owned()));
        }
        for pair in self.journals.windows(2) {
            let (parent, child) = (&pair[0].header, &pair[1].header);
            if child.parent != parent.id() || child.height != parent.height.next() {
                return Err(invalid(format!("height {} does not follow", child.height)));
            }
        }
        let wrong = self.journals.iter().find(|journal| {
            let events = journal.events.as_ref();
            !events.is_some_and(|events| events.are_of(&journal.header))
        });
        match wrong {
            Some(journal) => Err(invalid(format!("what happened at height {} is another", journal.header.height))),
            None => Ok(()),
        }
    }

    /// All that is to be written to have this state, and the time of its block.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the rows do not give the state root.
    pub fn writes(&self, rules: &dyn RowRules) -> Result<(Writes, u64), Error> {
        let header = &self.newest.header;
        let empty = MemoryStorage::new();
        let (root, tree) = Jellyfish.update(&empty.views().now()?, &self.rows)?;
        if root != header.state_root {
            return Err(Error::Invalid("a snapshot whose rows are not those of its state root".to_owned()));
        }
        let mut writes: Writes = self.rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        writes.extend(tree);
        self.index(rules, &mut writes)?;
        for journal in &self.journals {
            writes.push((records::journal_at(journal.header.height), Some(journal.encode().into())));
        }
        for Step { header, certificate, .. } in &self.chain {
            let (header, certificate) = (header.clone(), certificate.clone());
            let height = header.height;
            if self.journals.iter().all(|journal| journal.header.height != height) {
                let journal = Journal { header, certificate, events: None };
                writes.push((records::journal_at(height), Some(journal.encode().into())));
            }
        }
        let place = Place { height: header.height, base: header.height };
        writes.push((records::place(), Some(place.encode())));
        Ok((writes, header.time_ms))
    }

    /// Makes the entries of indexes from rows.
    fn index(&self, rules: &dyn RowRules, writes: &mut Writes) -> Result<(), Error> {
        let span = records::all(Kind::Table);
        let tables = self.rows.range(span.start..span.end).filter_map(|(key, value)| Some((key, value.as_ref()?)));
        for (key, value) in tables {
            let table = Table::decode(value).map_err(|e| Error::damaged("a table", &e))?;
            let storage = records::storage_named(key).ok_or_else(|| Error::Damaged("the key of a table".to_owned()))?;
            if let Some(fault) = table.definition.fault(rules) {
                return Err(Error::Damaged(format!("\"{}\" cannot be kept here: {fault}", table.definition.name)));
            }
            let rows = Span::of_index(storage);
            for (key, row) in self.rows.range(rows.start..rows.end) {
                debug_assert_eq!(storage_of(key), storage);
                let Some(row) = row else { continue };
                let unusable = |refusal| Error::Damaged(format!("a row of \"{}\": {refusal}", table.definition.name));
                let slots = table.definition.read_row(row).map_err(unusable)?;
                for (entry, value, _) in table.definition.entries(key, &slots).map_err(unusable)? {
                    writes.push((entry, Some(value)));
                }
            }
        }
        Ok(())
    }
}
