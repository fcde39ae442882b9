//! What becomes of transactions: one rule a test.

use polity_base::{Bounds, Class, ColumnChange, ColumnId, Key, NodeId, RowChange, Span, Value, row};

use crate::ledger::outcome::{Outcome, Refusal};
use crate::ledger::records;
use crate::ledger::rules::Comparisons;
use crate::ledger::testing::*;
use crate::transaction::{Body, Operation, Precondition, Privileges, ValidatorChange};
use crate::types::Height;

fn refused(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refused(refusal) => refusal,
        Outcome::Applied => panic!("it was applied"),
    }
}

type Memory = crate::ledger::storage::memory::MemoryStorage;

fn account(bench: &Bench<Memory>, id: i64) -> Option<Vec<Value>> {
    let stored = bench.ledger.reader().get(&row_key(accounts(), id), None).unwrap();
    stored.map(|row| row::decode(&row).unwrap())
}

fn balance(bench: &Bench<Memory>, id: i64) -> Option<i64> {
    account(bench, id).and_then(|row| row[2].as_i64())
}

#[test]
fn changes_of_one_counter_come_together_in_one_block() {
    let mut bench = Bench::with_tables();
    assert_eq!(bench.run("root", vec![open_account(1, None, 100)]), Outcome::Applied);
    let payments = (0..10).map(|n| bench.transaction("root", vec![pay(1, n)])).collect();
    assert!(bench.commit(payments, Vec::new()).iter().all(Outcome::is_applied));
    assert_eq!(balance(&bench, 1), Some(145));
}

#[test]
fn a_transaction_is_applied_whole_or_not_at_all() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 10), open_account(2, None, 0)]);
    let refusal = refused(bench.run("root", vec![pay(2, 30), pay(1, -30)]));
    assert_eq!(refusal, Refusal::Check("accounts_balance_check".into()));
    assert_eq!((balance(&bench, 1), balance(&bench, 2)), (Some(10), Some(0)));
}

#[test]
fn bounds_that_the_author_names_hold_when_the_change_is_applied() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 10)]);
    let add = |amount, lower| {
        let change = ColumnChange::Add { amount, bounds: Bounds { lower, upper: Some(15) } };
        let change = RowChange::Update(vec![(ColumnId(2), change)]);
        vec![Operation::Row { key: row_key(accounts(), 1), change }]
    };
    let range = Refusal::OutOfRange("balance".into());
    assert_eq!(refused(bench.run("root", add(-6, Some(5)))), range);
    assert_eq!(bench.run("root", add(-5, Some(5))), Outcome::Applied);
    assert_eq!(refused(bench.run("root", add(11, None))), range);
    assert_eq!(refused(bench.run("root", add(i64::MAX, None))), range);
    assert_eq!(balance(&bench, 1), Some(5));
}

#[test]
fn rows_are_as_their_table_says() {
    let mut bench = Bench::with_tables();
    let insert = |values: Vec<(u16, Value)>| {
        let set = |(slot, value)| (ColumnId(slot), ColumnChange::Set(value));
        let change = RowChange::Insert(values.into_iter().map(set).collect());
        vec![Operation::Row { key: row_key(accounts(), 7), change }]
    };
    let id = (0, Value::Int8(7));
    let tries = [
        (vec![id.clone()], Refusal::NotNull("balance".into())),
        (vec![id.clone(), (2, Value::Text("x".into()))], Refusal::Malformed("\"balance\" is not of its type".into())),
        (vec![(0, Value::Int8(8)), (2, Value::Int8(1))], Refusal::Malformed("a row is not where its key says".into())),
        (vec![id.clone(), (9, Value::Int8(1))], Refusal::Malformed("\"accounts\" has no column c9".into())),
        (vec![id.clone(), (2, Value::Int8(-1))], Refusal::Check("accounts_balance_check".into())),
    ];
    for (values, expected) in tries {
        assert_eq!(refused(bench.run("root", insert(values))), expected);
    }
    assert_eq!(bench.run("root", insert(vec![id, (2, Value::Int8(1))])), Outcome::Applied);
    let elements = ColumnChange::Elements { added: vec![Value::Int8(1)], removed: vec![] };
    let change = RowChange::Update(vec![(ColumnId(2), elements)]);
    let sets = vec![Operation::Row { key: row_key(accounts(), 7), change }];
    assert!(matches!(refused(bench.run("root", sets)), Refusal::Malformed(_)));
}

