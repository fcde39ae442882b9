//! A ledger to try things with: four validators whose keys are at hand, two tables, and
//! blocks that are certified as soon as they are made.

use std::sync::Arc;

use bytes::Bytes;
use polity_base::key::{Direction, KeyBuilder};
use polity_base::{Bounds, ColumnChange, ColumnId, Guarantee, IndexId, Key, NodeId, RowChange, Value};

use super::machine::{Ledger, Options};
use super::outcome::Outcome;
use super::rules::{Column, Comparisons, Definition, Index, Reference, ValueKind};
use super::storage::Storage;
use super::storage::memory::MemoryStorage;
use crate::block::{Block, Certificate};
use crate::consensus::application::{Application, Ingredients};
use crate::evidence::Evidence;
use crate::genesis::{Genesis, Parameters};
use crate::signing::SecretKey;
use crate::transaction::{Body, Operation, Precondition, SignedTransaction};
use crate::types::{Height, LedgerId, Signature, Validator, Validators};

/// The secret key of a node or a person, by number.
pub fn secret(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

/// A genesis of so many validators, numbered from 1, each with a power of one.
pub fn genesis(validators: u8) -> Genesis {
    let validator = |n: u8| Validator { node: NodeId(u64::from(n)), key: secret(n).public(), power: 1 };
    Genesis {
        name: "test".to_owned(),
        created_ms: 1000,
        validators: Validators::new((1..=validators).map(validator).collect()),
        parameters: Parameters { lifetime: 8, most_rows: 100, administrators: vec!["root".to_owned()] },
    }
}

/// The storage of accounts.
pub fn accounts() -> IndexId {
    Guarantee::Byzantine.storage(20)
}

/// The storage of orders, which refer to accounts.
pub fn orders() -> IndexId {
    Guarantee::Byzantine.storage(30)
}

fn column(id: u16, name: &str, kind: ValueKind, not_null: bool) -> Column {
    Column { id: ColumnId(id), name: name.to_owned(), kind, not_null, missing: Value::Null }
}

/// `accounts (id bigint PRIMARY KEY, owner text UNIQUE, balance bigint NOT NULL CHECK
/// (balance >= 0))`
pub fn accounts_definition() -> Definition {
    Definition {
        name: "accounts".to_owned(),
        columns: vec![
            column(0, "id", ValueKind::Int8, true),
            column(1, "owner", ValueKind::Text, false),
            column(2, "balance", ValueKind::Int8, true),
        ],
        key: vec![ColumnId(0)],
        indexes: vec![Index {
            name: "accounts_owner_key".to_owned(),
            storage: Guarantee::Byzantine.storage(21),
            unique: true,
            columns: vec![(ColumnId(1), Direction::Ascending)],
        }],
        references: Vec::new(),
        checks: vec![Comparisons::at_least("accounts_balance_check", ColumnId(2), 0)],
        extra: Bytes::new(),
    }
}

/// `orders (id bigint PRIMARY KEY, account bigint REFERENCES accounts)`
pub fn orders_definition() -> Definition {
    Definition {
        name: "orders".to_owned(),
        columns: vec![column(0, "id", ValueKind::Int8, true), column(1, "account", ValueKind::Int8, false)],
        key: vec![ColumnId(0)],
        indexes: vec![Index {
            name: "orders_account".to_owned(),
            storage: Guarantee::Byzantine.storage(31),
            unique: false,
            columns: vec![(ColumnId(1), Direction::Ascending)],
        }],
        references: vec![Reference {
            name: "orders_account_fkey".to_owned(),
            columns: vec![ColumnId(1)],
            parent: accounts(),
            parent_columns: vec![ColumnId(0)],
            index: Guarantee::Byzantine.storage(31),
        }],
        checks: Vec::new(),
        extra: Bytes::new(),
    }
}

/// The key of the row with this number.
pub fn row_key(storage: IndexId, id: i64) -> Key {
    let mut key = KeyBuilder::new(storage);
    key.push(&Value::Int8(id)).expect("a number can be part of a key");
    key.finish()
}

/// Makes a table.
pub fn define(storage: IndexId, definition: &Definition) -> Operation {
    Operation::Define { storage, definition: definition.encode().into() }
}

/// A new account.
pub fn open_account(id: i64, owner: Option<&str>, balance: i64) -> Operation {
    let owner = owner.map_or(Value::Null, |owner| Value::Text(owner.to_owned()));
    let columns = [Value::Int8(id), owner, Value::Int8(balance)];
    Operation::Row { key: row_key(accounts(), id), change: RowChange::Insert(set(&columns)) }
}

/// A new order.
pub fn place_order(id: i64, account: Option<i64>) -> Operation {
    let columns = [Value::Int8(id), account.map_or(Value::Null, Value::Int8)];
    Operation::Row { key: row_key(orders(), id), change: RowChange::Insert(set(&columns)) }
}

fn set(values: &[Value]) -> Vec<(ColumnId, ColumnChange)> {
    let column = |(slot, value): (usize, &Value)| (ColumnId(slot as u16), ColumnChange::Set(value.clone()));
    values.iter().enumerate().map(column).collect()
}

/// Changes an account's balance.
pub fn pay(id: i64, amount: i64) -> Operation {
    let add = ColumnChange::Add { amount, bounds: Bounds::default() };
    Operation::Row { key: row_key(accounts(), id), change: RowChange::Update(vec![(ColumnId(2), add)]) }
}

/// Sets a column of a row.
pub fn set_column(storage: IndexId, id: i64, column: u16, value: Value) -> Operation {
    let change = RowChange::Update(vec![(ColumnId(column), ColumnChange::Set(value))]);
    Operation::Row { key: row_key(storage, id), change }
}

/// Takes a row away.
pub fn delete(storage: IndexId, id: i64) -> Operation {
    Operation::Row { key: row_key(storage, id), change: RowChange::Delete }
}

/// Precommits of these validators for a block. Those whose key is not at hand sign
/// wrongly.
pub fn certify(ledger: LedgerId, block: &Block, signers: impl IntoIterator<Item = u8>) -> Certificate {
    let (height, id) = (block.header.height, block.id());
    let sign = |number: u8| {
        let node = NodeId(u64::from(number));
        let mut bytes = b"polity/bft/vote/1".to_vec();
        bytes.extend_from_slice(&ledger.0);
        bytes.extend_from_slice(&height.0.to_be_bytes());
        bytes.extend_from_slice(&0u32.to_be_bytes());
        bytes.extend_from_slice(&[2, 1]);
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&node.0.to_be_bytes());
        (node, secret(number).sign(&bytes).unwrap_or(Signature::void()))
    };
    Certificate { height, round: 0, block: id, signatures: signers.into_iter().map(sign).collect() }
}

