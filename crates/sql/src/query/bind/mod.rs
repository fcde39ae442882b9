//! From the syntax tree to a plan: what names, types and functions mean.
//!
//! Binding follows PostgreSQL's parse analysis (`parse_expr.c`, `parse_coerce.c`,
//! `parse_func.c`, `parse_clause.c`): literals without a type take it from where
//! they stand, operators and functions are chosen by the types of their
//! operands, and every conversion is written into the plan. DataFusion's own
//! type coercion finds nothing left to do and is not run.
//!
//! | module       | holds                                                         |
//! |--------------|---------------------------------------------------------------|
//! | [`bound`]    | expressions with their SQL types                              |
//! | [`scope`]    | what names mean at some place in a statement                  |
//! | [`query`]    | WITH, set operations, VALUES, ORDER BY and LIMIT around them  |
//! | [`from`]     | FROM: tables, joins, functions                                |
//! | `joinable`   | which correlated subqueries become joins                      |
//! | `lateral`    | subqueries in FROM, LATERAL among them                        |
//! | [`select`]   | one SELECT: from WHERE to DISTINCT                            |
//! | [`group`]    | GROUP BY and what may stand above it                          |
//! | [`expr`]     | expressions                                                   |
//! | [`literal`]  | constants                                                     |
//! | [`coerce`]   | conversions, common types, sort keys                          |
//! | [`operator`] | operators                                                     |
//! | [`compare`]  | comparisons, IN, BETWEEN, rows, ANY and ALL                   |
//! | [`call`]     | choosing functions                                            |
//! | [`aggregate`]| aggregates                                                    |
//! | [`window`]   | windows and their functions                                   |
//! | [`subquery`] | subqueries in expressions                                     |

pub mod aggregate;
pub mod bound;
pub mod call;
pub mod coerce;
pub mod compare;
pub mod expr;
pub mod from;
pub mod group;
mod joinable;
mod lateral;
pub mod literal;
pub mod operator;
pub mod query;
pub mod scope;
pub mod select;
pub mod subquery;
pub mod window;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use datafusion::common::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::tokenizer::Span;
use polity_base::{TableId, Type};

use self::bound::{Bound, Names};
use self::scope::Output;
use super::PlanInput;
use crate::catalog::{Privileges, View};
use crate::error::{Condition, Error, Result};
use crate::expr::Local;
use crate::rights::Need;

/// Views may read views this deep.
const MOST_VIEWS: usize = 32;

/// Binds one statement.
pub struct Binder<'a> {
    input: &'a PlanInput,
    zone: String,
    parameters: RefCell<Vec<Option<Type>>>,
    /// How often a relation name was used: each use gets a name of its own
    names: RefCell<HashMap<String, usize>>,
    counter: Cell<usize>,
    views: Cell<usize>,
    /// Owners of the views that are being bound, the innermost last
    owners: RefCell<Vec<TableId>>,
    /// What is done with which relations
    needs: RefCell<Vec<Need>>,
    /// How many subqueries of expressions are around what is being bound
    subqueries: Cell<usize>,
    /// Correlated subqueries become calls that run them row by row, because
    /// they could not be turned into joins
    pub(super) by_row: bool,
    /// Whether a subquery refers to what is around it
    pub(super) correlated: Cell<bool>,
    /// Whether the result depends on the moment, beyond the view
    pub(super) moment: Cell<bool>,
    /// Whether the order of rows matters to an aggregate
    pub(super) sequential: Cell<bool>,
}

/// A bound query.
pub struct BoundQuery {
    /// The plan; its columns stand in the order of `outputs`
    pub plan: LogicalPlan,
    /// What the columns are
    pub outputs: Vec<Output>,
}