#[test]
fn what_is_there_is_not_inserted_and_what_is_not_there_is_not_changed() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 1)]);
    assert_eq!(refused(bench.run("root", vec![open_account(1, None, 2)])), Refusal::Duplicate("accounts".into()));
    let missing = refused(bench.run("root", vec![pay(2, 1)]));
    assert_eq!((missing.class(), missing), (Class::Conflict, Refusal::Missing(row_key(accounts(), 2))));
    assert!(matches!(refused(bench.run("root", vec![delete(accounts(), 2)])), Refusal::Missing(_)));
    let nowhere = polity_base::Guarantee::Byzantine.storage(99);
    assert_eq!(refused(bench.run("root", vec![delete(nowhere, 2)])), Refusal::NoTable(nowhere));
    // Index entries and records are nobody's rows.
    for storage in [polity_base::Guarantee::Byzantine.storage(21), records::records(), records::journal()] {
        assert_eq!(refused(bench.run("root", vec![delete(storage, 2)])), Refusal::NoTable(storage));
    }
}

#[test]
fn unique_values_are_there_once_and_may_be_swapped() {
    let mut bench = Bench::with_tables();
    let text = |text: &str| Value::Text(text.to_owned());
    bench.run("root", vec![open_account(1, Some("ada"), 1), open_account(2, Some("bob"), 1)]);
    let duplicate = Refusal::Duplicate("accounts_owner_key".into());
    assert_eq!(refused(bench.run("root", vec![open_account(3, Some("ada"), 1)])), duplicate);
    assert_eq!(
        refused(bench.run("root", vec![open_account(3, Some("eve"), 1), open_account(4, Some("eve"), 1)])),
        duplicate
    );
    assert_eq!(refused(bench.run("root", vec![set_column(accounts(), 2, 1, text("ada"))])), duplicate);
    // NULL is not equal to NULL.
    assert_eq!(bench.run("root", vec![open_account(5, None, 1), open_account(6, None, 1)]), Outcome::Applied);
    let swap = vec![set_column(accounts(), 1, 1, text("bob")), set_column(accounts(), 2, 1, text("ada"))];
    assert_eq!(bench.run("root", swap), Outcome::Applied);
    let moved = vec![delete(accounts(), 2), open_account(3, Some("ada"), 1)];
    assert_eq!(bench.run("root", moved), Outcome::Applied);
    // In one block, the first of two has it.
    let both = vec![
        bench.transaction("root", vec![open_account(8, Some("eve"), 1)]),
        bench.transaction("root", vec![open_account(9, Some("eve"), 1)]),
    ];
    assert_eq!(bench.commit(both, Vec::new()), [Outcome::Applied, Outcome::Refused(duplicate)]);
}

#[test]
fn references_lead_somewhere() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 1), open_account(2, None, 1)]);
    let nowhere = Refusal::Reference("orders_account_fkey".into());
    assert_eq!(refused(bench.run("root", vec![place_order(1, Some(9))])), nowhere);
    assert_eq!(bench.run("root", vec![place_order(1, Some(1)), place_order(2, None)]), Outcome::Applied);
    assert_eq!(refused(bench.run("root", vec![delete(accounts(), 1)])), nowhere);
    assert_eq!(bench.run("root", vec![delete(accounts(), 2)]), Outcome::Applied);
    assert_eq!(refused(bench.run("root", vec![set_column(orders(), 1, 1, Value::Int8(2))])), nowhere);
    // Both at once, and in the wrong order.
    let both = vec![delete(accounts(), 1), delete(orders(), 1)];
    assert_eq!(bench.run("root", both), Outcome::Applied);
    let both = vec![place_order(3, Some(3)), open_account(3, None, 1)];
    assert_eq!(bench.run("root", both), Outcome::Applied);
    // Gone and back again within one transaction: nobody sees it gone.
    let again = vec![delete(accounts(), 3), open_account(3, None, 5)];
    assert_eq!(bench.run("root", again), Outcome::Applied);
}

