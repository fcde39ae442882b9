//! What the rows of a table must be, and what follows from them.
//!
//! A [`Definition`] is ordered by the ledger like everything else, so all who apply a
//! block hold rows to the same rules. Structure is checked here: types, NOT NULL, keys,
//! UNIQUE and FOREIGN KEY through indexes. What a CHECK means, the floors above know:
//! they come in as [`RowRules`], which must be a function of the row alone. No clock, no
//! randomness, no floats that one machine rounds and another does not, no setting of a
//! session.
//!
//! Index entries are not given by authors, who could lie about them: they follow from
//! rows, in the form that SQL gives them for strong tables:
//!
//! ```text
//! entry  storage columns…            of a unique index whose columns are all not NULL
//!        storage columns… row key    of any other
//! value  the row's key
//! ```
//! So two rows that a UNIQUE forbids are one entry.

use bytes::Bytes;
use polity_base::key::{Direction, KeyBuilder};
use polity_base::{ColumnId, IndexId, Key, Value, row};

use super::outcome::Refusal;
use crate::codec::{Decoded, Reader, Write};
use crate::transaction::{read_values, write_values};

/// A table's columns are at most so many.
const MOST_COLUMNS: u16 = 1600;

/// What the rows of a table must be.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Definition {
    /// Its name, for messages
    pub name: String,
    /// Its columns, in the order of their slots
    pub columns: Vec<Column>,
    /// The columns of the primary key; none if rows are found by a number
    pub key: Vec<ColumnId>,
    /// Its indexes
    pub indexes: Vec<Index>,
    /// Its references to other tables
    pub references: Vec<Reference>,
    /// What each row must satisfy besides
    pub checks: Vec<Check>,
    /// What the floors above want to remember of the table
    pub extra: Bytes,
}

/// A column.
#[derive(Clone, PartialEq, Debug)]
pub struct Column {
    /// Its slot
    pub id: ColumnId,
    /// Its name, for messages
    pub name: String,
    /// The kind of its values
    pub kind: ValueKind,
    /// Whether NULL is none of them
    pub not_null: bool,
    /// What it is in rows from before it was added
    pub missing: Value,
}

/// A kind of values: what can stand in one column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the variants are Value's
pub enum ValueKind {
    Bool = 1,
    Int2 = 2,
    Int4 = 3,
    Int8 = 4,
    Oid = 5,
    Float4 = 6,
    Float8 = 7,
    Numeric = 8,
    Text = 9,
    Json = 10,
    Bytea = 11,
    Date = 12,
    Time = 13,
    Timestamp = 14,
    TimestampTz = 15,
    Interval = 16,
    Uuid = 17,
    Array = 18,
}

impl ValueKind {
    const ALL: [ValueKind; 18] = [
        ValueKind::Bool,
        ValueKind::Int2,
        ValueKind::Int4,
        ValueKind::Int8,
        ValueKind::Oid,
        ValueKind::Float4,
        ValueKind::Float8,
        ValueKind::Numeric,
        ValueKind::Text,
        ValueKind::Json,
        ValueKind::Bytea,
        ValueKind::Date,
        ValueKind::Time,
        ValueKind::Timestamp,
        ValueKind::TimestampTz,
        ValueKind::Interval,
        ValueKind::Uuid,
        ValueKind::Array,
    ];

    /// The kind of a value; none of NULL, which is of any.
    pub fn of(value: &Value) -> Option<ValueKind> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(_) => ValueKind::Bool,
            Value::Int2(_) => ValueKind::Int2,
            Value::Int4(_) => ValueKind::Int4,
            Value::Int8(_) => ValueKind::Int8,
            Value::Oid(_) => ValueKind::Oid,
            Value::Float4(_) => ValueKind::Float4,
            Value::Float8(_) => ValueKind::Float8,
            Value::Numeric(_) => ValueKind::Numeric,
            Value::Text(_) => ValueKind::Text,
            Value::Json(_) => ValueKind::Json,
            Value::Bytea(_) => ValueKind::Bytea,
            Value::Date(_) => ValueKind::Date,
            Value::Time(_) => ValueKind::Time,
            Value::Timestamp(_) => ValueKind::Timestamp,
            Value::TimestampTz(_) => ValueKind::TimestampTz,
            Value::Interval(_) => ValueKind::Interval,
            Value::Uuid(_) => ValueKind::Uuid,
            Value::Array(_) => ValueKind::Array,
        })
    }
}

