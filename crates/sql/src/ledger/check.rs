//! CHECK constraints, as every validator judges them alike.
//!
//! What one node computes all must compute, on other machines and by later versions of
//! this program. So a condition is taken only if it is made of what has one meaning:
//! comparisons and arithmetic of whole and exact numbers, text by code point, dates,
//! times, uuids, truth values, CASE, COALESCE, IN, LIKE. No floats, no clock, no
//! randomness, no time zone, and no upper and lower case, which follow tables that grow
//! with Unicode.
//!
//! A condition is carried as it is written, with the slots of columns for their names (so
//! that renaming a column changes nothing), after the types of those columns:
//!
//! ```text
//! 1  length type*   text: "c3" >= 0      a condition
//! 2  length type                         a column that holds what its type says: varchar(20)
//! ```
//! where a type is the slot and the type, in postcard's encoding.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::sql::sqlparser::ast::{Expr as Ast, Ident, visit_expressions_mut};
use parking_lot::RwLock;
use polity_base::seams::Entropy;
use polity_base::{Type, Value};
use polity_txn::byzantine::bft::ledger::rules::{Check, Definition, RowRules};

use crate::catalog::{Catalog, Column, Table, name};
use crate::ddl::expression;
use crate::error::{Condition, Error, Result};
use crate::expr::arithmetic::Kind;
use crate::expr::{self, Env, Expr, Function, Local, Node, Parameters, Scope};

const CONDITION: u8 = 1;
const TYPE: u8 = 2;

/// Compiled conditions that are remembered; beyond that the memory starts afresh.
const MOST: usize = 10_000;

/// Longer conditions are none, in bytes: whoever may define a table may not exhaust the
/// stack of everybody's validators.
const LONGEST: usize = 1_000;

/// The slot of a column and its type.
type Slot = (u16, Type);

/// Judges the checks of byzantine tables.
#[derive(Default)]
pub struct Checks {
    compiled: RwLock<HashMap<Bytes, Arc<Judge>>>,
}

/// A check, ready to be judged.
enum Judge {
    Condition {
        /// The slots of the columns, in the order in which the expression has them
        slots: Vec<usize>,
        expr: Expr,
    },
    Type(usize, Type),
}

