//! Functions about the session and the catalog.

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::Volatility;
use polity_base::{Type, Value};
use std::sync::Arc;

use super::kernel::{Eval, Kernel};
use crate::error::{Condition, Error, Result};
use crate::query::bind::Binder;
use crate::query::bind::bound::{Bound, Form, Names};
use crate::query::bind::coerce;

/// A call of a function that looks at the session or the catalog; `None` when
/// there is none of this name.
pub fn call(binder: &Binder<'_>, name: &str, args: &[Bound]) -> Result<Option<Bound>> {
    let input = binder.input();
    let text = |s: String| coerce::literal(&Value::Text(s), &Type::Text).map(Some);
    let named = |s: &str| coerce::literal(&Value::Text(s.to_owned()), &Type::Name).map(Some);
    match (name, args) {
        ("current_database" | "current_catalog", []) => named(&input.catalog.database),
        ("current_schema", []) if !input.settings.looks_in_public() => {
            coerce::literal(&Value::Null, &Type::Name).map(Some)
        }
        ("current_schema", []) => named(crate::catalog::name::PUBLIC),
        ("current_user" | "session_user" | "user" | "current_role", []) => named(&input.user),
        ("current_schemas", [implicit]) => {
            let with_implicit =
                matches!(binder.implicit(implicit.clone(), &Type::Bool)?.constant(), Some(Value::Bool(true)));
            let implicit = with_implicit.then_some("pg_catalog");
            let own = input.settings.looks_in_public().then_some(crate::catalog::name::PUBLIC);
            let names = Value::Array(implicit.into_iter().chain(own).map(|n| Value::Text(n.to_owned())).collect());
            coerce::literal(&names, &Type::Array(Box::new(Type::Name))).map(Some)
        }
        ("pg_typeof", [arg]) => {
            let r#type = if arg.is_open() { Type::Unknown } else { crate::expr::cast::without_modifier(&arg.r#type) };
            let bound = coerce::literal(&Value::Oid(r#type.oid()), &Type::Oid)?;
            Ok(Some(Bound { r#type: Type::Regclass, names: Names::Type, form: Form::Plain, ..bound }))
        }
        ("current_setting", [name] | [name, _]) if is_constant(name) => {
            setting(binder, name, args.len() == 2).map(Some)
        }
        ("gen_random_uuid" | "uuid_generate_v4", []) => {
            let eval = Eval::Row(Arc::new(|_, o| o.value(&Value::Uuid(super::random::uuid()))), true);
            let data = DataType::FixedSizeBinary(16);
            let expr = Kernel::call("gen_random_uuid", data, Volatility::Volatile, eval, Vec::new());
            Ok(Some(Bound::new(expr, Type::Uuid)))
        }
        ("pg_backend_pid", []) => Ok(Some(binder.session_number())),
        ("version", []) => text(crate::query::system::version()),
        ("nextval" | "currval" | "lastval" | "setval", _) => super::sequence::call(binder, name, args),
        _ => crate::query::system::call(binder, name, args),
    }
}

fn is_constant(name: &Bound) -> bool {
    matches!(name.form, Form::Text(_)) || matches!(name.constant(), Some(Value::Text(_)))
}

fn setting(binder: &Binder<'_>, name: &Bound, lenient: bool) -> Result<Bound> {
    let settings = &binder.input().settings;
    let constant = match &name.form {
        Form::Text(text) => text.clone(),
        _ => match name.constant() {
            Some(Value::Text(text)) => text.clone(),
            _ => return Err(Error::unsupported("current_setting of a name that is not a constant")),
        },
    };
    match settings.show(&constant) {
        Some(value) => coerce::literal(&Value::Text(value.to_owned()), &Type::Text),
        None if lenient => coerce::null(&Type::Text),
        None => {
            Err(Error::new(Condition::UndefinedObject, format!("unrecognized configuration parameter \"{constant}\"")))
        }
    }
}