/// An index.
#[derive(Clone, PartialEq, Debug)]
pub struct Index {
    /// Its name, for messages
    pub name: String,
    /// The stretch of keys of its entries
    pub storage: IndexId,
    /// Whether no two rows may have the same values
    pub unique: bool,
    /// Its columns
    pub columns: Vec<(ColumnId, Direction)>,
}

/// A reference to a row of another table, or of the same.
#[derive(Clone, PartialEq, Debug)]
pub struct Reference {
    /// Its name, for messages
    pub name: String,
    /// The columns that refer
    pub columns: Vec<ColumnId>,
    /// The rows' storage of the table that is referred to
    pub parent: IndexId,
    /// The columns that they refer to, in the same order: a key there
    pub parent_columns: Vec<ColumnId>,
    /// An index of this table that begins with `columns`, up and in the same order, by
    /// which it is seen whether anybody refers to a row
    pub index: IndexId,
}

/// A condition that each row satisfies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// Its name
    pub name: String,
    /// What it is, in the words of [`RowRules`]
    pub expression: Bytes,
}

/// What the floors above know about rows.
pub trait RowRules: Send + Sync + 'static {
    /// Why a check cannot be judged here, if it cannot.
    fn examine(&self, definition: &Definition, check: &Check) -> Result<(), String>;

    /// Whether a row satisfies a check that was examined. `row` holds the slots, by
    /// column id. A function of these arguments alone.
    fn holds(&self, definition: &Definition, check: &Check, row: &[Value]) -> Result<bool, String>;
}

/// Comparisons of a column with a number: enough for tests, and for tables without
/// SQL. NULL satisfies all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Comparisons;

impl Comparisons {
    /// The check that a column is not less than a number.
    pub fn at_least(name: &str, column: ColumnId, least: i64) -> Check {
        let mut expression = vec![1];
        expression.u16(column.0);
        expression.i64(least);
        Check { name: name.to_owned(), expression: expression.into() }
    }

    fn read(check: &Check) -> Result<(usize, i64), String> {
        let read = Reader::whole(&check.expression, |reader| {
            let unknown = reader.error("an unknown comparison");
            match reader.byte()? {
                1 => Ok((usize::from(reader.u16()?), reader.i64()?)),
                _ => Err(unknown),
            }
        });
        read.map_err(|e| e.to_string())
    }
}

impl RowRules for Comparisons {
    fn examine(&self, definition: &Definition, check: &Check) -> Result<(), String> {
        let (column, _) = Comparisons::read(check)?;
        let found = definition.columns.iter().any(|c| usize::from(c.id.0) == column);
        if found { Ok(()) } else { Err(format!("there is no column {column}")) }
    }

    fn holds(&self, _: &Definition, check: &Check, row: &[Value]) -> Result<bool, String> {
        let (column, least) = Comparisons::read(check)?;
        Ok(row.get(column).and_then(Value::as_i64).is_none_or(|value| value >= least))
    }
}

/// A row's slots, by column id.
pub type Slots = Vec<Value>;

