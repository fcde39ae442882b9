//! What is particular to eventual tables: statements that ask nobody, causal tokens,
//! and what their replica's errors mean.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use datafusion::sql::sqlparser::ast::{
    CopySource, DataType, Expr, ObjectName, Query, Statement, Visit, Visitor, visit_relations,
};
use polity_base::guarantee::Guarantee;
use polity_base::{ColumnId, Key, NodeId, TableId};
use polity_txn::{EventualError, Reach, VersionVector};

use super::prepared::Prepared;
use super::{Engine, Session};
use crate::catalog::{self, Catalog, Table, name};
use crate::error::{Condition, Error, Result};

/// The setting whose value is what the session has seen.
pub(super) const CAUSAL_TOKEN: &str = "polity.causal_token";

/// Where what a statement reads and writes can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// All of it on this node
    Here,
    /// Some of it only by asking the others
    Elsewhere,
    /// The catalog does not know some of it
    Unknown,
}

impl Place {
    fn reach(self) -> Reach {
        if self == Place::Here { Reach::Here } else { Reach::Everywhere }
    }

    /// Of two parts of a statement.
    fn and(self, other: Place) -> Place {
        match (self, other) {
            (Place::Elsewhere, _) | (_, Place::Elsewhere) => Place::Elsewhere,
            (Place::Unknown, _) | (_, Place::Unknown) => Place::Unknown,
            _ => Place::Here,
        }
    }
}

/// Where what `statement` reads and writes can be had, by this catalog.
pub(super) fn place(statement: &Statement, catalog: &Catalog) -> Place {
    match statement {
        Statement::Query(_)
        | Statement::Insert(_)
        | Statement::Update(_)
        | Statement::Delete(_)
        | Statement::Truncate(_) => place_of_tables(statement, catalog),
        Statement::Copy { source: CopySource::Table { table_name, .. }, .. } => {
            place_of_relation(table_name, &BTreeSet::new(), catalog)
        }
        Statement::Copy { source: CopySource::Query(_), .. } => place_of_tables(statement, catalog),
        Statement::Explain { statement, .. } => place(statement, catalog),
        _ => Place::Elsewhere,
    }
}