#[test]
fn preconditions_are_judged_when_the_transactions_turn_comes() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 1)]);
    let (key, read) = (row_key(accounts(), 1), bench.ledger.reader().height().unwrap());
    let unchanged = |since| vec![Precondition::Unchanged(row_key(accounts(), 1).point(), since)];
    assert_eq!(bench.run_if(unchanged(read), vec![pay(1, 1)]), Outcome::Applied);
    let conflict = refused(bench.run_if(unchanged(read), vec![pay(1, 1)]));
    assert_eq!((conflict.class(), conflict), (Class::Conflict, Refusal::Conflict(key.clone())));
    // Another transaction of the same block, before it.
    let read = bench.ledger.reader().height().unwrap();
    let first = bench.transaction("root", vec![pay(1, 1)]);
    let body = bench.body("root", vec![pay(1, 1)]);
    let second = sign(Body { preconditions: unchanged(read), ..body }, 1);
    assert_eq!(bench.commit(vec![first, second], Vec::new())[1], Outcome::Refused(Refusal::Conflict(key.clone())));
    // A span, in which a row appeared.
    let read = bench.ledger.reader().height().unwrap();
    bench.run("root", vec![open_account(5, Some("eve"), 1)]);
    let span = Span { start: row_key(accounts(), 2), end: row_key(accounts(), 9) };
    let phantom = vec![Precondition::Unchanged(span, read)];
    assert_eq!(refused(bench.run_if(phantom, vec![pay(1, 1)])), Refusal::Conflict(row_key(accounts(), 5)));
    assert_eq!(refused(bench.run_if(vec![Precondition::Absent(key.clone())], vec![])), Refusal::Exists(key));
    let other = row_key(accounts(), 77);
    assert_eq!(refused(bench.run_if(vec![Precondition::Present(other.clone())], vec![])), Refusal::Missing(other));
    // So long ago that it is not known: the lifetime here is 8.
    for _ in 0..8 {
        bench.run("root", vec![pay(5, 1)]);
    }
    let old = refused(bench.run_if(unchanged(read), vec![pay(1, 1)]));
    assert_eq!((old.class(), old), (Class::Conflict, Refusal::TooOld));
}

#[test]
fn grants_say_what_users_may_do() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 10)]);
    let may = |bench: &mut Bench<_>, operation: &Operation| bench.run("ada", vec![operation.clone()]);
    let denied = |outcome| matches!(outcome, Outcome::Refused(Refusal::Denied(_)));
    assert!(denied(may(&mut bench, &pay(1, 1))));
    let grant = |user: &str, privileges| Operation::Grant { storage: accounts(), user: user.into(), privileges };
    assert!(denied(bench.run("ada", vec![grant("ada", Privileges::ALL)])), "for owners to grant");
    bench.run("root", vec![grant("ada", Privileges::UPDATE)]);
    assert_eq!(may(&mut bench, &pay(1, 1)), Outcome::Applied);
    assert!(denied(may(&mut bench, &delete(accounts(), 1))));
    assert!(denied(may(&mut bench, &open_account(2, None, 1))));
    // To everybody.
    bench.run("root", vec![grant("", Privileges::INSERT)]);
    assert_eq!(may(&mut bench, &open_account(2, None, 1)), Outcome::Applied);
    bench.run("root", vec![grant("ada", Privileges::default())]);
    assert!(denied(may(&mut bench, &pay(1, 1))));
    assert!(denied(bench.run("ada", vec![Operation::Drop { storage: accounts() }])));
    assert!(denied(bench.run("ada", vec![define(accounts(), &accounts_definition())])));
    // Tables are for everybody to make; their makers own them.
    let own = polity_base::Guarantee::Byzantine.storage(40);
    let mut definition = orders_definition();
    definition.references.clear();
    definition.indexes.clear();
    assert_eq!(bench.run("ada", vec![define(own, &definition)]), Outcome::Applied);
    assert!(denied(bench.run("bob", vec![Operation::Drop { storage: own }])));
    assert_eq!(bench.run("ada", vec![Operation::Drop { storage: own }]), Outcome::Applied);
}