impl Definition {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.byte(1);
        out.bytes(self.name.as_bytes());
        out.count(self.columns.len());
        for column in &self.columns {
            out.u16(column.id.0);
            out.bytes(column.name.as_bytes());
            out.byte(column.kind as u8);
            out.byte(u8::from(column.not_null));
            write_values(std::slice::from_ref(&column.missing), &mut out);
        }
        write_columns(&self.key, &mut out);
        out.count(self.indexes.len());
        for index in &self.indexes {
            out.bytes(index.name.as_bytes());
            out.u32(index.storage.0);
            out.byte(u8::from(index.unique));
            out.count(index.columns.len());
            for (column, direction) in &index.columns {
                out.u16(column.0);
                out.byte(u8::from(*direction == Direction::Descending));
            }
        }
        out.count(self.references.len());
        for reference in &self.references {
            out.bytes(reference.name.as_bytes());
            write_columns(&reference.columns, &mut out);
            out.u32(reference.parent.0);
            write_columns(&reference.parent_columns, &mut out);
            out.u32(reference.index.0);
        }
        out.count(self.checks.len());
        for check in &self.checks {
            out.bytes(check.name.as_bytes());
            out.bytes(&check.expression);
        }
        out.bytes(&self.extra);
        out
    }

    /// Reads a definition and nothing else.
    pub fn decode(bytes: &[u8]) -> Decoded<Definition> {
        Reader::whole(bytes, Definition::read)
    }

    /// Reads a definition.
    pub fn read(reader: &mut Reader) -> Decoded<Definition> {
        let unknown = reader.error("a definition of an unknown version");
        if reader.byte()? != 1 {
            return Err(unknown);
        }
        Ok(Definition {
            name: reader.text()?.to_owned(),
            columns: reader.list(9, Column::read)?,
            key: read_columns(reader)?,
            indexes: reader.list(13, Index::read)?,
            references: reader.list(20, Reference::read)?,
            checks: reader.list(8, |reader| {
                let name = reader.text()?.to_owned();
                Ok(Check { name, expression: Bytes::copy_from_slice(reader.bytes()?) })
            })?,
            extra: Bytes::copy_from_slice(reader.bytes()?),
        })
    }

    /// Why no table can be defined so, if none can.
    pub fn fault(&self, rules: &dyn RowRules) -> Option<String> {
        let known = |column: &ColumnId| self.column(*column).is_some();
        let ids: Vec<u16> = self.columns.iter().map(|column| column.id.0).collect();
        if ids.is_empty() || ids.windows(2).any(|pair| pair[0] >= pair[1]) || ids.last() >= Some(&MOST_COLUMNS) {
            return Some("its columns are not in order".to_owned());
        }
        let indexed = self.indexes.iter().flat_map(|index| index.columns.iter().map(|(column, _)| column));
        let referring = self.references.iter().flat_map(|reference| &reference.columns);
        if let Some(column) = self.key.iter().chain(indexed).chain(referring).find(|column| !known(column)) {
            return Some(format!("there is no column {column}"));
        }
        for reference in &self.references {
            let index = self.indexes.iter().find(|index| index.storage == reference.index);
            let begins = |index: &Index| {
                let up = |(column, direction): &(ColumnId, Direction)| {
                    (*direction == Direction::Ascending).then_some(*column)
                };
                let columns: Vec<Option<ColumnId>> = index.columns.iter().map(up).collect();
                columns.len() >= reference.columns.len()
                    && columns.iter().zip(&reference.columns).all(|(has, wants)| *has == Some(*wants))
            };
            if !index.is_some_and(begins) || reference.columns.len() != reference.parent_columns.len() {
                return Some(format!("\"{}\" has no index that shows who refers to a row", reference.name));
            }
        }
        let unusable = |check: &Check| rules.examine(self, check).err().map(|why| format!("\"{}\": {why}", check.name));
        self.checks.iter().find_map(unusable)
    }

    /// A column.
    pub fn column(&self, id: ColumnId) -> Option<&Column> {
        self.columns.iter().find(|column| column.id == id)
    }

    /// How many slots a row has.
    pub fn slots(&self) -> usize {
        self.columns.last().map_or(0, |column| usize::from(column.id.0) + 1)
    }

    /// The slots of a stored row, as many as there are now.
    pub fn read_row(&self, stored: &[u8]) -> Result<Slots, Refusal> {
        let mut slots =
            row::decode(stored).map_err(|_| Refusal::Malformed("a stored row cannot be read".to_owned()))?;
        for column in &self.columns {
            let place = usize::from(column.id.0);
            if place >= slots.len() {
                slots.resize(place, Value::Null);
                slots.push(column.missing.clone());
            }
        }
        Ok(slots)
    }

    /// Whether a row may stand at a key, all alone.
    pub fn judge(&self, rules: &dyn RowRules, storage: IndexId, key: &Key, row: &Slots) -> Result<(), Refusal> {
        for column in &self.columns {
            let value = row.get(usize::from(column.id.0)).unwrap_or(&Value::Null);
            match ValueKind::of(value) {
                None if column.not_null => return Err(Refusal::NotNull(column.name.clone())),
                Some(kind) if kind != column.kind => {
                    return Err(Refusal::Malformed(format!("\"{}\" is not of its type", column.name)));
                }
                _ => {}
            }
        }
        let expected = self.row_key(storage, row)?;
        if expected.is_some_and(|expected| expected != *key) {
            return Err(Refusal::Malformed("a row is not where its key says".to_owned()));
        }
        for check in &self.checks {
            match rules.holds(self, check, row) {
                Ok(true) => {}
                Ok(false) => return Err(Refusal::Check(check.name.clone())),
                Err(why) => return Err(Refusal::Malformed(format!("\"{}\": {why}", check.name))),
            }
        }
        Ok(())
    }

    /// Where a row must stand, if its columns say.
    fn row_key(&self, storage: IndexId, row: &Slots) -> Result<Option<Key>, Refusal> {
        if self.key.is_empty() {
            return Ok(None);
        }
        let values = self.key.iter().map(|column| (*column, Direction::Ascending));
        Ok(Some(build(storage, values, row)?.0.finish()))
    }

    /// The entries that indexes have for a row: key, value, and the index.
    pub fn entries(&self, key: &Key, row: &Slots) -> Result<Vec<(Key, Bytes, &Index)>, Refusal> {
        let entry = |index| Ok((index_key(index, key, row)?, key.0.clone(), index));
        self.indexes.iter().map(entry).collect()
    }

    /// The key that shows that the row exists which `values` of another table refer to:
    /// the row's own, or that of its entry in a unique index. None if no key here covers
    /// these columns.
    pub fn referred_key(&self, storage: IndexId, columns: &[ColumnId], values: &[&Value]) -> Option<Key> {
        let value = |column: &ColumnId| columns.iter().position(|c| c == column).and_then(|place| values.get(place));
        let mut row: Slots = vec![Value::Null; self.slots()];
        for column in columns {
            *row.get_mut(usize::from(column.0))? = (*value(column)?).clone();
        }
        let covers = |key: &[ColumnId]| key.len() == columns.len() && key.iter().all(|column| columns.contains(column));
        if covers(&self.key) {
            return self.row_key(storage, &row).ok().flatten();
        }
        let index = self.indexes.iter().filter(|index| index.unique).find(|index| {
            let of_index: Vec<ColumnId> = index.columns.iter().map(|(column, _)| *column).collect();
            covers(&of_index)
        })?;
        Some(build(index.storage, index.columns.iter().copied(), &row).ok()?.0.finish())
    }
}

