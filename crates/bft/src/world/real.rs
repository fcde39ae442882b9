//! The ledger itself, to be simulated: two tables, an administrator who owns them, and
//! validators that approve of each other.

use std::sync::Arc;

use polity_base::{Key, NodeId, Span};

use super::Subject;
use crate::block::{Block, Certificate};
use crate::consensus::application::Application;
use crate::genesis::{Genesis, Parameters};
use crate::ledger::rules::Comparisons;
use crate::ledger::storage::memory::MemoryStorage;
use crate::ledger::testing::{
    accounts, accounts_definition, define, delete, open_account, orders, orders_definition, pay, place_order, row_key,
    secret,
};
use crate::ledger::{Ledger, Options};
use crate::transaction::{Body, Operation, Precondition, SignedTransaction, ValidatorChange};
use crate::types::{Height, LedgerId, Signature, Validators};

/// Few blocks are kept, so that snapshots are needed.
const OPTIONS: Options = Options { keep_blocks: 12, keep_headers: 10_000, keep_snapshot: 4 };
/// Nothing expires while a world lasts.
const LIFETIME: u64 = 1 << 20;

fn genesis(validators: &Validators) -> Genesis {
    Genesis {
        name: "world".to_owned(),
        created_ms: 1000,
        validators: validators.clone(),
        parameters: Parameters { lifetime: LIFETIME, most_rows: 1000, administrators: vec!["root".to_owned()] },
    }
}

fn open(storage: MemoryStorage, genesis: Genesis) -> Ledger<MemoryStorage> {
    Ledger::open(storage, genesis, Arc::new(Comparisons), OPTIONS).expect("what was kept in memory can be opened")
}

impl Subject for Ledger<MemoryStorage> {
    fn name(validators: &Validators) -> LedgerId {
        genesis(validators).ledger()
    }

    fn genesis(validators: &Validators, _: NodeId) -> Self {
        open(MemoryStorage::new(), genesis(validators))
    }

    fn reopen(self) -> Self {
        let genesis = (*self.genesis).clone();
        open(self.into_storage().restart(), genesis)
    }

    fn opening(&self) -> Vec<SignedTransaction> {
        let tables = vec![define(accounts(), &accounts_definition()), define(orders(), &orders_definition())];
        let accounts = (0..8).map(|id| open_account(id, None, 20)).collect();
        vec![self.signed(1, Some("root"), 1, Vec::new(), tables), self.signed(1, Some("root"), 2, Vec::new(), accounts)]
    }

    fn transaction(&self, draw: &mut dyn FnMut() -> u64) -> SignedTransaction {
        let nonce = draw();
        let (account, other) = ((draw() % 10) as i64, (draw() % 10) as i64);
        let operations = match draw() % 8 {
            0 => vec![open_account(account, Some(&format!("owner {other}")), other)],
            1 => vec![delete(accounts(), account)],
            2 => vec![place_order((draw() % 40) as i64, Some(account))],
            3 => vec![delete(orders(), (draw() % 40) as i64)],
            // Money goes from one to another, or does not.
            _ => vec![pay(account, 7), pay(other, -7)],
        };
        // Some rely on what they have read, which others may have changed since.
        let height = Height(self.tip().height.0.saturating_sub(draw() % 3));
        let preconditions = match draw() % 3 {
            0 => vec![Precondition::Unchanged(one(row_key(accounts(), other)), height)],
            1 => vec![Precondition::Present(row_key(accounts(), account))],
            _ => Vec::new(),
        };
        self.signed(1, Some("root"), nonce, preconditions, operations)
    }

    fn change(&self, node: NodeId, power: u64, draw: &mut dyn FnMut() -> u64) -> Vec<SignedTransaction> {
        let validators = self.tip().validators;
        if power == 0 && validators.iter().count() <= 4 {
            return Vec::new();
        }
        let change = ValidatorChange { node, key: secret(node.0 as u8).public(), power };
        let approve = |approving: NodeId| {
            let operations = vec![Operation::Approve(change.clone())];
            self.signed(approving.0 as u8, None, draw(), Vec::new(), operations)
        };
        validators.iter().map(|validator| validator.node).map(approve).collect()
    }

    fn replay(&mut self, block: &Block) -> [u8; 32] {
        let block = Arc::new(block.clone());
        let (height, id) = (block.header.height, block.id());
        let certificate = Arc::new(Certificate { height, round: 0, block: id, signatures: Vec::new() });
        let applied = self.check(&block, &|_| false).is_ok() && self.commit(&block, &certificate).is_ok();
        if applied { block.header.state_root } else { [0; 32] }
    }
}

impl Ledger<MemoryStorage> {
    fn signed(
        &self,
        author: u8,
        user: Option<&str>,
        nonce: u64,
        preconditions: Vec<Precondition>,
        operations: Vec<Operation>,
    ) -> SignedTransaction {
        let body = Body {
            ledger: self.id(),
            author: secret(author).public(),
            user: user.map(str::to_owned),
            nonce: u128::from(nonce),
            expires: Height(self.tip().height.0 + LIFETIME / 2),
            preconditions,
            operations,
        };
        let void = SignedTransaction::with_signature(body.clone(), Signature::void());
        SignedTransaction::sign(body, &secret(author)).unwrap_or(void)
    }
}

/// The span of one key.
fn one(key: Key) -> Span {
    let mut end = key.0.to_vec();
    end.push(0);
    Span { start: key, end: Key::from(end) }
}
