//! What becomes of a transaction that is ordered: the same wherever it is applied, and
//! part of what the block's header says.

use std::fmt;

use polity_base::{Class, IndexId, Key};

use crate::codec::{Decoded, Reader, Write};
use crate::transaction::read_key;

/// What became of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All of it was applied.
    Applied,
    /// Nothing was applied.
    Refused(Refusal),
}

/// Why nothing of a transaction was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A key that it read was written since
    Conflict(Key),
    /// It read so long ago that it is not known what was written since
    TooOld,
    /// A key that it relies on has no value
    Missing(Key),
    /// A key that it relies on being free has a value
    Exists(Key),
    /// Nobody who may do that signed it, and why that is so
    Denied(String),
    /// No table has its rows there
    NoTable(IndexId),
    /// The constraint or table that allows a value once
    Duplicate(String),
    /// The column that cannot be NULL
    NotNull(String),
    /// The check that a row does not satisfy
    Check(String),
    /// The reference that leads nowhere, or that would
    Reference(String),
    /// The column whose value is beyond its type or its bounds
    OutOfRange(String),
    /// It goes through more rows than one transaction may
    TooMuch(String),
    /// It does not make sense
    Malformed(String),
    /// It is so already: the change of the validators was made
    Unchanged,
}

impl Refusal {
    /// What its author should do about it.
    pub fn class(&self) -> Class {
        match self {
            // What it read is not so any more: run again, it may succeed.
            Refusal::Conflict(_) | Refusal::TooOld | Refusal::Missing(_) | Refusal::Exists(_) => Class::Conflict,
            Refusal::TooMuch(_) => Class::Resource,
            _ => Class::Input,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Conflict(key) => write!(f, "{key} was written since it was read"),
            Refusal::TooOld => write!(f, "it was read too long ago"),
            Refusal::Missing(key) => write!(f, "{key} has no value"),
            Refusal::Exists(key) => write!(f, "{key} has a value"),
            Refusal::Denied(why) => write!(f, "not allowed: {why}"),
            Refusal::NoTable(storage) => write!(f, "no table has its rows in {storage}"),
            Refusal::Duplicate(name) => write!(f, "\"{name}\" allows the value once"),
            Refusal::NotNull(column) => write!(f, "\"{column}\" cannot be NULL"),
            Refusal::Check(name) => write!(f, "\"{name}\" does not hold"),
            Refusal::Reference(name) => write!(f, "\"{name}\" would lead nowhere"),
            Refusal::OutOfRange(column) => write!(f, "\"{column}\" is out of range"),
            Refusal::TooMuch(what) => write!(f, "too much at once: {what}"),
            Refusal::Malformed(what) => write!(f, "{what}"),
            Refusal::Unchanged => write!(f, "it is so already"),
        }
    }
}

impl Outcome {
    /// Whether it was applied.
    pub fn is_applied(&self) -> bool {
        *self == Outcome::Applied
    }

    /// Writes the outcome.
    pub fn write(&self, out: &mut Vec<u8>) {
        let refusal = match self {
            Outcome::Applied => return out.byte(0),
            Outcome::Refused(refusal) => refusal,
        };
        let (number, what): (u8, &[u8]) = match refusal {
            Refusal::Conflict(key) => (1, key),
            Refusal::TooOld => (2, &[]),
            Refusal::Missing(key) => (3, key),
            Refusal::Exists(key) => (4, key),
            Refusal::Denied(why) => (5, why.as_bytes()),
            Refusal::NoTable(storage) => (6, &storage.0.to_be_bytes()),
            Refusal::Duplicate(name) => (7, name.as_bytes()),
            Refusal::NotNull(column) => (8, column.as_bytes()),
            Refusal::Check(name) => (9, name.as_bytes()),
            Refusal::Reference(name) => (10, name.as_bytes()),
            Refusal::OutOfRange(column) => (11, column.as_bytes()),
            Refusal::TooMuch(what) => (12, what.as_bytes()),
            Refusal::Malformed(what) => (13, what.as_bytes()),
            Refusal::Unchanged => (14, &[]),
        };
        out.byte(number);
        out.bytes(what);
    }

    /// Reads an outcome.
    pub fn read(reader: &mut Reader) -> Decoded<Outcome> {
        let unknown = reader.error("an unknown outcome");
        let number = reader.byte()?;
        if number == 0 {
            return Ok(Outcome::Applied);
        }
        let text = |reader: &mut Reader| reader.text().map(str::to_owned);
        Ok(Outcome::Refused(match number {
            1 => Refusal::Conflict(read_key(reader)?),
            2 if reader.bytes()?.is_empty() => Refusal::TooOld,
            3 => Refusal::Missing(read_key(reader)?),
            4 => Refusal::Exists(read_key(reader)?),
            5 => Refusal::Denied(text(reader)?),
            6 => {
                let storage = reader.bytes()?.try_into().map_err(|_| unknown)?;
                Refusal::NoTable(IndexId(u32::from_be_bytes(storage)))
            }
            7 => Refusal::Duplicate(text(reader)?),
            8 => Refusal::NotNull(text(reader)?),
            9 => Refusal::Check(text(reader)?),
            10 => Refusal::Reference(text(reader)?),
            11 => Refusal::OutOfRange(text(reader)?),
            12 => Refusal::TooMuch(text(reader)?),
            13 => Refusal::Malformed(text(reader)?),
            14 if reader.bytes()?.is_empty() => Refusal::Unchanged,
            _ => return Err(unknown),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_back_and_tell_what_to_do() {
        let key = Key::from(vec![1, 2]);
        let refusals = [
            Refusal::Conflict(key.clone()),
            Refusal::TooOld,
            Refusal::Missing(key.clone()),
            Refusal::Exists(key),
            Refusal::Denied("why".into()),
            Refusal::NoTable(IndexId(7)),
            Refusal::Duplicate("a".into()),
            Refusal::NotNull("b".into()),
            Refusal::Check("c".into()),
            Refusal::Reference("d".into()),
            Refusal::OutOfRange("e".into()),
            Refusal::TooMuch("f".into()),
            Refusal::Malformed("g".into()),
            Refusal::Unchanged,
        ];
        let conflicts = refusals.iter().filter(|refusal| refusal.class() == Class::Conflict).count();
        assert_eq!(conflicts, 4);
        for outcome in refusals.map(Outcome::Refused).into_iter().chain([Outcome::Applied]) {
            let mut bytes = Vec::new();
            outcome.write(&mut bytes);
            assert_eq!(Reader::whole(&bytes, Outcome::read), Ok(outcome));
            assert!(Reader::whole(&bytes[..bytes.len() - 1], Outcome::read).is_err());
        }
    }
}