impl Reference {
    /// The values by which a row refers; none if it does not, since one is NULL.
    pub fn values<'a>(&self, row: &'a Slots) -> Option<Vec<&'a Value>> {
        let value = |column: &ColumnId| row.get(usize::from(column.0)).filter(|value| !value.is_null());
        self.columns.iter().map(value).collect()
    }

    /// What entries of `index` begin with whose rows refer with the values that a row of
    /// the other table has; none if nobody can refer to that row, since one is NULL.
    pub fn entries_of(&self, parent_row: &Slots) -> Option<Key> {
        let mut key = KeyBuilder::new(self.index);
        for column in &self.parent_columns {
            let value = parent_row.get(usize::from(column.0)).filter(|value| !value.is_null())?;
            key.push(value).ok()?;
        }
        Some(key.finish())
    }

    fn read(reader: &mut Reader) -> Decoded<Reference> {
        Ok(Reference {
            name: reader.text()?.to_owned(),
            columns: read_columns(reader)?,
            parent: IndexId(reader.u32()?),
            parent_columns: read_columns(reader)?,
            index: IndexId(reader.u32()?),
        })
    }
}

impl Column {
    fn read(reader: &mut Reader) -> Decoded<Column> {
        let (id, name) = (ColumnId(reader.u16()?), reader.text()?.to_owned());
        let unknown = reader.error("a column of an unknown kind");
        let number = reader.byte()?;
        let kind = ValueKind::ALL.into_iter().find(|kind| *kind as u8 == number).ok_or(unknown)?;
        let not_null = reader.option(|_| Ok(()))?.is_some();
        let single = reader.error("not one value");
        let [missing] = <[Value; 1]>::try_from(read_values(reader)?).map_err(|_| single)?;
        Ok(Column { id, name, kind, not_null, missing })
    }
}

impl Index {
    fn read(reader: &mut Reader) -> Decoded<Index> {
        Ok(Index {
            name: reader.text()?.to_owned(),
            storage: IndexId(reader.u32()?),
            unique: reader.option(|_| Ok(()))?.is_some(),
            columns: reader.list(3, |reader| {
                let column = ColumnId(reader.u16()?);
                let descending = reader.option(|_| Ok(()))?.is_some();
                Ok((column, if descending { Direction::Descending } else { Direction::Ascending }))
            })?,
        })
    }
}

