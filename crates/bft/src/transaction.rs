//! Transactions: effects with their preconditions, signed by their authors.
//!
//! ```text
//! signed = body signature
//! body   = "polity/bft/transaction/1" ledger author user? nonce expires
//!          precondition* operation*
//! id     = SHA-256(body)
//! ```
//! The body is what is signed. So the id does not depend on the signature, and whoever
//! finds another signature that is right for the same body has found the same
//! transaction. It may be ordered once, until it expires: [`Body::expires`] must be
//! near (see [`crate::genesis::Parameters::lifetime`]), so that a ledger need not
//! remember for ever what it has ordered.
//!
//! The author is a key. Whom it acts for is decided when the transaction is applied: the
//! user that the key is registered for, or, if a validator signs for somebody who speaks
//! to it as `psql` does, the user that is named.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use polity_base::row;
use polity_base::{Bounds, ColumnChange, ColumnId, IndexId, Key, NodeId, RowChange, Span, Value};

use crate::codec::{DecodeError, Decoded, Reader, Write, serde_as_bytes};
use crate::hash::{Hash, sha256};
use crate::signing::{SecretKey, SignError, Verified, verify_all};
use crate::types::{Height, LedgerId, PublicKey, Signature};

/// A transaction's hash.
pub type TransactionId = Hash;

/// A transaction larger than this is none, in bytes.
pub const MAX_BYTES: usize = 4 << 20;

const NAME: &str = "polity/bft/transaction/1";

/// What a transaction says.
#[derive(Clone, PartialEq, Debug)]
pub struct Body {
    /// The ledger it is for
    pub ledger: LedgerId,
    /// Who signs it
    pub author: PublicKey,
    /// Whom a validator signs for
    pub user: Option<String>,
    /// Makes it unique
    pub nonce: u128,
    /// The last height that may order it
    pub expires: Height,
    /// What must hold when its turn comes
    pub preconditions: Vec<Precondition>,
    /// What it does, in order
    pub operations: Vec<Operation>,
}

/// What must hold for a transaction to be applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Precondition {
    /// No key of the span was written by a block after this height, nor by a
    /// transaction before this one in its block.
    Unchanged(Span, Height),
    /// The key has a value.
    Present(Key),
    /// The key has no value.
    Absent(Key),
}

/// One thing that a transaction does.
#[derive(Clone, PartialEq, Debug)]
pub enum Operation {
    /// Changes a row.
    Row {
        /// The row's key
        key: Key,
        /// How
        change: RowChange,
    },
    /// Makes a table, or changes what its rows and indexes are.
    Define {
        /// The stretch of keys of its rows
        storage: IndexId,
        /// What its rows must be: a [`crate::ledger::rules::Definition`]
        definition: Bytes,
    },
    /// Takes a table away, with its rows.
    Drop {
        /// The stretch of keys of its rows
        storage: IndexId,
    },
    /// Says what a user may do with a table, in place of what was said before.
    Grant {
        /// The table
        storage: IndexId,
        /// The user; everybody if empty
        user: String,
        /// What is allowed
        privileges: Privileges,
    },
    /// Lets a key act for a user.
    Register {
        /// The user
        user: String,
        /// The key
        key: PublicKey,
        /// Whether validators may not sign for the user any more
        exclusive: bool,
    },
    /// Lets a key act for nobody any more.
    Revoke {
        /// The key
        key: PublicKey,
    },
    /// Approves of a change of the validators, as one of them.
    Approve(ValidatorChange),
}

/// What a user may do with a table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Privileges(pub u8);

impl Privileges {
    /// To add rows
    pub const INSERT: Privileges = Privileges(1);
    /// To change rows
    pub const UPDATE: Privileges = Privileges(2);
    /// To remove rows
    pub const DELETE: Privileges = Privileges(4);
    /// All of it
    pub const ALL: Privileges = Privileges(7);

    /// What is in one of the two.
    pub fn and(self, other: Privileges) -> Privileges {
        Privileges(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub fn include(self, other: Privileges) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Privileges::INSERT, "INSERT"), (Privileges::UPDATE, "UPDATE"), (Privileges::DELETE, "DELETE")];
        let held: Vec<&str> = names.iter().filter(|(one, _)| self.include(*one)).map(|(_, name)| *name).collect();
        f.write_str(if held.is_empty() { "nothing" } else { "" })?;
        f.write_str(&held.join(", "))
    }
}

