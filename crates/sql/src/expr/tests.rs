//! What PostgreSQL 15 says to a thousand expressions: `golden.txt` holds each
//! with its type and value, or its error.

use polity_base::{Type, Value};

use super::{Env, Local, Parameters, Scope, cast, compile};
use crate::catalog::Catalog;
use crate::ddl::dialect;
use crate::error::Error;

/// Expressions that PostgreSQL computes and we leave to the general path.
const LEFT_OUT: usize = 60;

fn shown(value: &Value, r#type: &Type) -> String {
    match value {
        Value::Null => "\\N".to_owned(),
        value => cast::write(value, r#type, Local::UTC),
    }
}

fn outcome(text: &str) -> Option<Result<(String, String), Error>> {
    let ast = dialect::read_text(text, |parser| parser.parse_expr()).ok()?;
    let (catalog, mut parameters) = (Catalog::default(), Parameters::default());
    let mut scope = Scope::new(&catalog, &mut parameters);
    let expr = compile(&ast, &mut scope)?;
    let entropy = polity_txn::testing::seams().entropy;
    let env = Env { columns: &[], parameters: &[], local: Local::UTC, entropy: entropy.as_ref(), drawn: &[] };
    // pg_typeof tells no modifiers.
    let name = match &expr.r#type {
        Type::Char(_) => "character".to_owned(),
        t => cast::without_modifier(t).to_string(),
    };
    Some(expr.eval(&env).map(|v| (name, shown(&v, &expr.r#type))))
}

#[test]
fn expressions_mean_what_they_mean_in_postgresql() {
    let mut wrong = Vec::new();
    let mut left_out = Vec::new();
    let mut lines = 0;
    for line in include_str!("golden.txt").lines() {
        lines += 1;
        let mut parts = line.splitn(3, '\t');
        let (Some(text), Some(first), Some(second)) = (parts.next(), parts.next(), parts.next()) else {
            panic!("not a line of golden.txt: {line}");
        };
        match (outcome(text), first.strip_prefix('!')) {
            // Whatever is wrong in itself is for the general path to say.
            (None, Some(_)) => {}
            (None, None) => left_out.push(text),
            (Some(Ok((r#type, value))), None) if r#type == first && value == second => {}
            (Some(Err(e)), Some(code)) if e.condition().code() == code && e.message() == second => {}
            (got, _) => wrong.push(format!("{text}\n  PostgreSQL: {first} {second}\n  here: {got:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {lines} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(left_out.len() <= LEFT_OUT, "{} are not covered: {left_out:#?}", left_out.len());
}

#[test]
fn parameters_take_their_types_from_where_they_stand() {
    let types = |text: &str| {
        let ast = dialect::read_text(text, |parser| parser.parse_expr()).unwrap();
        let (catalog, mut parameters) = (Catalog::default(), Parameters::default());
        let mut scope = Scope::new(&catalog, &mut parameters);
        compile(&ast, &mut scope).map(|e| (e.r#type.clone(), parameters.known()))
    };
    assert_eq!(types("1 + $1"), Some((Type::Int4, Some(vec![Type::Int4]))));
    assert_eq!(types("$1 || 'x'::text"), Some((Type::Text, Some(vec![Type::Text]))));
    assert_eq!(types("$2::int8 = $1"), Some((Type::Bool, Some(vec![Type::Int8, Type::Int8]))));
    assert_eq!(types("$1"), Some((Type::Text, Some(vec![Type::Text]))));
    assert_eq!(types("$1 + $2"), None);
    assert_eq!(types("coalesce($1, 2.5)"), Some((Type::Numeric(None), Some(vec![Type::Numeric(None)]))));
}
