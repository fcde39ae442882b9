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
use crate::system::functions;

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

/// An array as PostgreSQL writes `int2vector` and `oidvector`: its numbers with blanks
/// between.
pub fn vector(bound: &Bound, to: &Type) -> Result<Bound> {
    let expr = Kernel::strict(
        format!("vector of {}", crate::catalog::types::internal_name(&bound.r#type)),
        DataType::Utf8View,
        |a, out| {
            let written = |value: &Value| match value {
                Value::Int2(n) => n.to_string(),
                Value::Oid(n) => n.to_string(),
                _ => String::new(),
            };
            let numbers: Vec<String> = a.list(0)?.iter().map(written).collect();
            out.text(&numbers.join(" "))
        },
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

/// Functions that the catalog names where PostgreSQL has `regproc`, with PostgreSQL's identifiers.
const FUNCTIONS: [(u32, &str); 3] = [(3, "heap_tableam_handler"), (330, "bthandler"), (750, "array_in")];

/// What identifier `oid` stands for, or the number itself.
pub fn name(catalog: &Catalog, names: Names, oid: u32) -> String {
    let number = || oid.to_string();
    match names {
        _ if oid == 0 => "-".to_owned(),
        Names::Relation => functions::regclass_name(catalog, oid),
        Names::Type => Type::from_oid(oid).map_or_else(number, |t| t.to_string()),
        Names::Schema => functions::regnamespace_name(oid),
        Names::Vector => number(),
        Names::Role => catalog.roles.values().find(|r| r.id.0 == oid).map_or_else(number, |r| r.name.clone()),
        Names::Function => FUNCTIONS.iter().find(|f| f.0 == oid).map_or_else(number, |f| f.1.to_owned()),
    }
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
    match names {
        Names::Relation => functions::regclass(catalog, text),
        Names::Type => match pseudo_type(text.strip_prefix("pg_catalog.").unwrap_or(text)) {
            Some(oid) => Ok(oid),
            None => type_named(text).map(|t| t.oid()),
        },
        Names::Schema => functions::regnamespace(text),
        Names::Role => functions::regrole(catalog, text),
        Names::Vector => Err(Error::internal("a vector has no name")),
        Names::Function => {
            let known = FUNCTIONS.iter().find(|f| f.1 == text.strip_prefix("pg_catalog.").unwrap_or(text));
            known
                .map(|f| f.0)
                .ok_or_else(|| Error::new(Condition::UndefinedFunction, format!("function \"{text}\" does not exist")))
        }
    }
}

/// Types that nothing has, but which clients compare the types of functions with.
fn pseudo_type(name: &str) -> Option<u32> {
    Some(match name {
        "record" => 2249,
        "cstring" => 2275,
        "trigger" => 2279,
        "event_trigger" => 3838,
        "internal" => 2281,
        _ => return None,
    })
}

/// The type a text names, as in `'int[]'::regtype`.
pub fn type_named(text: &str) -> Result<Type> {
    let parsed = crate::ddl::dialect::read_text(text, |parser| parser.parse_data_type());
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
