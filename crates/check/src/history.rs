//! What clients saw: operations with the times of question and answer.
//!
//! ```text
//! client 1  |--- transfer 5 ---| ok
//! client 2        |-- total --| ok: 100
//! client 3              |--- transfer 7 ------ … the connection broke: unknown
//! ```
//! Times are nanoseconds of one clock of the *clients'* machine, since the run
//! began. An operation took effect at one moment between `invoked` and
//! `completed` (ok), at none (failed), or at one moment after `invoked` or never
//! (unknown). That third kind is what makes checking honest: whoever lost the
//! connection during COMMIT does not know, and must not guess.
//!
//! A history is kept as one JSON object a line, each with its `workload`.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

/// What the client knows of an operation's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It took effect, once.
    Ok,
    /// It had no effect, surely.
    Failed,
    /// It may have had its effect, or may have it later, or never.
    Unknown,
}

/// One question of one client, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation<A> {
    /// Who asked. A process asks one question at a time, and none after an
    /// unknown outcome: its client goes on under a new number.
    pub process: u64,
    /// When the question left, nanoseconds.
    pub invoked: u64,
    /// When the answer came, nanoseconds. Without meaning for unknown outcomes.
    pub completed: u64,
    /// What the client knows of the effect.
    pub outcome: Outcome,
    /// What was asked, and what was seen.
    pub action: A,
    /// Why it failed, or why nobody knows: SQLSTATE and message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl<A> Operation<A> {
    /// The last moment at which it can have taken effect.
    pub fn latest(&self) -> u64 {
        if self.outcome == Outcome::Unknown { u64::MAX } else { self.completed }
    }

    /// Whether this one had ended before the other began.
    pub fn precedes<B>(&self, other: &Operation<B>) -> bool {
        self.latest() < other.invoked
    }

    /// Whether it surely took effect.
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }
}

/// One access of a transaction on lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read the whole list of a key; nothing if the answer did not arrive.
    Read {
        /// The list.
        key: u64,
        /// Its elements in order, as the client saw them.
        elements: Option<Vec<u64>>,
    },
    /// Appended an element that nobody else appends to this list.
    Append {
        /// The list.
        key: u64,
        /// The element.
        element: u64,
        /// Taken back by ROLLBACK TO SAVEPOINT.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        undone: bool,
    },
}

/// A transaction on lists: what [`crate::append`] judges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Transaction(pub Vec<Access>);

/// An access to one register: what [`crate::register`] judges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterAction {
    /// The register.
    pub key: u64,
    /// What was done to it.
    pub access: RegisterAccess,
}

/// What is done to a register. `None` is a register without a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterAccess {
    /// Read this value.
    Read(Option<i64>),
    /// Wrote this value.
    Write(Option<i64>),
    /// Wrote `to` if the value was `from`.
    CompareAndSet {
        /// The value it must have.
        from: Option<i64>,
        /// The value it gets.
        to: Option<i64>,
        /// Whether it had; nobody knows if the outcome is unknown.
        matched: bool,
    },
}

/// A bank's operation: what [`crate::bank`] judges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BankAction {
    /// The balances the bank opened with, by account.
    Open(Vec<(u64, i64)>),
    /// Moved an amount, unless the balance was too small.
    Transfer {
        /// The account that gives.
        from: u64,
        /// The account that gets.
        to: u64,
        /// How much.
        amount: i64,
        /// Whether the balance was enough.
        applied: bool,
    },
    /// Read all balances within one transaction.
    Read(Vec<(u64, i64)>),
}

/// Numbers taken from a sequence: what [`crate::sequence`] judges. They count
/// however the transaction ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceAction {
    /// The sequence.
    pub sequence: u64,
    /// The numbers it gave, in order.
    pub values: Vec<i64>,
}

/// An operation on a set: what [`crate::set`] judges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SetAction {
    /// Added an element that nobody else adds.
    Add {
        /// The set.
        set: u64,
        /// The element.
        element: u64,
    },
    /// Read all elements.
    Read {
        /// The set.
        set: u64,
        /// Its elements, as often as they came.
        elements: Vec<u64>,
    },
}

/// An operation under unique and foreign keys: what [`crate::keys`] judges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAction {
    /// Inserted a row with a unique name; `taken` if that was refused as a duplicate.
    Claim {
        /// The name.
        name: u64,
        /// Refused: a row of this name was there.
        taken: bool,
    },
    /// Deleted the row of a name.
    Release {
        /// The name.
        name: u64,
        /// Whether there was one.
        found: bool,
    },
    /// Read the names of all rows; each row once.
    Names(Vec<u64>),
    /// Inserted a child row that refers to a parent; `refused` if there was no such parent.
    Adopt {
        /// The parent's number.
        parent: u64,
        /// The child's number, which nobody else uses.
        child: u64,
        /// Refused: no such parent.
        refused: bool,
    },
    /// Inserted or deleted a parent.
    Parent {
        /// The parent's number.
        parent: u64,
        /// What came of it; what was tried, if the outcome is unknown.
        change: ParentChange,
    },
    /// Read all children: child, the parent it refers to, and whether that parent was there, in one statement.
    Children(Vec<(u64, u64, bool)>),
}

