//! Where things are in the keys of byzantine tables, and what the ledger's own records
//! say.
//!
//! ```text
//! storage        holds                                                in the tree
//! 1  records     parameters, validators, tables, grants, keys, …      yes
//! 2  nodes       the tree itself                                      no
//! 3  journal     headers, certificates, what was ordered and written  no
//! 16 and above   rows of tables                                       yes
//!                entries of their indexes                             no: they follow from rows
//! ```
//! All that decides about later blocks is in the tree, and so under the root that
//! blocks are certified with; a node that takes over a snapshot verifies it all. The
//! journal is a node's own: certificates of the same block differ from node to node.

use bytes::Bytes;
use polity_base::key::KeyBuilder;
use polity_base::{Guarantee, IndexId, Key, NodeId, Span, Value};

use super::rules::Definition;
use crate::codec::{Decoded, Reader, Write};
use crate::evidence::Accusation;
use crate::hash::Hash;
use crate::transaction::{Privileges, ValidatorChange};
use crate::types::{Height, PublicKey};

/// The first storage that tables may have.
pub const FIRST_STORAGE: u32 = 16;

/// The storage of the ledger's own records.
pub fn records() -> IndexId {
    Guarantee::Byzantine.storage(1)
}

/// The storage of the tree's nodes.
pub fn nodes() -> IndexId {
    Guarantee::Byzantine.storage(2)
}

/// The storage of the journal.
pub fn journal() -> IndexId {
    Guarantee::Byzantine.storage(3)
}

/// Whether a table may be kept there.
pub fn is_free_for_tables(storage: IndexId) -> bool {
    storage.guarantee() == Guarantee::Byzantine && storage >= Guarantee::Byzantine.storage(FIRST_STORAGE)
}

/// The storage that a key belongs to.
pub fn storage_of(key: &[u8]) -> IndexId {
    key.first_chunk().map_or(IndexId(0), |storage| IndexId(u32::from_be_bytes(*storage)))
}

/// A kind of record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The parameters of genesis
    Parameters = 1,
    /// By the height from which on they decide: validators
    Validators = 2,
    /// By its storage: a table
    Table = 3,
    /// By storage: the table that it belongs to
    Storage = 4,
    /// By storage and user: what the user may do
    Grant = 5,
    /// By key: the user it acts for
    Key = 6,
    /// By name: a user that is more than a name
    User = 7,
    /// By the hash of a change of validators: who approves of it
    Approvals = 8,
    /// By what somebody is accused of
    Accusation = 9,
    /// By storage: what is left there goes
    Dropped = 10,
}

/// The key of a record; all of its kind, if `parts` are none.
fn record(kind: Kind, parts: &[Value]) -> Key {
    let mut key = KeyBuilder::new(records());
    for part in [&Value::Int2(kind as i16)].into_iter().chain(parts) {
        // None of these types is one that cannot be part of a key.
        let _ = key.push(part);
    }
    key.finish()
}

/// All records of a kind.
pub fn all(kind: Kind) -> Span {
    record(kind, &[]).prefix_span()
}

/// The key of the parameters.
pub fn parameters() -> Key {
    record(Kind::Parameters, &[])
}

/// The key of the validators from a height on.
pub fn validators(from: Height) -> Key {
    record(Kind::Validators, &[number(from.0)])
}

/// The height from which on validators decide, of their record's key.
pub fn validators_from(key: &[u8]) -> Option<Height> {
    let bytes: &[u8; 8] = key.last_chunk()?;
    Some(Height(u64::from_be_bytes(*bytes) ^ 1 << 63))
}

/// The key of a table.
pub fn table(storage: IndexId) -> Key {
    record(Kind::Table, &[number(u64::from(storage.0))])
}

/// The key of what a storage belongs to.
pub fn storage(storage: IndexId) -> Key {
    record(Kind::Storage, &[number(u64::from(storage.0))])
}

/// The key of what a user may do with a table.
pub fn grant(storage: IndexId, user: &str) -> Key {
    record(Kind::Grant, &[number(u64::from(storage.0)), Value::Text(user.to_owned())])
}

/// The keys of what users may do with a table.
pub fn grants(storage: IndexId) -> Span {
    record(Kind::Grant, &[number(u64::from(storage.0))]).prefix_span()
}

/// The key of the user that a key acts for.
pub fn key(public: &PublicKey) -> Key {
    record(Kind::Key, &[Value::Bytea(public.encode().into())])
}

/// The key of a user.
pub fn user(name: &str) -> Key {
    record(Kind::User, &[Value::Text(name.to_owned())])
}

/// The key of who approves of a change.
pub fn approvals(change: &ValidatorChange) -> Key {
    let mut bytes = Vec::new();
    change.write(&mut bytes);
    record(Kind::Approvals, &[Value::Bytea(bytes.into())])
}