fn place_of_tables(statement: &Statement, catalog: &Catalog) -> Place {
    let mut parts = Parts { own: BTreeSet::new(), asks: false };
    let _ = statement.visit(&mut parts);
    if parts.asks {
        return Place::Elsewhere;
    }
    let mut all = Place::Here;
    let _ = visit_relations(statement, |relation: &ObjectName| {
        all = all.and(place_of_relation(relation, &parts.own, catalog));
        if all == Place::Elsewhere { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    all
}

/// What a statement has of its own, wherever in it.
struct Parts {
    /// Names of its WITH queries
    own: BTreeSet<String>,
    /// Whether it calls what draws from a sequence, or looks into the catalog
    asks: bool,
}

impl Visitor for Parts {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let queries = query.with.iter().flat_map(|with| &with.cte_tables);
        self.own.extend(queries.map(|query| name::fold(&query.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.asks |= match expr {
            Expr::Function(call) => {
                let last = call.name.0.last().and_then(|part| part.as_ident()).map(name::fold);
                last.is_some_and(|name| asks(&name))
            }
            Expr::Cast { data_type: DataType::Regclass, .. } => true,
            Expr::Cast { data_type: DataType::Custom(name, _), .. } => {
                name.0.last().and_then(|part| part.as_ident()).is_some_and(|word| name::fold(word).starts_with("reg"))
            }
            _ => false,
        };
        ControlFlow::Continue(())
    }
}

/// Whether the function of this name is about what all nodes share.
fn asks(function: &str) -> bool {
    const OTHERS: [&str; 3] = ["format_type", "obj_description", "col_description"];
    super::sequences::CALLS.contains(&function)
        || OTHERS.contains(&function)
        || ["pg_", "to_reg", "has_"].iter().any(|prefix| function.starts_with(prefix))
}

fn place_of_relation(relation: &ObjectName, own: &BTreeSet<String>, catalog: &Catalog) -> Place {
    match name::parts(relation) {
        // What the replica knows of itself is known here.
        Ok((Some(schema), _)) if schema == "polity" => Place::Here,
        Ok((None, name)) if own.contains(&name) && !catalog.names.contains_key(&name) => Place::Here,
        Ok((Some(schema), name)) if schema == name::PUBLIC => place_of_name(&name, catalog),
        Ok((None, name)) => place_of_name(&name, catalog),
        _ => Place::Elsewhere,
    }
}

fn place_of_name(name: &str, catalog: &Catalog) -> Place {
    catalog.names.get(name).map_or(Place::Unknown, |id| place_of_object(*id, catalog))
}

fn place_of_object(id: TableId, catalog: &Catalog) -> Place {
    match (catalog.tables.get(&id), catalog.views.get(&id)) {
        (Some(table), _) if table.guarantee != Guarantee::Strong => Place::Here,
        // A view is made of what was there before it.
        (None, Some(view)) => view.reads.iter().fold(Place::Here, |all, id| all.and(place_of_object(*id, catalog))),
        _ => Place::Elsewhere,
    }
}

/// What the statement must see of strong tables, under this catalog.
pub(super) fn reach(prepared: &Prepared, catalog: &Catalog) -> Reach {
    remembered(prepared, catalog).reach()
}

fn remembered(prepared: &Prepared, catalog: &Catalog) -> Place {
    let Some(statement) = prepared.statement() else { return Place::Elsewhere };
    prepared.place(catalog.version, || place(statement, catalog))
}

impl Session {
    /// What a statement probably must see, by the newest catalog that was seen here; or,
    /// if that lacks one of its tables, by the newest that this node has.
    pub(super) async fn likely_reach(&self, prepared: &Prepared) -> Result<Reach> {
        let engine = &self.engine;
        let directory = engine.database().directory();
        if directory.eventual().is_none() && directory.ledger().is_none() {
            return Ok(Reach::Everywhere);
        }
        let known = engine.catalogs().newest().map_or(Place::Unknown, |catalog| remembered(prepared, &catalog));
        if known != Place::Unknown {
            return Ok(known.reach());
        }
        let here = engine.catalogs().at(&catalog::store::local(engine.database()).await?)?;
        Ok(reach(prepared, &here))
    }

    /// `SHOW polity.causal_token`: what this session, and so this node, has seen.
    pub(super) fn causal_token(&self) -> Result<String> {
        Ok(replica(&self.engine)?.vector().to_token())
    }

    /// `SET polity.causal_token`: goes on once this node has seen it too.
    pub(super) async fn wait_for_token(&mut self, token: &str) -> Result<()> {
        let wanted = VersionVector::from_token(token).map_err(|_| {
            Error::new(
                Condition::InvalidParameterValue,
                format!("invalid value for parameter \"{CAUSAL_TOKEN}\": \"{token}\""),
            )
            .hint("Give what SHOW polity.causal_token said on the node that was connected to before.")
        })?;
        let within = self.settings.duration("polity.causal_timeout").unwrap_or(Duration::ZERO);
        let engine = self.engine.clone();
        Ok(replica(&engine)?.wait_for(&wanted, within).await.map_err(polity_txn::Error::from)?)
    }
}

fn replica(engine: &Engine) -> Result<&polity_txn::Eventual> {
    let replica = engine.database().directory().eventual();
    replica.map(|r| r.replica()).ok_or_else(|| Error::unsupported("eventual tables on this node"))
}

/// An error of the replica in the words of SQL. What row it is about is said once the
/// catalog is at hand: see [`naming`].
pub(super) fn of_replica(error: &EventualError) -> Error {
    let message = error.to_string();
    match error {
        EventualError::ShareTooSmall { wanted, here, elsewhere, .. } => {
            let verb = if *wanted < 0 { "take" } else { "add" };
            let others: Vec<String> =
                elsewhere.iter().map(|h| holder(h.node, h.share, h.unreachable_since.is_some())).collect();
            let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
            Error::new(Condition::ShareTooSmall, "the share of the counter that this node holds is too small")
                .detail(format!(
                    "To {verb}: {}. This node may {verb} {here}{others}. The total allows it.",
                    wanted.unsigned_abs()
                ))
                .hint(
                    "Shares move between nodes that reach each other: retry in a moment, or ask a node that holds \
                     enough. SELECT * FROM polity.escrow shows all shares.",
                )
        }
        EventualError::OutOfBounds { wanted, value, bounds, .. } => {
            let bounds = match (bounds.lower, bounds.upper) {
                (Some(lower), Some(upper)) => format!("between {lower} and {upper}"),
                (Some(lower), None) => format!("at least {lower}"),
                (None, Some(upper)) => format!("at most {upper}"),
                (None, None) => "within what a bigint holds".to_owned(),
            };
            Error::new(Condition::CheckViolation, "a counter would leave its bounds").detail(format!(
                "As far as is known here it is {value}, must stay {bounds}, and was to change by {wanted}."
            ))
        }
        EventualError::AcksMissing { wanted, kept_by, .. } => {
            let names: Vec<String> = kept_by.iter().map(|NodeId(n)| n.to_string()).collect();
            Error::new(
                Condition::StatementCompletionUnknown,
                format!("the transaction is kept by {} of the {wanted} replicas asked for", kept_by.len()),
            )
            .detail(format!(
                "It is committed on node {}, and will spread to the others as they are reached.",
                names.join(", ")
            ))
            .hint("Do not repeat it unless repeating is harmless: it has taken effect.")
        }
        EventualError::Behind { missing, waited } => {
            let names: Vec<String> = missing.iter().map(|(NodeId(n), _)| n.to_string()).collect();
            Error::new(Condition::NoQuorum, "this node has not yet seen what the causal token has")
                .detail(format!("It lacks writes of node {}, after {} ms.", names.join(", "), waited.as_millis()))
                .hint("Retry, raise polity.causal_timeout, or connect to the node the token came from.")
        }
        EventualError::Exists { .. } => {
            Error::new(Condition::SerializationFailure, "could not serialize access due to concurrent update")
                .hint("The transaction might succeed if retried.")
        }
        EventualError::TooLarge { limit, .. } => {
            Error::new(Condition::ProgramLimitExceeded, "the transaction is too large")
                .detail(format!("A transaction may change up to {limit} bytes of eventual tables."))
                .hint("Split it into smaller transactions.")
        }
        EventualError::Unfit { .. } => Error::new(Condition::NumericValueOutOfRange, message),
        EventualError::Damaged { .. } => Error::new(Condition::DataCorrupted, message),
        _ => Error::internal(message),
    }
}

fn holder(NodeId(node): NodeId, share: u64, unreachable: bool) -> String {
    format!("node {node} holds {share}{}", if unreachable { " and cannot be reached" } else { "" })
}

/// Says which table, column and constraint an error of the replica is about.
pub(super) fn naming(error: &EventualError, catalog: &Catalog) -> Error {
    let said = of_replica(error);
    let (key, column) = match error {
        EventualError::ShareTooSmall { key, column, .. } | EventualError::OutOfBounds { key, column, .. } => {
            (key, *column)
        }
        _ => return said,
    };
    let Some(table) = table_of(catalog, key) else { return said };
    let Some(name) = table.column_by_id(column).map(|c| c.name.clone()) else { return said };
    let constraint = bound(table, column);
    let message = match said.condition() {
        Condition::CheckViolation => {
            format!("update of table \"{}\" violates check constraint \"{constraint}\"", table.name)
        }
        _ => format!("table \"{}\": the share of counter \"{name}\" that this node holds is too small", table.name),
    };
    said.with_message(message).table(&table.name).column(&name).constraint(&constraint)
}

/// The table whose rows have such keys.
pub(crate) fn table_of<'c>(catalog: &'c Catalog, key: &Key) -> Option<&'c Table> {
    let storage = key.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes)?;
    catalog.tables.values().find(|t| t.primary.storage.0 == storage).map(|t| &**t)
}

fn bound(table: &Table, column: ColumnId) -> String {
    let name = table.column_by_id(column).map(|c| c.name.as_str()).unwrap_or_default();
    let about = |expression: &str| {
        crate::ddl::expression::parse(expression).is_ok_and(|e| crate::ddl::expression::columns(&e).contains(name))
    };
    table.checks.iter().find(|c| about(&c.expression)).map(|c| c.name.clone()).unwrap_or_default()
}