/// A change of the validators.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValidatorChange {
    /// Which node
    pub node: NodeId,
    /// The key it will sign with
    pub key: PublicKey,
    /// The power it will have; 0 for one that will be no validator
    pub power: u64,
}

/// A transaction and its author's signature. Clones are cheap.
#[derive(Clone)]
pub struct SignedTransaction {
    inner: Arc<Inner>,
}

struct Inner {
    body: Body,
    id: TransactionId,
    /// The whole of it, and how much of that is the body
    encoded: Bytes,
    body_bytes: usize,
    signature: Signature,
}

serde_as_bytes!(SignedTransaction);

impl SignedTransaction {
    /// A transaction with its author's signature.
    pub fn sign(body: Body, key: &SecretKey) -> Result<SignedTransaction, SignError> {
        let encoded = body.encode();
        let signature = key.sign(&encoded)?;
        Ok(SignedTransaction::assemble(body, encoded, signature))
    }

    /// The same, as one whose signature is right: it was made here and now.
    ///
    /// # Errors
    /// If the author is not whom the key is of.
    pub fn sign_verified(body: Body, key: &SecretKey) -> Result<Verified<SignedTransaction>, SignError> {
        if body.author != key.public() {
            return Err(SignError("the author has another".to_owned()));
        }
        SignedTransaction::sign(body, key).map(Verified::vouch)
    }

    /// A transaction with a signature from elsewhere, right or not.
    pub fn with_signature(body: Body, signature: Signature) -> SignedTransaction {
        let encoded = body.encode();
        SignedTransaction::assemble(body, encoded, signature)
    }

    fn assemble(body: Body, mut encoded: Vec<u8>, signature: Signature) -> SignedTransaction {
        let (id, body_bytes) = (sha256(&[&encoded]), encoded.len());
        signature.write(&mut encoded);
        let inner = Inner { body, id, encoded: encoded.into(), body_bytes, signature };
        SignedTransaction { inner: Arc::new(inner) }
    }

    /// What it says.
    pub fn body(&self) -> &Body {
        &self.inner.body
    }

    /// Its hash.
    pub fn id(&self) -> TransactionId {
        self.inner.id
    }

    /// How many bytes it takes.
    pub fn size(&self) -> usize {
        self.inner.encoded.len()
    }

    /// Who signs it.
    pub fn author(&self) -> &PublicKey {
        &self.inner.body.author
    }

    /// The last height that may order it.
    pub fn expires(&self) -> Height {
        self.inner.body.expires
    }

    /// The author's signature.
    pub fn signature(&self) -> &Signature {
        &self.inner.signature
    }

    /// What is signed.
    pub fn sign_bytes(&self) -> &[u8] {
        &self.inner.encoded[..self.inner.body_bytes]
    }

    /// Whether the signature is right.
    pub fn verify(&self) -> bool {
        self.author().verify(self.sign_bytes(), self.signature())
    }

    /// Whether the signatures of all of these are right. Faster than one by one; if it
    /// says no, that says nothing of any one of them.
    pub fn verify_all(transactions: &[Arc<SignedTransaction>]) -> bool {
        verify_all(transactions.iter().map(|t| (t.author(), t.sign_bytes(), t.signature())))
    }

    /// The transaction as one whose signature is right, if it is.
    pub fn verified(self) -> Option<Verified<SignedTransaction>> {
        self.verify().then(|| Verified::vouch(self))
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        self.inner.encoded.clone()
    }

    /// Reads a transaction, which may be of any ledger, with any signature.
    pub fn decode(bytes: &[u8]) -> Decoded<SignedTransaction> {
        if bytes.len() > MAX_BYTES {
            return Err(DecodeError { offset: MAX_BYTES, what: "it is too large" });
        }
        let mut reader = Reader::new(bytes);
        let body = Body::read(&mut reader)?;
        let body_bytes = reader.offset();
        let encoded = body.encode();
        if encoded != bytes[..body_bytes] {
            return Err(reader.error("it is not written as it should be"));
        }
        let signature = Signature::read(&mut reader)?;
        if reader.left() > 0 {
            return Err(reader.error("there is more than belongs there"));
        }
        Ok(SignedTransaction::assemble(body, encoded, signature))
    }
}