/// The key of an accusation.
pub fn accusation((height, round, kind, node): &Accusation) -> Key {
    let (round, kind) = (number(u64::from(*round)), Value::Int2(i16::from(*kind)));
    record(Kind::Accusation, &[number(height.0), round, kind, number(node.0)])
}

/// The key that says that a storage is to be emptied.
pub fn dropped(storage: IndexId) -> Key {
    record(Kind::Dropped, &[number(u64::from(storage.0))])
}

/// The storage that a record with such a key is about.
pub fn storage_named(key: &[u8]) -> Option<IndexId> {
    validators_from(key).and_then(|height| u32::try_from(height.0).ok()).map(IndexId)
}

/// The key of a height's journal.
pub fn journal_at(height: Height) -> Key {
    let mut key = KeyBuilder::new(journal());
    let _ = key.push(&number(height.0));
    key.finish()
}

/// The keys of what says that an index was dropped whose entries are left here.
pub fn leftovers() -> Span {
    let mut key = KeyBuilder::new(journal());
    let _ = key.push(&Value::Text(String::new()));
    key.finish().prefix_span()
}

/// The key that says so of one index.
pub fn leftover(storage: IndexId) -> Key {
    let mut key = KeyBuilder::new(journal());
    let _ = key.push(&Value::Text(String::new()));
    let _ = key.push(&number(u64::from(storage.0)));
    key.finish()
}

/// The key of where the ledger is.
pub fn place() -> Key {
    let mut key = KeyBuilder::new(journal());
    let _ = key.push(&Value::Null);
    key.finish()
}

fn number(value: u64) -> Value {
    // Numbers here are far from the end of either type.
    Value::Int8(value as i64)
}

/// A table.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// Who made it
    pub owner: String,
    /// What its rows must be
    pub definition: Definition,
    /// Tables with references to it
    pub referrers: Vec<IndexId>,
}

impl Table {
    /// Its record.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(256);
        out.bytes(self.owner.as_bytes());
        out.count(self.referrers.len());
        self.referrers.iter().for_each(|storage| out.u32(storage.0));
        out.raw(&self.definition.encode());
        out.into()
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Decoded<Table> {
        Reader::whole(bytes, |reader| {
            let owner = reader.text()?.to_owned();
            let referrers = reader.list(4, |reader| reader.u32().map(IndexId))?;
            Ok(Table { owner, referrers, definition: Definition::read(reader)? })
        })
    }
}

/// The record of what a user may do: the privileges, and the user.
pub fn encode_grant(privileges: Privileges, user: &str) -> Bytes {
    let mut out = vec![privileges.0];
    out.extend(user.as_bytes());
    out.into()
}

/// Reads a record of what a user may do.
pub fn decode_grant(bytes: &[u8]) -> (Privileges, String) {
    let (privileges, user) = bytes.split_first().unwrap_or((&0, &[]));
    (Privileges(*privileges), String::from_utf8_lossy(user).into_owned())
}

/// The record of those who approve.
pub fn encode_nodes(nodes: &[NodeId]) -> Bytes {
    let mut out = Vec::with_capacity(4 + nodes.len() * 8);
    out.count(nodes.len());
    nodes.iter().for_each(|node| out.u64(node.0));
    out.into()
}

/// Reads a record of those who approve.
pub fn decode_nodes(bytes: &[u8]) -> Decoded<Vec<NodeId>> {
    Reader::whole(bytes, |reader| reader.list(8, Reader::node))
}

/// Where a key is in the tree.
pub fn key_hash(key: &[u8]) -> Hash {
    crate::hash::sha256(&[key])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::SecretKey;

    #[test]
    fn records_of_one_kind_lie_together_and_in_order() {
        let public = SecretKey::from_seed([1; 32]).public();
        let keys =
            [validators(Height(1)), validators(Height(300)), table(IndexId(0x4000_0020)), key(&public), user("a")];
        for key in &keys {
            assert!(Guarantee::Byzantine.span().contains(key) && storage_of(key) == records(), "{key}");
        }
        assert!(keys[0] < keys[1]);
        assert!(all(Kind::Validators).contains(&keys[1]) && !all(Kind::Validators).contains(&keys[2]));
        assert_eq!(validators_from(&keys[1]), Some(Height(300)));
        assert_eq!(storage_named(&dropped(IndexId(0x4000_0020))), Some(IndexId(0x4000_0020)));
        let (of_a, of_b) = (grant(IndexId(7), "a"), grant(IndexId(8), "a"));
        assert!(grants(IndexId(7)).contains(&of_a) && !grants(IndexId(7)).contains(&of_b));
    }

    #[test]
    fn tables_are_kept_off_the_ledgers_own_storages() {
        assert!(!is_free_for_tables(records()) && !is_free_for_tables(nodes()) && !is_free_for_tables(journal()));
        assert!(!is_free_for_tables(IndexId(20_000)), "that is a strong one");
        assert!(!is_free_for_tables(Guarantee::Eventual.storage(20_000)));
        assert!(is_free_for_tables(Guarantee::Byzantine.storage(20_000)));
    }
}