/// A ledger with its validators' keys.
pub struct Bench<S: Storage> {
    /// The ledger
    pub ledger: Ledger<S>,
    /// All blocks so far
    pub blocks: Vec<(Arc<Block>, Arc<Certificate>)>,
    genesis: Genesis,
    nonce: u128,
}

/// What can be chosen about the ledger here.
pub const OPTIONS: Options = Options { keep_blocks: 1000, keep_headers: 1000, keep_snapshot: 4 };

impl Bench<MemoryStorage> {
    /// A ledger of four validators in memory.
    pub fn new() -> Bench<MemoryStorage> {
        Bench::open(MemoryStorage::new())
    }

    /// A ledger in memory with the two tables, of which `root` is the owner.
    pub fn with_tables() -> Bench<MemoryStorage> {
        let mut bench = Bench::new();
        bench.make_tables();
        bench
    }
}

impl Default for Bench<MemoryStorage> {
    fn default() -> Self {
        Bench::new()
    }
}

impl<S: Storage> Bench<S> {
    /// A ledger of four validators in this storage.
    pub fn open(storage: S) -> Bench<S> {
        Bench::open_with(storage, genesis(4))
    }

    /// A ledger that begins so in this storage.
    pub fn open_with(storage: S, genesis: Genesis) -> Bench<S> {
        let ledger = Ledger::open(storage, genesis.clone(), Arc::new(Comparisons), OPTIONS).expect("it opens");
        Bench { ledger, blocks: Vec::new(), genesis, nonce: 0 }
    }

    /// What the ledger began with.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Makes both tables.
    pub fn make_tables(&mut self) {
        let operations = vec![define(accounts(), &accounts_definition()), define(orders(), &orders_definition())];
        assert_eq!(self.run("root", operations), Outcome::Applied);
    }

    /// What a transaction of validator 1 for a user says.
    pub fn body(&mut self, user: &str, operations: Vec<Operation>) -> Body {
        self.nonce += 1;
        Body {
            ledger: self.genesis.ledger(),
            author: secret(1).public(),
            user: Some(user.to_owned()),
            nonce: self.nonce,
            expires: Height(self.ledger.tip().height.0 + 5),
            preconditions: Vec::new(),
            operations,
        }
    }

    /// A transaction that validator 1 signs for a user.
    pub fn transaction(&mut self, user: &str, operations: Vec<Operation>) -> Arc<SignedTransaction> {
        let body = self.body(user, operations);
        sign(body, 1)
    }

    /// Has one transaction of a user ordered; what becomes of it.
    pub fn run(&mut self, user: &str, operations: Vec<Operation>) -> Outcome {
        let transaction = self.transaction(user, operations);
        self.order(transaction)
    }

    /// The same, with preconditions.
    pub fn run_if(&mut self, preconditions: Vec<Precondition>, operations: Vec<Operation>) -> Outcome {
        let body = self.body("root", operations);
        self.order(sign(Body { preconditions, ..body }, 1))
    }

    /// Has a transaction ordered in a block of its own; what becomes of it.
    pub fn order(&mut self, transaction: Arc<SignedTransaction>) -> Outcome {
        self.commit(vec![transaction], Vec::new()).pop().expect("one outcome for one transaction")
    }

    /// Makes, certifies and commits a block.
    pub fn commit(&mut self, transactions: Vec<Arc<SignedTransaction>>, evidence: Vec<Evidence>) -> Vec<Outcome> {
        let (block, certificate) = self.propose(transactions, evidence);
        let committed = self.ledger.commit(&block, &certificate).expect("it commits");
        self.blocks.push((block, certificate));
        committed.outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Makes and certifies a block.
    pub fn propose(
        &mut self,
        transactions: Vec<Arc<SignedTransaction>>,
        evidence: Vec<Evidence>,
    ) -> (Arc<Block>, Arc<Certificate>) {
        let validators = self.ledger.tip().validators;
        let proposer = validators.iter().next().map_or(NodeId(1), |validator| validator.node);
        let unix_ms = 2000 + self.blocks.len() as u64 * 10;
        let ingredients = Ingredients { proposer, unix_ms, transactions, evidence };
        let block = self.ledger.build(ingredients).expect("it builds").expect("there is something to order");
        let signers: Vec<u8> = validators.iter().map(|validator| validator.node.0 as u8).collect();
        let certificate = certify(self.genesis.ledger(), &block, signers);
        (block, Arc::new(certificate))
    }
}

/// Signs a transaction with the key of this number.
pub fn sign(body: Body, number: u8) -> Arc<SignedTransaction> {
    let body = Body { author: secret(number).public(), ..body };
    Arc::new(SignedTransaction::sign(body, &secret(number)).expect("a key in memory signs"))
}
