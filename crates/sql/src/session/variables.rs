//! SET, SHOW, RESET, DISCARD, and prepared statements by SQL.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    ContextModifier, DiscardObject, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, ObjectNamePart,
    Query, Reset, SelectItem, Set, SetExpr, Statement, UnaryOperator, Value as Literal,
};
use futures::future::BoxFuture;
use polity_base::{Type, Value};

use super::eventual::CAUSAL_TOKEN;
use super::prepared::Prepared;
use super::{Column, Response, RowStream, Session, Settings, Verb, no_statement};
use crate::catalog::{name, types};
use crate::error::{Condition, Error, Result};
use crate::expr::{Local, cast};

impl Session {
    /// Runs `statement` if it is about settings or prepared statements.
    pub(super) async fn variables(&mut self, statement: &Statement) -> Result<Option<Response>> {
        let tag = match statement {
            Statement::Set(set) => {
                self.set(set).await?;
                "SET"
            }
            Statement::Reset(reset) => {
                match &reset.reset {
                    Reset::ALL => self.settings.reset_all(),
                    Reset::ConfigurationParameter(name) => self.settings.set(&dotted(name), None, false)?,
                }
                "RESET"
            }
            Statement::ShowVariable { variable } => return self.show(&words(variable)).map(Some),
            Statement::Discard { object_type } => match object_type {
                DiscardObject::ALL => {
                    if self.active.is_some() {
                        return Err(Error::new(
                            Condition::ActiveSqlTransaction,
                            "DISCARD ALL cannot run inside a transaction block",
                        ));
                    }
                    self.settings.reset_all();
                    self.statements.clear();
                    self.sequences = Default::default();
                    "DISCARD ALL"
                }
                DiscardObject::PLANS => "DISCARD PLANS",
                DiscardObject::SEQUENCES => {
                    self.sequences = Default::default();
                    "DISCARD SEQUENCES"
                }
                DiscardObject::TEMP => "DISCARD TEMP",
            },
            Statement::Prepare { name, data_types, statement } => {
                let declared = data_types.iter().map(|t| types::data_type(t).map(Some)).collect::<Result<Vec<_>>>()?;
                let prepared = Prepared::new(statement.to_string(), Some((**statement).clone()), declared);
                self.store_statement(&name::fold(name), Arc::new(prepared))?;
                "PREPARE"
            }
            Statement::Deallocate { name, .. }
                if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all") =>
            {
                self.statements.clear();
                "DEALLOCATE ALL"
            }
            Statement::Deallocate { name, .. } => {
                let name = name::fold(name);
                if !self.drop_statement(&name) {
                    return Err(no_statement(&name));
                }
                "DEALLOCATE"
            }
            Statement::Query(query) => return self.set_config(query),
            _ => return Ok(None),
        };
        Ok(Some(Response::Complete(tag.to_owned())))
    }

    /// The columns of what [`Session::variables`] answers; outer `None` when the
    /// statement is not one of those.
    pub(super) fn describe_variables(&self, statement: &Statement) -> Option<Option<Arc<[Column]>>> {
        match statement {
            Statement::ShowVariable { variable } => Some(Some(show_columns(&words(variable)))),
            Statement::Query(query) => match set_config_call(query) {
                Some(_) => Some(Some(text_columns(&["set_config"]))),
                None => super::sequences::columns(query).map(Some),
            },
            Statement::Set(_)
            | Statement::Reset(_)
            | Statement::Discard { .. }
            | Statement::Prepare { .. }
            | Statement::Deallocate { .. }
            | Statement::StartTransaction { .. }
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint { .. }
            | Statement::ReleaseSavepoint { .. } => Some(None),
            _ => None,
        }
    }

    async fn set(&mut self, set: &Set) -> Result<()> {
        match set {
            Set::SingleAssignment { hivevar: false, variable, values, .. }
                if dotted(variable).eq_ignore_ascii_case(CAUSAL_TOKEN) =>
            {
                let token = values.iter().map(word).collect::<Option<Vec<_>>>().unwrap_or_default().concat();
                self.wait_for_token(&token).await
            }
            Set::SingleAssignment { scope, hivevar: false, variable, values } => {
                let local = match scope {
                    Some(ContextModifier::Local) => true,
                    Some(ContextModifier::Global) => return Err(Error::unsupported("SET GLOBAL")),
                    Some(ContextModifier::Session) | None => false,
                };
                let name = dotted(variable);
                if local && self.active.is_none() {
                    self.warn("25P01", "SET LOCAL can only be used in transaction blocks");
                }
                self.assign(&name, values, local)
            }
            Set::SetTimeZone { local, value } => self.assign("TimeZone", std::slice::from_ref(value), *local),
            Set::SetNames { charset_name, collation_name: None } => {
                self.settings.set("client_encoding", Some(&charset_name.value), false)
            }
            Set::SetTransaction { modes, snapshot: None, session: false } => self.set_transaction_modes(modes).await,
            Set::SetTransaction { modes, snapshot: None, session: true } => self.set_session_characteristics(modes),
            Set::SetTransaction { .. } => Err(Error::unsupported("SET TRANSACTION SNAPSHOT")),
            Set::SetRole { role_name: None, .. } => Ok(()),
            Set::SetRole { .. } => Err(Error::unsupported("SET ROLE")),
            Set::SetSessionAuthorization(_) => Err(Error::unsupported("SET SESSION AUTHORIZATION")),
            _ => Err(Error::unsupported("this form of SET")),
        }
    }