impl PartialEq for SignedTransaction {
    fn eq(&self, other: &SignedTransaction) -> bool {
        self.inner.encoded == other.inner.encoded
    }
}

impl fmt::Debug for SignedTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transaction {}", crate::hash::short(&self.inner.id))
    }
}

impl Body {
    /// What is signed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.raw(NAME.as_bytes());
        out.raw(&self.ledger.0);
        self.author.write(&mut out);
        out.option(self.user.as_ref(), |out, user| out.bytes(user.as_bytes()));
        out.u128(self.nonce);
        out.u64(self.expires.0);
        out.count(self.preconditions.len());
        self.preconditions.iter().for_each(|precondition| precondition.write(&mut out));
        out.count(self.operations.len());
        self.operations.iter().for_each(|operation| operation.write(&mut out));
        out
    }

    /// Reads what is to be signed, and nothing else.
    pub fn decode(bytes: &[u8]) -> Decoded<Body> {
        if bytes.len() > MAX_BYTES {
            return Err(DecodeError { offset: MAX_BYTES, what: "it is too large" });
        }
        Reader::whole(bytes, Body::read)
    }

    fn read(reader: &mut Reader) -> Decoded<Body> {
        reader.name(NAME)?;
        Ok(Body {
            ledger: LedgerId(reader.hash()?),
            author: PublicKey::read(reader)?,
            user: reader.option(|reader| reader.text().map(str::to_owned))?,
            nonce: reader.u128()?,
            expires: reader.height()?,
            preconditions: reader.list(5, Precondition::read)?,
            operations: reader.list(5, Operation::read)?,
        })
    }
}

impl Precondition {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Precondition::Unchanged(span, since) => {
                out.byte(1);
                out.bytes(&span.start);
                out.bytes(&span.end);
                out.u64(since.0);
            }
            Precondition::Present(key) => {
                out.byte(2);
                out.bytes(key);
            }
            Precondition::Absent(key) => {
                out.byte(3);
                out.bytes(key);
            }
        }
    }

    fn read(reader: &mut Reader) -> Decoded<Precondition> {
        let unknown = reader.error("an unknown precondition");
        Ok(match reader.byte()? {
            1 => {
                let span = Span { start: read_key(reader)?, end: read_key(reader)? };
                Precondition::Unchanged(span, reader.height()?)
            }
            2 => Precondition::Present(read_key(reader)?),
            3 => Precondition::Absent(read_key(reader)?),
            _ => return Err(unknown),
        })
    }
}

impl Operation {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Operation::Row { key, change } => {
                out.byte(1);
                out.bytes(key);
                write_change(change, out);
            }
            Operation::Define { storage, definition } => {
                out.byte(2);
                out.u32(storage.0);
                out.bytes(definition);
            }
            Operation::Drop { storage } => {
                out.byte(3);
                out.u32(storage.0);
            }
            Operation::Grant { storage, user, privileges } => {
                out.byte(4);
                out.u32(storage.0);
                out.bytes(user.as_bytes());
                out.byte(privileges.0);
            }
            Operation::Register { user, key, exclusive } => {
                out.byte(5);
                out.bytes(user.as_bytes());
                key.write(out);
                out.byte(u8::from(*exclusive));
            }
            Operation::Revoke { key } => {
                out.byte(6);
                key.write(out);
            }
            Operation::Approve(change) => {
                out.byte(7);
                change.write(out);
            }
        }
    }

    fn read(reader: &mut Reader) -> Decoded<Operation> {
        let unknown = reader.error("an unknown operation");
        Ok(match reader.byte()? {
            1 => Operation::Row { key: read_key(reader)?, change: read_change(reader)? },
            2 => {
                let storage = IndexId(reader.u32()?);
                Operation::Define { storage, definition: Bytes::copy_from_slice(reader.bytes()?) }
            }
            3 => Operation::Drop { storage: IndexId(reader.u32()?) },
            4 => {
                let (storage, user) = (IndexId(reader.u32()?), reader.text()?.to_owned());
                Operation::Grant { storage, user, privileges: read_privileges(reader)? }
            }
            5 => Operation::Register {
                user: reader.text()?.to_owned(),
                key: PublicKey::read(reader)?,
                exclusive: reader.option(|_| Ok(()))?.is_some(),
            },
            6 => Operation::Revoke { key: PublicKey::read(reader)? },
            7 => Operation::Approve(ValidatorChange::read(reader)?),
            _ => return Err(unknown),
        })
    }
}