/// What came of inserting or deleting a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParentChange {
    /// Inserted.
    Inserted,
    /// Not inserted: it was there.
    AlreadyThere,
    /// Deleted.
    Deleted,
    /// Not deleted: it was not there.
    Absent,
    /// Not deleted: it has children.
    HasChildren,
}

/// An operation on definitions, or through them: what [`crate::schema`] judges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaAction {
    /// Added or dropped a column.
    Column {
        /// The column's number.
        column: u64,
        /// What rows show in it that nothing was written into: below zero, and no other addition's. Zero for drops.
        default: i64,
        /// What came of it; what was tried, if the outcome is unknown.
        change: Existence,
    },
    /// Made or dropped an index.
    Index {
        /// The index's number.
        index: u64,
        /// What came of it; what was tried, if the outcome is unknown.
        change: Existence,
    },
    /// Wrote a row: its own number into a column, if one is named.
    Write {
        /// The row's number, above zero, which nobody else inserts.
        row: u64,
        /// By which it is found together with others.
        bucket: u64,
        /// The column that was written.
        column: Option<u64>,
        /// Whether the row was inserted, or else updated by whoever inserted it.
        inserts: bool,
        /// Whether there was a row to update.
        found: bool,
        /// Refused: there is no such column.
        missing: bool,
    },
    /// Read a column of all rows of a bucket.
    Read {
        /// The column.
        column: u64,
        /// The bucket.
        bucket: u64,
        /// Rows and their values.
        rows: Vec<(u64, Option<i64>)>,
        /// Refused: there is no such column.
        missing: bool,
    },
    /// Read the rows of a bucket in two ways in one statement.
    Compare {
        /// The bucket.
        bucket: u64,
        /// As an index gives them, if there is one.
        indexed: Vec<u64>,
        /// As a scan gives them.
        scanned: Vec<u64>,
    },
}

/// What came of making or dropping something that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Existence {
    /// Made.
    Made,
    /// Not made: it was there.
    AlreadyThere,
    /// Dropped.
    Dropped,
    /// Not dropped: it was not there.
    Absent,
}

/// An operation on a stock of items: what [`crate::stock`] judges. A refused sale has
/// failed; it says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StockAction {
    /// Pieces in stock at the beginning, by item.
    Open(Vec<(u64, i64)>),
    /// Took pieces out of stock, and counted them as sold.
    Sell {
        /// Whose session.
        session: u64,
        /// The item.
        item: u64,
        /// Pieces.
        amount: i64,
    },
    /// Put a pack into stock.
    Deliver {
        /// Whose session.
        session: u64,
        /// The item.
        item: u64,
    },
    /// Moved pieces from one item's stock to another's.
    Move {
        /// Whose session.
        session: u64,
        /// The item that has fewer then.
        from: u64,
        /// The item that has more.
        to: u64,
        /// Pieces.
        amount: i64,
    },
    /// Read all items at one moment: pieces in stock, pieces sold.
    Read {
        /// Whose session.
        session: u64,
        /// By item.
        rows: Vec<(u64, i64, i64)>,
        /// Whether all replicas had come together.
        last: bool,
    },
}

/// A cart as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenCart {
    /// Its number.
    pub cart: u64,
    /// Its note.
    pub note: Option<i64>,
    /// What was in it.
    pub elements: Vec<u64>,
}

/// An operation on carts: what [`crate::carts`] judges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CartAction {
    /// Put an element in that nobody else puts anywhere; made the cart, if there was none.
    Add {
        /// Whose session.
        session: u64,
        /// The cart.
        cart: u64,
        /// The element.
        element: u64,
    },
    /// Took an element out that this session had seen there.
    Remove {
        /// Whose session.
        session: u64,
        /// The cart.
        cart: u64,
        /// The element.
        element: u64,
        /// Whether there was such a cart.
        found: bool,
    },
    /// Wrote a note that nobody else writes.
    Note {
        /// Whose session.
        session: u64,
        /// The cart.
        cart: u64,
        /// The note.
        value: i64,
        /// Whether there was such a cart.
        found: bool,
    },
    /// Deleted a cart.
    Delete {
        /// Whose session.
        session: u64,
        /// The cart.
        cart: u64,
        /// What this session had seen in it.
        seen: Vec<u64>,
        /// Whether there was such a cart.
        found: bool,
    },
    /// Read carts.
    Read {
        /// Whose session.
        session: u64,
        /// Which were asked for; none: all.
        asked: Vec<u64>,
        /// Those that were there.
        seen: Vec<SeenCart>,
        /// Whether all replicas had come together.
        last: bool,
    },
    /// Read the carts of an owner in two ways in one statement.
    Compare {
        /// Whose session.
        session: u64,
        /// The owner.
        owner: u64,
        /// As an index gives them.
        indexed: Vec<u64>,
        /// As a scan gives them.
        scanned: Vec<u64>,
    },
}