    fn assign(&mut self, name: &str, values: &[Expr], local: bool) -> Result<()> {
        if name.eq_ignore_ascii_case("transaction_isolation") && self.active.as_ref().is_some_and(|a| a.used) {
            return Err(Error::new(
                Condition::ActiveSqlTransaction,
                "SET TRANSACTION ISOLATION LEVEL must be called before any query",
            ));
        }
        let words = values.iter().map(word).collect::<Option<Vec<_>>>().ok_or_else(|| {
            Error::new(Condition::SyntaxError, format!("the value of parameter \"{name}\" is not a constant"))
        })?;
        let value = words.join(", ");
        let is_default = values.len() == 1
            && matches!(&values[0], Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"));
        self.settings.set(name, (!is_default).then_some(value.as_str()), local)
    }

    fn show(&self, name: &str) -> Result<Response> {
        let columns = show_columns(name);
        let rows = if name.eq_ignore_ascii_case("all") {
            let text = |s: &str| Value::Text(s.to_owned());
            self.settings.all().map(|(name, value, about)| vec![text(name), text(value), text(about)]).collect()
        } else {
            vec![vec![Value::Text(self.shown(name)?)]]
        };
        Ok(Response::Rows(RowStream::ready(columns, Verb::Show, rows)))
    }

    fn shown(&self, name: &str) -> Result<String> {
        if name.eq_ignore_ascii_case(CAUSAL_TOKEN) {
            return self.causal_token();
        }
        let value = self.settings.show(name).ok_or_else(|| {
            Error::new(Condition::UndefinedObject, format!("unrecognized configuration parameter \"{name}\""))
                .hint("SHOW ALL lists the settings there are.")
        })?;
        Ok(match self.settings.duration(name) {
            Some(d) if name.ends_with("timeout") && d.as_millis() % 60_000 == 0 => format!("{}min", d.as_secs() / 60),
            Some(d) if name.ends_with("timeout") && d.as_millis() % 1_000 == 0 => format!("{}s", d.as_secs()),
            Some(d) if name.ends_with("timeout") => format!("{}ms", d.as_millis()),
            _ => value.to_owned(),
        })
    }

    /// `SELECT set_config(name, value, is_local)` changes the session and so is
    /// not for the planner.
    fn set_config(&mut self, query: &Query) -> Result<Option<Response>> {
        let Some((name, value, local)) = set_config_call(query) else { return Ok(None) };
        self.settings.set(&name, Some(&value), local)?;
        let shown = self.settings.show(&name).unwrap_or_default().to_owned();
        let rows = vec![vec![Value::Text(shown)]];
        Ok(Some(Response::Rows(RowStream::ready(text_columns(&["set_config"]), Verb::Select, rows))))
    }

    /// The statement that EXECUTE names, and the values it gives. (A function that is not
    /// async of its own keeps what it makes out of its callers' stacks.)
    pub(super) fn named_execution<'a>(
        &'a mut self,
        statement: &'a Statement,
    ) -> BoxFuture<'a, Result<(Arc<Prepared>, Vec<Value>)>> {
        Box::pin(self.read_execution(statement))
    }

    fn parameters_of<'a>(&'a mut self, prepared: &'a Arc<Prepared>) -> BoxFuture<'a, Result<Vec<Type>>> {
        Box::pin(async move { Ok(self.describe(prepared).await?.parameters) })
    }

    async fn read_execution(&mut self, statement: &Statement) -> Result<(Arc<Prepared>, Vec<Value>)> {
        let Statement::Execute { name: Some(name), parameters, immediate: false, into, using, .. } = statement else {
            return Err(Error::unsupported("this form of EXECUTE"));
        };
        if !into.is_empty() || !using.is_empty() {
            return Err(Error::unsupported("EXECUTE … INTO or USING"));
        }
        let [ObjectNamePart::Identifier(name)] = name.0.as_slice() else {
            return Err(Error::new(Condition::SyntaxError, format!("\"{name}\" does not name a prepared statement")));
        };
        let prepared = self.statement(&name::fold(name))?;
        let prepared = prepared.clone();
        let values = parameters
            .iter()
            .map(|e| literal(e).ok_or_else(|| Error::unsupported("EXECUTE with parameters that are not constants")))
            .collect::<Result<Vec<_>>>()?;
        if values.is_empty() {
            return Ok((prepared, values));
        }
        let types = self.parameters_of(&prepared).await?;
        if types.len() != values.len() {
            return Err(Error::new(
                Condition::SyntaxError,
                format!("wrong number of parameters for prepared statement \"{}\"", name.value),
            )
            .detail(format!("Expected {} parameters but got {}.", types.len(), values.len())));
        }
        let began = self.engine.clock().reading().midpoint().unix_micros();
        let local = Local { zone: self.settings.show("TimeZone").unwrap_or("UTC"), now: began };
        let typed = values.into_iter().zip(&types).map(|(value, r#type)| cast::convert(value, r#type, false, local));
        Ok((prepared, typed.collect::<Result<_>>()?))
    }
}

fn text_columns(names: &[&str]) -> Arc<[Column]> {
    names.iter().map(|n| Column { name: (*n).to_owned(), r#type: Type::Text, source: None }).collect()
}

fn show_columns(name: &str) -> Arc<[Column]> {
    if name.eq_ignore_ascii_case("all") {
        return text_columns(&["name", "setting", "description"]);
    }
    // PostgreSQL labels the column with the setting's own spelling.
    let spelled = Settings::spelling(name).unwrap_or(name);
    text_columns(&[spelled])
}

/// `SHOW transaction isolation level` and `SHOW time zone` are two spellings of
/// settings.
fn words(variable: &[datafusion::sql::sqlparser::ast::Ident]) -> String {
    let words: Vec<String> = variable.iter().map(|i| i.value.clone()).collect();
    match words.join(" ").to_ascii_lowercase().as_str() {
        "transaction isolation level" => "transaction_isolation".to_owned(),
        "time zone" => "TimeZone".to_owned(),
        "session authorization" => "session_authorization".to_owned(),
        _ => words.join("."),
    }
}

pub(super) fn dotted(name: &ObjectName) -> String {
    let parts = name.0.iter().map(|part| match part {
        ObjectNamePart::Identifier(i) => i.value.clone(),
        other => other.to_string(),
    });
    parts.collect::<Vec<_>>().join(".")
}

/// A setting's value as it is written: a word, a string, a number.
fn word(value: &Expr) -> Option<String> {
    match value {
        Expr::Identifier(i) => Some(i.value.clone()),
        Expr::CompoundIdentifier(parts) => Some(parts.iter().map(|p| p.value.as_str()).collect::<Vec<_>>().join(".")),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Some(format!("-{}", word(expr)?)),
        Expr::Value(v) => match &v.value {
            Literal::Number(n, _) => Some(n.clone()),
            Literal::SingleQuotedString(s) | Literal::EscapedStringLiteral(s) | Literal::DoubleQuotedString(s) => {
                Some(s.clone())
            }
            Literal::Boolean(b) => Some(if *b { "on" } else { "off" }.to_owned()),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn literal(value: &Expr) -> Option<Value> {
    match value {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal(expr)? {
            Value::Int4(v) => Some(Value::Int4(-v)),
            Value::Int8(v) => Some(Value::Int8(-v)),
            Value::Numeric(v) => polity_base::Decimal::new(-v.mantissa(), v.scale()).map(Value::Numeric),
            _ => None,
        },
        Expr::Value(v) => match &v.value {
            Literal::Null => Some(Value::Null),
            Literal::Boolean(b) => Some(Value::Bool(*b)),
            Literal::SingleQuotedString(s) | Literal::EscapedStringLiteral(s) => Some(Value::Text(s.clone())),
            Literal::Number(n, _) => match n.parse::<i64>() {
                Ok(v) => Some(i32::try_from(v).map_or(Value::Int8(v), Value::Int4)),
                Err(_) => n.parse().ok().map(Value::Numeric),
            },
            _ => None,
        },
        _ => None,
    }
}

fn set_config_call(query: &Query) -> Option<(String, String, bool)> {
    let SetExpr::Select(select) = &*query.body else { return None };
    if !select.from.is_empty() || select.projection.len() != 1 || query.with.is_some() {
        return None;
    }
    let SelectItem::UnnamedExpr(Expr::Function(call)) = &select.projection[0] else { return None };
    let name = dotted(&call.name).to_ascii_lowercase();
    if name != "set_config" && name != "pg_catalog.set_config" {
        return None;
    }
    let FunctionArguments::List(list) = &call.args else { return None };
    let mut values = list.args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => literal(e),
        _ => None,
    });
    let (Value::Text(name), Value::Text(value), Value::Bool(local)) =
        (values.next()??, values.next()??, values.next()??)
    else {
        return None;
    };
    values.next().is_none().then_some((name, value, local))
}