/// A check of a table in the ledger's words, if all validators can judge it alike.
pub fn encode(table: &Table, text: &str) -> Result<Bytes> {
    let mut ast = expression::parse(text)?;
    let used: Vec<Slot> = expression::columns(&ast)
        .iter()
        .filter_map(|name| table.column(name))
        .map(|column| (column.id.0, column.r#type.clone()))
        .collect();
    let _ = visit_expressions_mut(&mut ast, |e| {
        if let Ast::Identifier(word) = e
            && let Some(column) = table.column(&name::fold(word))
        {
            *e = Ast::Identifier(Ident::with_quote('"', slot_name(column.id.0)));
        }
        ControlFlow::<()>::Continue(())
    });
    let bytes = bytes_of(CONDITION, &used, &ast.to_string())?;
    read(&bytes).map_err(|why| Error::new(Condition::FeatureNotSupported, why))?;
    Ok(bytes)
}

/// The check that a column holds what its type says, if that is more than what a kind
/// of values says.
pub fn of_type(column: &Column) -> Result<Option<Bytes>> {
    let says_more = matches!(column.r#type, Type::Numeric(Some(_)) | Type::Varchar(Some(_)) | Type::Char(_));
    says_more.then(|| bytes_of(TYPE, &[(column.id.0, column.r#type.clone())], "")).transpose()
}

fn slot_name(slot: u16) -> String {
    format!("c{slot}")
}

fn bytes_of(kind: u8, slots: &[Slot], text: &str) -> Result<Bytes> {
    let types = postcard::to_allocvec(slots).map_err(Error::internal)?;
    let length = u32::try_from(types.len()).map_err(Error::internal)?;
    let mut bytes = vec![kind];
    bytes.extend(length.to_be_bytes());
    bytes.extend(types);
    bytes.extend(text.as_bytes());
    Ok(bytes.into())
}

/// Reads a check, or says why it cannot be judged. What comes in may be anything.
fn read(bytes: &[u8]) -> std::result::Result<Judge, String> {
    let damaged = || "a check that cannot be read".to_owned();
    let (&kind, rest) = bytes.split_first().ok_or_else(damaged)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| damaged())?;
    let (types, text) = rest.split_at_checked(length).ok_or_else(damaged)?;
    let slots: Vec<Slot> = postcard::from_bytes(types).map_err(|_| damaged())?;
    let text = std::str::from_utf8(text).map_err(|_| damaged())?;
    match (kind, slots.as_slice()) {
        (TYPE, [(slot, r#type)]) if text.is_empty() => Ok(Judge::Type(usize::from(*slot), r#type.clone())),
        (CONDITION, _) => compile(&slots, text),
        _ => Err(damaged()),
    }
}

fn compile(slots: &[Slot], text: &str) -> std::result::Result<Judge, String> {
    if text.len() > LONGEST {
        return Err(format!("a condition of more than {LONGEST} characters"));
    }
    let ast = crate::ddl::dialect::read_text(text, |parser| parser.parse_expr());
    let ast = ast.map_err(|_| "a condition that cannot be read".to_owned())?;
    if let Some((_, r#type)) = slots.iter().find(|(_, t)| !has_one_meaning(t)) {
        return Err(format!("a column of type {type} in a CHECK, which not every machine computes alike"));
    }
    let names: Vec<String> = slots.iter().map(|(slot, _)| slot_name(*slot)).collect();
    let columns = names.iter().map(String::as_str).zip(slots.iter().map(|(_, t)| t)).collect();
    let (catalog, mut parameters) = (Catalog::default(), Parameters::default());
    let mut scope = Scope::new(&catalog, &mut parameters);
    scope.add(None, columns);
    let Some(expr) = expr::compile_as(&ast, &Type::Bool, &mut scope).filter(|expr| expr.r#type == Type::Bool) else {
        return Err("an expression that is more than comparisons and arithmetic of columns".to_owned());
    };
    let zoned = slots.iter().any(|(_, t)| *t == Type::TimestampTz);
    same_everywhere(&expr.node, zoned)?;
    Ok(Judge::Condition { slots: slots.iter().map(|(slot, _)| usize::from(*slot)).collect(), expr })
}

fn has_one_meaning(r#type: &Type) -> bool {
    match r#type {
        Type::Float4 | Type::Float8 | Type::Json | Type::Jsonb | Type::Interval => false,
        Type::Array(element) => has_one_meaning(element),
        _ => true,
    }
}

/// Why an expression is not the same wherever and whenever it is computed, if it is not.
fn same_everywhere(node: &Node, zoned: bool) -> std::result::Result<(), String> {
    let why = match node {
        Node::Now | Node::LocalNow | Node::Today => Some("the clock"),
        Node::RandomUuid => Some("randomness"),
        Node::Drawn(_) => Some("a sequence"),
        Node::Parameter(_) => Some("a parameter"),
        Node::Call(Function::Lower | Function::Upper, _) | Node::Like { insensitive: true, .. } => {
            Some("upper and lower case, whose tables grow with Unicode")
        }
        Node::Arithmetic(_, kind, _) | Node::Negate(kind, _) | Node::Call(Function::Abs(kind), _)
            if is_float(*kind) =>
        {
            Some("floating point numbers")
        }
        Node::Constant(Value::Float4(_) | Value::Float8(_)) => Some("floating point numbers"),
        Node::Cast { to, .. } if !has_one_meaning(to) => Some("a type that not every machine computes alike"),
        Node::Cast { to, .. } if zoned || *to == Type::TimestampTz => Some("a time zone"),
        _ => None,
    };
    if let Some(why) = why {
        return Err(format!("an expression that depends on {why}"));
    }
    node.children().into_iter().try_for_each(|child| same_everywhere(child, zoned))
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Float4 | Kind::Float8)
}

impl Checks {
    fn judge(&self, check: &Check) -> std::result::Result<Arc<Judge>, String> {
        if let Some(known) = self.compiled.read().get(&check.expression) {
            return Ok(known.clone());
        }
        let judge = Arc::new(read(&check.expression)?);
        let mut compiled = self.compiled.write();
        if compiled.len() >= MOST {
            compiled.clear();
        }
        compiled.insert(check.expression.clone(), judge.clone());
        Ok(judge)
    }
}

impl RowRules for Checks {
    fn examine(&self, definition: &Definition, check: &Check) -> std::result::Result<(), String> {
        let judge = self.judge(check)?;
        let slots: &[usize] = match &*judge {
            Judge::Condition { slots, .. } => slots,
            Judge::Type(slot, _) => std::slice::from_ref(slot),
        };
        let has = |slot: &usize| definition.columns.iter().any(|column| usize::from(column.id.0) == *slot);
        match slots.iter().find(|slot| !has(slot)) {
            Some(slot) => Err(format!("there is no column {slot}")),
            None => Ok(()),
        }
    }

    fn holds(&self, _: &Definition, check: &Check, row: &[Value]) -> std::result::Result<bool, String> {
        let at = |slot: usize| row.get(slot).cloned().unwrap_or(Value::Null);
        match &*self.judge(check)? {
            Judge::Type(slot, r#type) => Ok(fits(&at(*slot), r#type)),
            Judge::Condition { slots, expr } => {
                let columns: Vec<Value> = slots.iter().map(|slot| at(*slot)).collect();
                let env =
                    Env { columns: &columns, parameters: &[], local: Local::UTC, entropy: &NoEntropy, drawn: &[] };
                // What is said must be the same everywhere, and messages get better by and by.
                expr.is_false(&env).map(|is_false| !is_false).map_err(|e| e.condition().code().to_owned())
            }
        }
    }
}

/// Whether a value is of a type with its modifiers.
fn fits(value: &Value, r#type: &Type) -> bool {
    match (value, r#type) {
        (Value::Text(text), Type::Varchar(Some(most)) | Type::Char(most)) => {
            text.chars().count() <= usize::try_from(*most).unwrap_or(usize::MAX)
        }
        (Value::Numeric(_), Type::Numeric(Some(_))) => {
            let rounded = expr::cast::assign(value.clone(), &Type::Numeric(None), r#type, "");
            rounded.is_ok_and(|rounded| rounded.compare(value).is_some_and(|order| order.is_eq()))
        }
        _ => true,
    }
}

/// Conditions that were examined draw nothing.
struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use polity_base::{ColumnId, IndexId, TableId};

    use super::*;

    fn table(columns: &[(&str, Type)]) -> Table {
        let mut table = Table::new(TableId(20_000), "t", IndexId(0x4000_4e20));
        for (slot, (name, r#type)) in (0u16..).zip(columns) {
            table.columns.push(Column {
                id: ColumnId(slot * 2),
                name: (*name).to_owned(),
                r#type: r#type.clone(),
                not_null: false,
                default: None,
                identity: None,
                merge: Default::default(),
                missing: Value::Null,
                comment: None,
            });
        }
        table
    }

    fn holds(table: &Table, text: &str, row: &[Value]) -> std::result::Result<bool, String> {
        let check =
            Check { name: "c".to_owned(), expression: encode(table, text).map_err(|e| e.message().to_owned())? };
        Checks::default().holds(&Definition::default(), &check, row)
    }

    #[test]
    fn conditions_hold_unless_they_are_false() {
        let t = table(&[("balance", Type::Int8), ("kind", Type::Text)]);
        let row = |balance, kind: &str| [Value::Int8(balance), Value::Null, Value::Text(kind.into())];
        assert_eq!(holds(&t, "balance >= 0 OR kind = 'credit'", &row(-1, "debit")), Ok(false));
        assert_eq!(holds(&t, "balance >= 0 OR kind = 'credit'", &row(-1, "credit")), Ok(true));
        assert_eq!(holds(&t, "balance >= 0", &[Value::Null]), Ok(true), "unknown is not false");
        assert_eq!(holds(&t, "kind IN ('a', 'b') AND length(kind) = 1", &row(0, "c")), Ok(false));
        assert_eq!(holds(&t, "10 / balance > 1", &row(0, "")), Err("22012".to_owned()));
    }

    #[test]
    fn what_not_everybody_computes_alike_is_refused() {
        let t = table(&[("n", Type::Int8), ("f", Type::Float8), ("s", Type::Text), ("at", Type::TimestampTz)]);
        for text in [
            "f > 0",
            "n > 0.5::float8",
            "lower(s) = s",
            "s ILIKE 'a%'",
            "at < now()",
            "at::date > '2020-01-01'",
            "s <> gen_random_uuid()::text",
            "random() < 0.5",
            "n::float8 > 1",
        ] {
            assert!(encode(&t, text).is_err(), "{text}");
        }
        for text in ["n > 0", "n % 2 = 0", "s LIKE 'a%'", "n * 1.5 < 10", "CASE WHEN n > 0 THEN s <> '' ELSE true END"]
        {
            assert!(encode(&t, text).is_ok(), "{text}: {:?}", encode(&t, text));
        }
    }

    #[test]
    fn a_check_does_not_change_with_names() {
        let (a, b) = (table(&[("n", Type::Int8)]), table(&[("\"Odd name", Type::Int8)]));
        assert_eq!(encode(&a, "n > 0").unwrap(), encode(&b, "\"\"\"Odd name\" > 0").unwrap());
    }

    #[test]
    fn types_with_a_length_or_a_scale_are_kept() {
        let numeric = |text: &str| Value::Numeric(text.parse().unwrap());
        let price = Type::Numeric(Some((5, 2)));
        assert!(fits(&numeric("123.45"), &price));
        assert!(!fits(&numeric("1.234"), &price));
        assert!(!fits(&numeric("1234"), &price));
        assert!(fits(&Value::Text("abc".into()), &Type::Varchar(Some(3))));
        assert!(!fits(&Value::Text("abcd".into()), &Type::Varchar(Some(3))));
        assert!(fits(&Value::Null, &price));
    }

    #[test]
    fn no_bytes_make_it_stumble() {
        let whole = encode(&table(&[("n", Type::Int8)]), "n > 0").unwrap();
        for cut in 0..whole.len() {
            let check = Check { name: "c".to_owned(), expression: whole.slice(..cut) };
            let _ = Checks::default().holds(&Definition::default(), &check, &[]);
        }
        for kind in 0..=255u8 {
            let mut other = whole.to_vec();
            other[0] = kind;
            assert_eq!(read(&other).is_ok(), kind == CONDITION);
        }
    }
}
