//! Decoding the columns that are needed, and no others.

use polity_base::Value;
use polity_base::row::{NotARow, Slots, ValueRef};

use crate::catalog::Table;
use crate::error::{Condition, Error, Result};

/// Which columns of a row are decoded.
pub struct Fetch {
    /// Slot and the value that rows have which are shorter, by slot
    slots: Vec<(u16, Value)>,
    /// Places in a user row, in the same order
    places: Vec<usize>,
}

impl Fetch {
    /// Fetches the columns at `places`.
    pub fn new(table: &Table, places: &mut dyn Iterator<Item = usize>) -> Fetch {
        let mut all: Vec<usize> = places.filter(|p| *p < table.columns.len()).collect();
        all.sort_unstable_by_key(|p| table.columns[*p].id);
        all.dedup();
        let slots = all.iter().map(|p| (table.columns[*p].id.0, table.columns[*p].missing.clone())).collect();
        Fetch { slots, places: all }
    }

    /// Where among the fetched columns the one at `place` is.
    pub fn at(&self, place: usize) -> usize {
        self.places.iter().position(|p| *p == place).unwrap_or(0)
    }

    /// How many columns are fetched.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The columns of a stored row.
    pub fn decode(&self, table: &Table, stored: &[u8]) -> Result<Vec<Value>> {
        self.read(stored).map_err(|e| {
            Error::new(Condition::DataCorrupted, format!("a row of table \"{}\" cannot be read", table.name))
                .detail(format!("The stored bytes are {e}."))
                .table(&table.name)
        })
    }

    fn read(&self, stored: &[u8]) -> std::result::Result<Vec<Value>, NotARow> {
        let mut slots = Slots::of(stored)?;
        let mut values = Vec::with_capacity(self.slots.len());
        let mut at = 0;
        for (slot, missing) in &self.slots {
            let mut more = true;
            while more && at < *slot {
                more = slots.skip()?;
                at += 1;
            }
            let value = if more { slots.next_slot()? } else { None };
            at = slot + 1;
            values.push(match value {
                Some(ValueRef::Absent) | None => missing.clone(),
                Some(v) => v.to_value()?,
            });
        }
        Ok(values)
    }
}
