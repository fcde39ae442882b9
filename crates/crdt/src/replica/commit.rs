//! Local transactions.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use polity_base::{Batch, ColumnId, Key, NodeId, Operation, RowChange, Timestamp};

use super::book;
use super::draft::Draft;
use crate::delta::Delta;
use crate::error::Error;
use crate::escrow::Shortage;
use crate::row::{Refused, RowState};
use crate::stamp::Stamp;

/// What became of a transaction.
pub(super) enum Tried {
    /// It is done. Its time, unless it changed nothing.
    Done(Option<Timestamp>),
    /// A counter may not go so far.
    Short { key: Key, column: ColumnId, shortage: Shortage },
}

/// The changes of a batch.
pub(super) fn changes(batch: Batch) -> Result<Vec<(Key, RowChange)>, Error> {
    if !batch.preconditions.is_empty() {
        return Err(Error::Misuse("it has preconditions"));
    }
    let change = |operation| match operation {
        Operation::Change { key, change } => Ok((key, change)),
        _ => Err(Error::Misuse("it does more than change rows")),
    };
    batch.operations.into_iter().map(change).collect()
}

impl Draft<'_> {
    /// Does a local transaction, and writes its delta.
    pub fn commit(&mut self, changes: &[(Key, RowChange)]) -> Result<Tried, Error> {
        let stamp = Stamp { at: self.now, origin: self.node };
        let members: Vec<NodeId> = self.members.nodes.iter().copied().collect();
        let mut parts: BTreeMap<Key, RowState> = BTreeMap::new();
        for (key, change) in changes {
            let before = self.row(key)?;
            let part = match before.change(change, stamp, &members) {
                Ok(part) => part,
                // A delete wins over what is done at the same time.
                Err(Refused::Missing) => continue,
                Err(Refused::Short(column, shortage)) => {
                    self.drop_layer();
                    return Ok(Tried::Short { key: key.clone(), column, shortage });
                }
                Err(refused) => return Err(refusal(key, change, refused)),
            };
            let mut after = before.clone();
            after.put_over(&part);
            self.store(key, &before, &after);
            self.note_collectable(key, &part, stamp);
            self.note_low(key, change, &after);
            match parts.entry(key.clone()) {
                Entry::Occupied(mut known) => known.get_mut().put_over(&part),
                Entry::Vacant(new) => {
                    new.insert(part);
                }
            }
        }
        if parts.is_empty() {
            return Ok(Tried::Done(None));
        }
        self.publish(parts.into_iter().collect())?;
        Ok(Tried::Done(Some(stamp.at)))
    }

    /// Writes a delta of this replica, as of now.
    pub fn publish(&mut self, rows: Vec<(Key, RowState)>) -> Result<(), Error> {
        let mut seen = self.vector.clone();
        seen.remove(self.node);
        let delta = Delta { origin: self.node, at: self.now, previous: self.vector.of(self.node), seen, rows };
        let bytes = delta.encode().map_err(|e| Error::Stopped { reason: e.to_string() })?;
        self.put(book::delta(delta.stamp()), bytes);
        self.vector.advance(self.node, self.now);
        Ok(())
    }
}

fn refusal(key: &Key, change: &RowChange, refused: Refused) -> Error {
    match refused {
        Refused::Exists => Error::Exists { key: key.clone() },
        Refused::OutOfBounds(column) => {
            let wanted = |columns: &[(ColumnId, polity_base::ColumnChange)]| {
                columns.iter().find_map(|(id, change)| match change {
                    polity_base::ColumnChange::Add { amount, bounds } if *id == column => Some((*amount, *bounds)),
                    _ => None,
                })
            };
            let found = match change {
                RowChange::Insert(columns) | RowChange::Update(columns) => wanted(columns),
                RowChange::Delete => None,
            };
            let (wanted, bounds) = found.unwrap_or_default();
            Error::OutOfBounds { key: key.clone(), column, wanted, value: 0, bounds }
        }
        other => Error::Unfit { key: key.clone(), reason: other.to_string() },
    }
}