impl ValidatorChange {
    /// Writes the change.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.u64(self.node.0);
        self.key.write(out);
        out.u64(self.power);
    }

    fn read(reader: &mut Reader) -> Decoded<ValidatorChange> {
        Ok(ValidatorChange { node: reader.node()?, key: PublicKey::read(reader)?, power: reader.u64()? })
    }
}

fn read_privileges(reader: &mut Reader) -> Decoded<Privileges> {
    let unknown = reader.error("an unknown privilege");
    let privileges = Privileges(reader.byte()?);
    if Privileges::ALL.include(privileges) { Ok(privileges) } else { Err(unknown) }
}

pub(crate) fn read_key(reader: &mut Reader) -> Decoded<Key> {
    Ok(Key(Bytes::copy_from_slice(reader.bytes()?)))
}

fn write_change(change: &RowChange, out: &mut Vec<u8>) {
    let columns = match change {
        RowChange::Insert(columns) => {
            out.byte(1);
            columns
        }
        RowChange::Update(columns) => {
            out.byte(2);
            columns
        }
        RowChange::Delete => return out.byte(3),
    };
    out.count(columns.len());
    for (column, change) in columns {
        out.u16(column.0);
        write_column(change, out);
    }
}

fn read_change(reader: &mut Reader) -> Decoded<RowChange> {
    let unknown = reader.error("an unknown change of a row");
    let columns = |reader: &mut Reader| reader.list(3, |r| Ok((ColumnId(r.u16()?), read_column(r)?)));
    Ok(match reader.byte()? {
        1 => RowChange::Insert(columns(reader)?),
        2 => RowChange::Update(columns(reader)?),
        3 => RowChange::Delete,
        _ => return Err(unknown),
    })
}

fn write_column(change: &ColumnChange, out: &mut Vec<u8>) {
    match change {
        ColumnChange::Set(value) => {
            out.byte(1);
            write_values(std::slice::from_ref(value), out);
        }
        ColumnChange::Add { amount, bounds } => {
            out.byte(2);
            out.i64(*amount);
            out.option(bounds.lower, |out, bound| out.i64(bound));
            out.option(bounds.upper, |out, bound| out.i64(bound));
        }
        ColumnChange::Elements { added, removed } => {
            out.byte(3);
            write_values(added, out);
            write_values(removed, out);
        }
        ColumnChange::AddNumeric(amount) => {
            out.byte(4);
            write_values(&[Value::Numeric(*amount)], out);
        }
    }
}

fn read_column(reader: &mut Reader) -> Decoded<ColumnChange> {
    let unknown = reader.error("an unknown change of a column");
    Ok(match reader.byte()? {
        1 => {
            let single = reader.error("not one value");
            let [value] = <[Value; 1]>::try_from(read_values(reader)?).map_err(|_| single)?;
            ColumnChange::Set(value)
        }
        2 => ColumnChange::Add {
            amount: reader.i64()?,
            bounds: Bounds { lower: reader.option(Reader::i64)?, upper: reader.option(Reader::i64)? },
        },
        3 => ColumnChange::Elements { added: read_values(reader)?, removed: read_values(reader)? },
        4 => match read_values(reader)?.as_slice() {
            [Value::Numeric(amount)] => ColumnChange::AddNumeric(*amount),
            _ => return Err(unknown),
        },
        _ => return Err(unknown),
    })
}

/// Values as a row holds them, with their length.
pub(crate) fn write_values(values: &[Value], out: &mut Vec<u8>) {
    let start = out.len();
    out.u32(0);
    row::encode_to(values, out);
    let length = ((out.len() - start - 4) as u32).to_be_bytes();
    out[start..start + 4].copy_from_slice(&length);
}

pub(crate) fn read_values(reader: &mut Reader) -> Decoded<Vec<Value>> {
    let damaged = reader.error("values that cannot be read");
    row::decode(reader.bytes()?).map_err(|_| damaged)
}