#[test]
fn keys_act_for_the_users_they_are_registered_for() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 10)]);
    bench.run("root", vec![Operation::Grant { storage: accounts(), user: "ada".into(), privileges: Privileges::ALL }]);
    let denied = |outcome| matches!(outcome, Outcome::Refused(Refusal::Denied(_)));
    let own = |bench: &mut Bench<_>, user: Option<&str>| {
        let body = bench.body("", vec![pay(1, 1)]);
        let transaction = sign(Body { user: user.map(str::to_owned), ..body }, 50);
        bench.order(transaction)
    };
    let register = |exclusive| Operation::Register { user: "ada".into(), key: secret(50).public(), exclusive };
    assert!(denied(own(&mut bench, None)), "an unknown key");
    assert!(denied(bench.run("bob", vec![register(false)])));
    assert_eq!(bench.run("ada", vec![register(false)]), Outcome::Applied);
    assert_eq!(own(&mut bench, None), Outcome::Applied);
    assert_eq!(own(&mut bench, Some("ada")), Outcome::Applied);
    assert!(denied(own(&mut bench, Some("root"))), "a user's key speaks for nobody else");
    assert_eq!(bench.run("ada", vec![pay(1, 1)]), Outcome::Applied, "a validator still signs for her");
    assert!(denied(bench.run("ada", vec![register(true)])), "a key is registered once");
    let revoke = Operation::Revoke { key: secret(50).public() };
    assert!(denied(bench.run("bob", vec![revoke.clone()])));
    assert_eq!(bench.run("ada", vec![revoke]), Outcome::Applied);
    assert!(denied(own(&mut bench, None)));
    // Alone: no validator signs for her any more.
    assert_eq!(bench.run("ada", vec![register(true)]), Outcome::Applied);
    assert!(denied(bench.run("ada", vec![pay(1, 1)])));
    assert_eq!(own(&mut bench, None), Outcome::Applied);
    let validators_key = Operation::Register { user: "root".into(), key: secret(2).public(), exclusive: false };
    assert!(denied(bench.run("root", vec![validators_key])));
}

#[test]
fn a_former_validator_signs_for_nobody() {
    let mut bench = Bench::with_tables();
    let body = bench.body("root", vec![]);
    let stranger = sign(body, 9);
    assert!(matches!(bench.order(stranger), Outcome::Refused(Refusal::Denied(_))));
}

fn approve(bench: &mut Bench<Memory>, by: u8, change: &ValidatorChange) -> Outcome {
    let body = bench.body("", vec![Operation::Approve(change.clone())]);
    let transaction = sign(Body { user: None, ..body }, by);
    bench.order(transaction)
}

#[test]
fn validators_change_two_heights_after_more_than_two_thirds_approve() {
    let mut bench = Bench::with_tables();
    let change = ValidatorChange { node: NodeId(5), key: secret(5).public(), power: 2 };
    let in_name_of_a_user = bench.run("root", vec![Operation::Approve(change.clone())]);
    assert!(matches!(in_name_of_a_user, Outcome::Refused(Refusal::Denied(_))));
    assert!(matches!(approve(&mut bench, 9, &change), Outcome::Refused(Refusal::Denied(_))));
    for by in [1, 2, 2] {
        assert_eq!(approve(&mut bench, by, &change), Outcome::Applied);
    }
    let sets = |bench: &Bench<Memory>| bench.ledger.reader().validators().unwrap();
    assert_eq!(sets(&bench).len(), 1, "two of four are not enough, however often they say so");
    assert_eq!(approve(&mut bench, 3, &change), Outcome::Applied);
    let height = bench.ledger.reader().height().unwrap();
    let (from, newest) = sets(&bench).pop_last().unwrap();
    assert_eq!((from, newest.total_power()), (Height(height.0 + 2), 6));
    bench.run("root", vec![]);
    let header = bench.ledger.reader().journal(height.next()).unwrap().header;
    assert_eq!(header.next_validators, newest.hash());
    assert_ne!(header.validators, newest.hash());
    // With 2 of 6 the new one counts twice; 1 and 2 and it are more than two thirds no more.
    let remove = ValidatorChange { node: NodeId(4), key: secret(4).public(), power: 0 };
    for by in [1, 2, 5] {
        assert_eq!(approve(&mut bench, by, &remove), Outcome::Applied);
    }
    assert_eq!(sets(&bench).len(), 2, "4 of 6 is not more than two thirds");
    assert_eq!(approve(&mut bench, 4, &remove), Outcome::Applied);
    assert_eq!(sets(&bench).len(), 3);
    let same = ValidatorChange { node: NodeId(5), key: secret(5).public(), power: 2 };
    assert_eq!(approve(&mut bench, 1, &same), Outcome::Refused(Refusal::Unchanged));
    let twice = ValidatorChange { node: NodeId(6), key: secret(5).public(), power: 2 };
    assert!(matches!(approve(&mut bench, 1, &twice), Outcome::Refused(Refusal::Malformed(_))), "one key, two votes");
}

