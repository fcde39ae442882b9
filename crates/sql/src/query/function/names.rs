//! Object identifiers and the names they stand for: `regclass`, `regtype` and
//! their kin.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::Volatility;
use polity_base::{Type, Value};

use super::kernel::{Eval, Kernel};
use crate::catalog::Catalog;
use crate::error::{Condition, Error, Result};
use crate::query::PlanInput;
use crate::query::bind::bound::{Bound, Names};

/// The text of identifiers that name something.
pub fn shown(bound: &Bound, to: &Type, input: &PlanInput) -> Result<Bound> {
    let (catalog, names) = (input.catalog.clone(), bound.names);
    let expr = Kernel::call(
        format!("name_of_{names:?}"),
        DataType::Utf8View,
        Volatility::Stable,
        Eval::Row(
            Arc::new(move |a, out| {
                let oid = u32::try_from(a.int(0)?).unwrap_or(0);
                out.text(&name(&catalog, names, oid))
            }),
            true,
        ),
        vec![bound.expr.clone()],
    );
    Ok(Bound::new(expr, to.clone()))
}

/// The identifiers of names.
pub fn found(bound: &Bound, names: Names, input: &PlanInput) -> Result<Bound> {
    let catalog = input.catalog.clone();
    let expr = Kernel::call(
        format!("find_{names:?}"),
        DataType::UInt32,
        Volatility::Stable,
        Eval::Row(
            Arc::new(move |a, out| {
                let text = a.text(0)?;
                out.value(&Value::Oid(find(&catalog, names, text)?))
            }),
            true,
        ),
        vec![bound.expr.clone()],
    );
    Ok(Bound { names, ..Bound::new(expr, Type::Regclass) })
}

/// What identifier `oid` stands for, or the number itself.
pub fn name(catalog: &Catalog, names: Names, oid: u32) -> String {
    if oid == 0 {
        return "-".to_owned();
    }
    let found = match names {
        Names::Relation => crate::query::system::relation_name(catalog, oid),
        Names::Type => Type::from_oid(oid).map(|t| t.to_string()),
        Names::Schema => crate::query::system::schema_name(oid).map(str::to_owned),
        Names::Role => catalog.roles.values().find(|r| r.id.0 == oid).map(|r| r.name.clone()),
        Names::Function => crate::query::system::function_name(oid),
    };
    found.unwrap_or_else(|| oid.to_string())
}

/// The identifier of what is called `text`.
pub fn find(catalog: &Catalog, names: Names, text: &str) -> Result<u32> {
    let text = text.trim();
    if let Ok(oid) = text.parse::<u32>() {
        return Ok(oid);
    }
    if text == "-" {
        return Ok(0);
    }
    let missing = |what: &str, condition| Error::new(condition, format!("{what} \"{text}\" does not exist"));
    match names {
        Names::Relation => crate::query::system::relation_oid(catalog, text)
            .ok_or_else(|| missing("relation", Condition::UndefinedTable)),
        Names::Type => type_named(text).map(|t| t.oid()),
        Names::Schema => crate::query::system::schema_oid(&unquoted(text))
            .ok_or_else(|| missing("schema", Condition::InvalidSchemaName)),
        Names::Role => catalog
            .roles
            .get(&unquoted(text))
            .map(|r| r.id.0)
            .ok_or_else(|| missing("role", Condition::UndefinedObject)),
        Names::Function => {
            crate::query::system::function_oid(text).ok_or_else(|| missing("function", Condition::UndefinedFunction))
        }
    }
}

/// The type a text names, as in `'int[]'::regtype`.
pub fn type_named(text: &str) -> Result<Type> {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(text).and_then(|mut p| p.parse_data_type());
    let parsed =
        parsed.map_err(|_| Error::new(Condition::UndefinedObject, format!("type \"{text}\" does not exist")))?;
    crate::catalog::types::data_type(&parsed)
}

/// An identifier in a text, folded or unquoted.
pub fn unquoted(text: &str) -> String {
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => text.to_ascii_lowercase(),
    }
}