#[cfg(test)]
mod tests {
    use polity_base::Decimal;
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Key> {
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Key::from)
    }

    fn public() -> impl Strategy<Value = PublicKey> {
        any::<u8>().prop_map(|seed| SecretKey::from_seed([seed; 32]).public())
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Int8),
            any::<bool>().prop_map(Value::Bool),
            ".{0,9}".prop_map(Value::Text),
        ]
    }

    fn column() -> impl Strategy<Value = (ColumnId, ColumnChange)> {
        let values = || proptest::collection::vec(value(), 0..3);
        let change = prop_oneof![
            value().prop_map(ColumnChange::Set),
            (any::<i64>(), any::<Option<i64>>(), any::<Option<i64>>())
                .prop_map(|(amount, lower, upper)| { ColumnChange::Add { amount, bounds: Bounds { lower, upper } } }),
            (values(), values()).prop_map(|(added, removed)| ColumnChange::Elements { added, removed }),
            (any::<i64>(), 0..9u8).prop_map(|(mantissa, scale)| {
                ColumnChange::AddNumeric(Decimal::new(i128::from(mantissa), scale).expect("few digits"))
            }),
        ];
        (any::<u16>().prop_map(ColumnId), change)
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let columns = || proptest::collection::vec(column(), 0..4);
        let change = prop_oneof![
            columns().prop_map(RowChange::Insert),
            columns().prop_map(RowChange::Update),
            Just(RowChange::Delete)
        ];
        let storage = || any::<u32>().prop_map(IndexId);
        let bytes = proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        prop_oneof![
            (key(), change).prop_map(|(key, change)| Operation::Row { key, change }),
            (storage(), bytes).prop_map(|(storage, definition)| Operation::Define { storage, definition }),
            storage().prop_map(|storage| Operation::Drop { storage }),
            (storage(), ".{0,5}", 0u8..8)
                .prop_map(|(storage, user, bits)| { Operation::Grant { storage, user, privileges: Privileges(bits) } }),
            (".{0,5}", public(), any::<bool>()).prop_map(|(user, key, exclusive)| Operation::Register {
                user,
                key,
                exclusive
            }),
            public().prop_map(|key| Operation::Revoke { key }),
            (any::<u64>(), public(), any::<u64>()).prop_map(|(node, key, power)| {
                Operation::Approve(ValidatorChange { node: NodeId(node), key, power })
            }),
        ]
    }

    fn precondition() -> impl Strategy<Value = Precondition> {
        prop_oneof![
            (key(), key(), any::<u64>())
                .prop_map(|(start, end, since)| Precondition::Unchanged(Span { start, end }, Height(since))),
            key().prop_map(Precondition::Present),
            key().prop_map(Precondition::Absent),
        ]
    }

    prop_compose! {
        fn body()(
            ledger in any::<[u8; 32]>(),
            user in proptest::option::of(".{0,8}"),
            nonce in any::<u128>(),
            expires in any::<u64>(),
            preconditions in proptest::collection::vec(precondition(), 0..4),
            operations in proptest::collection::vec(operation(), 0..5),
        ) -> Body {
            let author = SecretKey::from_seed([1; 32]).public();
            Body { ledger: LedgerId(ledger), author, user, nonce, expires: Height(expires), preconditions, operations }
        }
    }

    proptest! {
        #[test]
        fn what_was_signed_is_read_and_right(body in body()) {
            let signed = SignedTransaction::sign(body.clone(), &SecretKey::from_seed([1; 32])).unwrap();
            let read = SignedTransaction::decode(&signed.encode()).unwrap();
            prop_assert_eq!(read.body(), &body);
            prop_assert_eq!(read.id(), signed.id());
            prop_assert!(read.verify());
        }

        #[test]
        fn no_byte_of_a_transaction_can_be_another(body in body(), place: prop::sample::Index, flip in 1u8..) {
            let signed = SignedTransaction::sign(body, &SecretKey::from_seed([1; 32])).unwrap();
            let mut bytes = signed.encode().to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
            let accepted = SignedTransaction::decode(&bytes).is_ok_and(|read| read.verify());
            prop_assert!(!accepted, "byte {place}");
        }

        #[test]
        fn noise_is_no_transaction_and_no_panic(body in body(), noise in proptest::collection::vec(any::<u8>(), 0..200), keep: prop::sample::Index) {
            let _ = SignedTransaction::decode(&noise);
            let encoded = SignedTransaction::with_signature(body, Signature::void()).encode();
            let keep = keep.index(encoded.len());
            let mixed = [&encoded[..keep], &noise].concat();
            // Whatever is read is written again as it was.
            if let Ok(read) = SignedTransaction::decode(&mixed) {
                prop_assert_eq!(read.encode(), mixed);
            }
        }
    }
}