/// One line of a history file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "workload", rename_all = "lowercase")]
pub enum Line {
    /// Transactions on lists.
    Append(Operation<Transaction>),
    /// Registers.
    Register(Operation<RegisterAction>),
    /// Transfers.
    Bank(Operation<BankAction>),
    /// Sequences.
    Sequence(Operation<SequenceAction>),
    /// Sets.
    Set(Operation<SetAction>),
    /// Unique and foreign keys.
    Keys(Operation<KeyAction>),
    /// Definitions.
    Schema(Operation<SchemaAction>),
    /// Stocks, under a guarantee that merges.
    Stock(Operation<StockAction>),
    /// Carts, likewise.
    Carts(Operation<CartAction>),
}

/// All that clients saw in one run, by workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Transactions on lists.
    pub append: Vec<Operation<Transaction>>,
    /// Registers.
    pub register: Vec<Operation<RegisterAction>>,
    /// Transfers.
    pub bank: Vec<Operation<BankAction>>,
    /// Sequences.
    pub sequence: Vec<Operation<SequenceAction>>,
    /// Sets.
    pub set: Vec<Operation<SetAction>>,
    /// Unique and foreign keys.
    pub keys: Vec<Operation<KeyAction>>,
    /// Definitions.
    pub schema: Vec<Operation<SchemaAction>>,
    /// Stocks.
    pub stock: Vec<Operation<StockAction>>,
    /// Carts.
    pub carts: Vec<Operation<CartAction>>,
}

/// Why a history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A line that is no operation.
    #[error("line {line}: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: serde_json::Error,
    },
}

impl History {
    /// Takes one more operation.
    pub fn push(&mut self, line: Line) {
        match line {
            Line::Append(operation) => self.append.push(operation),
            Line::Register(operation) => self.register.push(operation),
            Line::Bank(operation) => self.bank.push(operation),
            Line::Sequence(operation) => self.sequence.push(operation),
            Line::Set(operation) => self.set.push(operation),
            Line::Keys(operation) => self.keys.push(operation),
            Line::Schema(operation) => self.schema.push(operation),
            Line::Stock(operation) => self.stock.push(operation),
            Line::Carts(operation) => self.carts.push(operation),
        }
    }

    /// Reads JSON lines; empty lines are passed over.
    pub fn read(input: impl BufRead) -> Result<History, ReadError> {
        let mut history = History::default();
        for (number, line) in input.lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            history.push(serde_json::from_str(&line).map_err(|why| ReadError::Line { line: number + 1, why })?);
        }
        Ok(history)
    }
}

/// Writes one operation as a JSON line.
pub fn write_line(output: &mut impl Write, line: &Line) -> std::io::Result<()> {
    serde_json::to_writer(&mut *output, line)?;
    output.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_were_written() {
        let lines = [
            Line::Append(Operation {
                process: 1,
                invoked: 10,
                completed: 20,
                outcome: Outcome::Ok,
                action: Transaction(vec![
                    Access::Append { key: 1, element: 7, undone: false },
                    Access::Append { key: 2, element: 8, undone: true },
                    Access::Read { key: 1, elements: Some(vec![3, 7]) },
                    Access::Read { key: 1, elements: None },
                ]),
                error: None,
            }),
            Line::Register(Operation {
                process: 2,
                invoked: 11,
                completed: 12,
                outcome: Outcome::Unknown,
                action: RegisterAction {
                    key: 4,
                    access: RegisterAccess::CompareAndSet { from: None, to: Some(-1), matched: false },
                },
                error: Some("the connection broke".into()),
            }),
            Line::Keys(Operation {
                process: 3,
                invoked: 1,
                completed: 2,
                outcome: Outcome::Failed,
                action: KeyAction::Children(vec![(1, 2, true)]),
                error: None,
            }),
        ];
        let mut bytes = Vec::new();
        for line in &lines {
            write_line(&mut bytes, line).expect("memory does not fail");
        }
        let text = String::from_utf8(bytes).expect("JSON is text");
        assert!(text.starts_with(r#"{"workload":"append","process":1,"#), "{text}");
        let history = History::read(text.as_bytes()).expect("what was written can be read");
        let mut expected = History::default();
        lines.into_iter().for_each(|line| expected.push(line));
        assert_eq!(history, expected);
    }

    #[test]
    fn a_line_that_is_no_operation_is_named() {
        let error = History::read("\n{\"workload\":\"append\"}\n".as_bytes()).expect_err("fields are missing");
        assert!(error.to_string().starts_with("line 2: missing field"), "{error}");
    }
}