#[test]
fn rows_of_a_dropped_table_go_block_by_block() {
    let mut bench = Bench::with_tables();
    let refused_while_referred_to = bench.run("root", vec![Operation::Drop { storage: accounts() }]);
    assert!(matches!(refused_while_referred_to, Outcome::Refused(Refusal::Malformed(_))));
    for part in 0..4 {
        let some = (part * 100..part * 100 + 100).map(|id| open_account(id, Some(&format!("u{id}")), 1)).collect();
        assert_eq!(bench.run("root", some), Outcome::Applied);
    }
    assert_eq!(bench.run("root", vec![Operation::Drop { storage: orders() }]), Outcome::Applied);
    assert_eq!(bench.run("root", vec![Operation::Drop { storage: accounts() }]), Outcome::Applied);
    let gone = |bench: &Bench<Memory>, id| bench.ledger.reader().get(&row_key(accounts(), id), None).unwrap().is_none();
    assert!(gone(&bench, 0) && !gone(&bench, 399), "256 a block");
    assert_eq!(refused(bench.run("root", vec![pay(399, 1)])), Refusal::NoTable(accounts()));
    bench.run("root", vec![]);
    assert!((0..400).all(|id| gone(&bench, id)));
    let again = bench.run("root", vec![define(accounts(), &accounts_definition())]);
    assert!(matches!(again, Outcome::Refused(Refusal::Malformed(_))), "a storage is used once");
    let entry = Key::from(polity_base::Guarantee::Byzantine.storage(21).0.to_be_bytes().to_vec());
    for _ in 0..4 {
        bench.run("root", vec![]);
    }
    let mut left = 0;
    let view =
        crate::ledger::storage::Views::now(crate::ledger::storage::Storage::views(&bench.ledger.storage)).unwrap();
    let count = &mut |_: &[u8], _: &[u8]| {
        left += 1;
        std::ops::ControlFlow::Continue(())
    };
    crate::ledger::storage::View::scan(&view, &entry.prefix_span(), count).unwrap();
    assert_eq!(left, 0, "entries of its indexes go too");
}

#[test]
fn a_table_that_changes_holds_rows_to_its_new_rules() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, None, 10), open_account(2, None, 10)]);
    let mut stricter = accounts_definition();
    stricter.checks.push(Comparisons::at_least("rich", ColumnId(2), 10));
    assert_eq!(bench.run("root", vec![define(accounts(), &stricter)]), Outcome::Applied);
    assert_eq!(refused(bench.run("root", vec![pay(1, -1)])), Refusal::Check("rich".into()));
    let mut poor = stricter.clone();
    poor.checks.push(Comparisons::at_least("richer", ColumnId(2), 11));
    assert_eq!(refused(bench.run("root", vec![define(accounts(), &poor)])), Refusal::Check("richer".into()));
    // An index over rows that are there, which it would hold apart.
    let mut indexed = stricter.clone();
    let storage = polity_base::Guarantee::Byzantine.storage(22);
    let columns = vec![(ColumnId(2), polity_base::key::Direction::Descending)];
    indexed.indexes.push(crate::ledger::rules::Index { name: "by_balance".into(), storage, unique: true, columns });
    assert_eq!(refused(bench.run("root", vec![define(accounts(), &indexed)])), Refusal::Duplicate("by_balance".into()));
    bench.run("root", vec![pay(1, 1)]);
    assert_eq!(bench.run("root", vec![define(accounts(), &indexed)]), Outcome::Applied);
    assert_eq!(refused(bench.run("root", vec![pay(2, 1)])), Refusal::Duplicate("by_balance".into()));
    let mut rekeyed = indexed.clone();
    rekeyed.key = vec![ColumnId(2)];
    assert!(matches!(refused(bench.run("root", vec![define(accounts(), &rekeyed)])), Refusal::Malformed(_)));
    // More rows than one transaction may go through.
    let many = (100..200).map(|id| open_account(id, None, id)).collect();
    assert_eq!(bench.run("root", many), Outcome::Applied);
    let mut more = indexed;
    more.checks.pop();
    more.checks.push(Comparisons::at_least("other", ColumnId(2), 1));
    assert!(matches!(refused(bench.run("root", vec![define(accounts(), &more)])), Refusal::TooMuch(_)));
}
