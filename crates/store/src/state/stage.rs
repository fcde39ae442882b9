//! Chunks of another replica's rows that have arrived, kept until all are here.
//!
//! They are put aside durably, sealed like everything else, so that a transfer goes
//! on where it was after the connection was lost or the process was killed, and so
//! that rows of any amount take little memory. Nothing reads them but
//! [`State::install_staged`], which takes all or none.

use bytes::Bytes;
use polity_base::RangeId;
use redb::{ReadableDatabase, TableDefinition};

use crate::error::Error;
use crate::state::{AppliedMark, State, from_redb, tables};

/// Transfer and number to chunk.
const STAGED: TableDefinition<'static, (u128, u64), &'static [u8]> = TableDefinition::new("staged");

impl State {
    /// Puts chunk `number` of a transfer aside; durable when this returns. Chunks come
    /// in order, counted from 0; one that comes twice is kept once. The first chunk of
    /// a transfer ends all others.
    pub fn stage(&self, transfer: u128, number: u64, chunk: &[u8]) -> Result<(), Error> {
        let done = tables::write(&self.db, &self.failure, |transaction| {
            let mut staged = transaction.open_table(STAGED).map_err(|e| from_redb(e, &self.failure))?;
            if number == 0 {
                staged.retain(|(of, _), _| of == transfer).map_err(|e| from_redb(e, &self.failure))?;
            }
            staged.insert((transfer, number), chunk).map_err(|e| from_redb(e, &self.failure))?;
            Ok(())
        });
        done.map_err(|e| self.poison(e))
    }

    /// How many chunks of a transfer are here.
    pub fn staged(&self, transfer: u128) -> Result<u64, Error> {
        let transaction = self.db.begin_read().map_err(|e| from_redb(e, &self.failure))?;
        let staged = match transaction.open_table(STAGED) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(0),
            staged => staged.map_err(|e| from_redb(e, &self.failure))?,
        };
        let last =
            staged.range((transfer, 0)..=(transfer, u64::MAX)).map_err(|e| from_redb(e, &self.failure))?.next_back();
        match last {
            None => Ok(0),
            Some(last) => Ok(last.map_err(|e| from_redb(e, &self.failure))?.0.value().1 + 1),
        }
    }

    /// Installs what was put aside of a transfer of `group`, as [`State::install`]
    /// does, and forgets it.
    pub fn install_staged(&self, group: RangeId, transfer: u128) -> Result<AppliedMark, Error> {
        let transaction = self.db.begin_read().map_err(|e| from_redb(e, &self.failure))?;
        let staged = transaction.open_table(STAGED).map_err(|e| from_redb(e, &self.failure))?;
        let chunk = |number: u64| -> Result<Bytes, Error> {
            let chunk = staged.get((transfer, number)).map_err(|e| from_redb(e, &self.failure))?;
            let missing = || Error::corrupt("received rows", number, "they end too early");
            Ok(Bytes::copy_from_slice(chunk.ok_or_else(missing)?.value()))
        };
        let mark = self.install((0..).map(chunk))?;
        drop((staged, transaction));
        let done = tables::write(&self.db, &self.failure, |transaction| {
            transaction.delete_table(STAGED).map_err(|e| from_redb(e, &self.failure))
        });
        done.map_err(|e| self.poison(e))?;
        debug_assert_eq!(self.applied(group), mark);
        Ok(mark)
    }
}