impl<'a> Binder<'a> {
    /// A binder for a statement whose parameters have these types, as far as
    /// they are stated.
    pub fn new(input: &'a PlanInput, parameters: &[Option<Type>], by_row: bool) -> Binder<'a> {
        let declared = parameters.iter().map(|t| t.clone().filter(|t| *t != Type::Unknown)).collect();
        Binder {
            input,
            zone: input.settings.show("TimeZone").unwrap_or("UTC").to_owned(),
            parameters: RefCell::new(declared),
            names: RefCell::default(),
            counter: Cell::new(0),
            views: Cell::new(0),
            owners: RefCell::default(),
            needs: RefCell::default(),
            subqueries: Cell::new(0),
            by_row,
            correlated: Cell::new(false),
            moment: Cell::new(false),
            sequential: Cell::new(false),
        }
    }

    /// Binds a query.
    pub fn statement(&self, query: &ast::Query) -> Result<BoundQuery> {
        let bound = self.query(query, None, None)?;
        self.decide_texts(bound)
    }

    /// The plan with the columns of its result and nothing else, object
    /// identifiers that name something as names, and vectors as their texts.
    pub fn named_output(&self, plan: LogicalPlan, outputs: &mut [Output]) -> Result<LogicalPlan> {
        let is_vector = |o: &Output| o.names == Names::Vector && matches!(o.r#type, Type::Array(_));
        if !outputs.iter().any(|o| o.r#type == Type::Regclass || is_vector(o)) {
            return Ok(plan);
        }
        let mut exprs = Vec::with_capacity(outputs.len());
        for output in outputs {
            let column = datafusion::logical_expr::Expr::Column(output.column.clone());
            let bound =
                Bound { names: output.names, ..Bound::with_data(column, output.r#type.clone(), output.data.clone()) };
            let bound = match output.r#type {
                Type::Regclass => self.explicit(bound, &Type::Text)?,
                _ if is_vector(output) => {
                    let text = self.explicit(bound, &Type::Text)?;
                    (output.r#type, output.data) = (Type::Text, text.data.clone());
                    text
                }
                _ => bound,
            };
            exprs.push(bound.expr.alias(&output.column.name));
        }
        select::projection(plan, exprs)
    }

    /// The types of the parameters; those nothing has decided are text.
    pub fn parameters(&self) -> Vec<Type> {
        self.parameters.borrow().iter().map(|t| t.clone().unwrap_or(Type::Text)).collect()
    }

    /// The session's time zone.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The session's zone for conversions; what depends on the moment is left to
    /// the run.
    pub fn local(&self) -> Local<'_> {
        Local { zone: &self.zone, now: 0 }
    }

    /// What is planned against.
    pub fn input(&self) -> &PlanInput {
        self.input
    }

    /// A name for a relation that no other relation of the statement has.
    fn unique(&self, name: &str) -> String {
        let mut names = self.names.borrow_mut();
        let uses = names.entry(name.to_owned()).or_insert(0);
        *uses += 1;
        if *uses == 1 { name.to_owned() } else { format!("{name}#{uses}") }
    }

    /// A number no other call has given.
    pub fn number(&self) -> usize {
        self.counter.set(self.counter.get() + 1);
        self.counter.get()
    }

    /// What is done with which relations.
    pub fn needs(&self) -> Vec<Need> {
        self.needs.borrow().clone()
    }

    /// Notes that a relation is read.
    fn reads(&self, relation: TableId) {
        let need = Need { relation, privileges: Privileges::SELECT, by: self.owners.borrow().last().copied() };
        let mut needs = self.needs.borrow_mut();
        if !needs.contains(&need) {
            needs.push(need);
        }
    }

    fn enter_view(&self, view: &View) -> Result<()> {
        if self.views.get() >= MOST_VIEWS {
            return Err(Error::new(Condition::StatementTooComplex, "views are nested too deeply")
                .detail(format!("Views may read views {MOST_VIEWS} deep.")));
        }
        self.reads(view.id);
        self.owners.borrow_mut().push(view.owner);
        self.views.set(self.views.get() + 1);
        Ok(())
    }

    fn leave_view(&self) {
        self.owners.borrow_mut().pop();
        self.views.set(self.views.get().saturating_sub(1));
    }
}

/// DataFusion refused a node that binding made.
pub fn refused(e: DataFusionError) -> Error {
    super::errors::of(e)
}

/// An error with its place, when the parser has kept it. Places are those of
/// statements of one line; others would need the text.
pub fn at(error: Error, span: Span) -> Error {
    if span.start.line == 1 && span.start.column > 0 && error.position().is_none() {
        error.at(usize::try_from(span.start.column).unwrap_or(1))
    } else {
        error
    }
}

/// A condition: boolean, or an error that names where it stands.
pub fn condition(binder: &Binder<'_>, bound: Bound, clause: &str) -> Result<Bound> {
    let is_bool = matches!(bound.r#type, Type::Bool | Type::Unknown);
    if !is_bool {
        return Err(Error::new(
            Condition::DatatypeMismatch,
            format!("argument of {clause} must be type boolean, not type {}", coerce::shown(&bound.r#type)),
        ));
    }
    binder.implicit(bound, &Type::Bool)
}