fn write_columns(columns: &[ColumnId], out: &mut Vec<u8>) {
    out.count(columns.len());
    columns.iter().for_each(|column| out.u16(column.0));
}

fn read_columns(reader: &mut Reader) -> Decoded<Vec<ColumnId>> {
    reader.list(2, |reader| reader.u16().map(ColumnId))
}

/// A key of some columns of a row, and whether one of them is NULL.
fn build(
    storage: IndexId,
    columns: impl Iterator<Item = (ColumnId, Direction)>,
    row: &Slots,
) -> Result<(KeyBuilder, bool), Refusal> {
    let (mut key, mut any_null) = (KeyBuilder::new(storage), false);
    for (column, direction) in columns {
        let value = row.get(usize::from(column.0)).unwrap_or(&Value::Null);
        any_null |= value.is_null();
        key.push_directed(value, direction).map_err(|e| Refusal::Malformed(e.to_string()))?;
    }
    Ok((key, any_null))
}

fn index_key(index: &Index, key: &Key, row: &Slots) -> Result<Key, Refusal> {
    let (mut entry, any_null) = build(index.storage, index.columns.iter().copied(), row)?;
    if !index.unique || any_null {
        entry.push_raw(key.get(4..).unwrap_or_default());
    }
    Ok(entry.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        let column = |id, name: &str, kind, not_null| Column {
            id: ColumnId(id),
            name: name.to_owned(),
            kind,
            not_null,
            missing: Value::Int8(0),
        };
        Definition {
            name: "accounts".to_owned(),
            columns: vec![
                column(0, "id", ValueKind::Int8, true),
                column(1, "owner", ValueKind::Text, false),
                column(3, "balance", ValueKind::Int8, true),
            ],
            key: vec![ColumnId(0)],
            indexes: vec![Index {
                name: "by_owner".to_owned(),
                storage: IndexId(0x4000_0021),
                unique: true,
                columns: vec![(ColumnId(1), Direction::Ascending)],
            }],
            references: vec![Reference {
                name: "owner_fk".to_owned(),
                columns: vec![ColumnId(1)],
                parent: IndexId(0x4000_0030),
                parent_columns: vec![ColumnId(0)],
                index: IndexId(0x4000_0021),
            }],
            checks: vec![Comparisons::at_least("positive", ColumnId(3), 0)],
            extra: Bytes::from_static(b"more"),
        }
    }

    #[test]
    fn a_definition_is_read_back() {
        let definition = definition();
        assert_eq!(definition.fault(&Comparisons), None);
        assert_eq!(Definition::decode(&definition.encode()), Ok(definition.clone()));
        let bytes = definition.encode();
        for cut in 0..bytes.len() {
            assert!(Definition::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn definitions_that_make_no_sense_are_refused() {
        let mut unordered = definition();
        unordered.columns.swap(0, 1);
        assert!(unordered.fault(&Comparisons).is_some());
        let mut keyless = definition();
        keyless.key = vec![ColumnId(2)];
        assert!(keyless.fault(&Comparisons).is_some(), "the slot of a column that was dropped");
        let mut blind = definition();
        blind.references[0].index = IndexId(1);
        assert!(blind.fault(&Comparisons).is_some());
        let mut strange = definition();
        strange.checks[0].expression = Bytes::from_static(&[9]);
        assert!(strange.fault(&Comparisons).is_some());
    }

    #[test]
    fn rows_from_before_a_column_was_added_have_its_value() {
        let stored = row::encode(&[Value::Int8(7)]);
        let slots = definition().read_row(&stored).unwrap();
        assert_eq!(slots, [Value::Int8(7), Value::Int8(0), Value::Null, Value::Int8(0)]);
    }

    #[test]
    fn unique_entries_are_one_unless_a_column_is_null() {
        let definition = definition();
        let key = |n: u8| Key::from(vec![0x40, 0, 0, 0x20, n]);
        let row = |owner: Value| vec![Value::Int8(1), owner, Value::Null, Value::Int8(1)];
        let entry = |n, owner| definition.entries(&key(n), &row(owner)).unwrap()[0].0.clone();
        assert_eq!(entry(1, Value::Text("a".into())), entry(2, Value::Text("a".into())));
        assert_ne!(entry(1, Value::Null), entry(2, Value::Null));
    }
}
