//! From filters to spans of keys.
//!
//! A filter that compares a key column with a constant bounds the keys that can
//! match. Equalities on the first columns of a key, then one range (or a list of
//! values), become spans; the filter itself is still evaluated on what the spans
//! hold, so a span may be too wide but never too narrow.

use std::collections::HashMap;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use polity_base::key::{Direction, KeyBuilder};
use polity_base::{ColumnId, IndexId, Key, Span, Type, Value};

use crate::catalog::model::{Index, Table};
use crate::error::{Error, Result};
use crate::query::types;

/// Spans one scan may have; lists that would make more are not used.
const MOST_SPANS: usize = 1_000;

/// What filters say about one column.
#[derive(Default, Clone, Debug)]
struct Bounds {
    /// It is one of these
    among: Option<Vec<Value>>,
    /// It is above this; `true`: or equal
    above: Option<(Value, bool)>,
    /// It is below this; `true`: or equal
    below: Option<(Value, bool)>,
    /// It is NULL
    is_null: bool,
}

/// What the filters of a scan say about the columns of its table.
#[derive(Debug)]
pub struct Constraints {
    columns: HashMap<ColumnId, Bounds>,
    /// No row can match
    pub impossible: bool,
}

/// How rows are found.
#[derive(Clone, Debug)]
pub struct Access {
    /// The secondary index whose entries lead to the rows; `None`: the table
    pub index: Option<usize>,
    /// The spans of keys to read, in key order, apart from each other
    pub spans: Vec<Span>,
    /// How many key columns are bound by equalities
    pub equalities: usize,
    /// Whether a range bounds the next column
    pub ranged: bool,
    /// Whether each span holds one row at most
    pub unique: bool,
}

impl Constraints {
    /// What `filters` say about `table`.
    pub fn of(table: &Table, filters: &[Expr]) -> Constraints {
        let mut c = Constraints { columns: HashMap::new(), impossible: false };
        for filter in filters {
            c.note(table, filter);
        }
        c
    }

    fn note(&mut self, table: &Table, filter: &Expr) {
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                self.note(table, left);
                self.note(table, right);
            }
            Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
                let mut found = None;
                let mut values = Vec::new();
                if disjuncts(table, filter, &mut found, &mut values)
                    && let Some(column) = found
                {
                    self.among(column, values);
                }
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                if let Some((column, value)) = comparison(table, left, right) {
                    self.compare(column, *op, value);
                } else if let Some((column, value)) = comparison(table, right, left)
                    && let Some(op) = op.swap()
                {
                    self.compare(column, op, value);
                }
            }
            Expr::InList(InList { expr, list, negated: false }) => {
                if let Some((column, r#type)) = column_of(table, expr)
                    && let Some(values) = list.iter().map(|v| constant(v, r#type)).collect::<Option<Vec<_>>>()
                {
                    self.among(column, values);
                }
            }
            Expr::Between(b) if !b.negated => {
                if let Some((column, value)) = comparison(table, &b.expr, &b.low) {
                    self.compare(column, Operator::GtEq, value);
                }
                if let Some((column, value)) = comparison(table, &b.expr, &b.high) {
                    self.compare(column, Operator::LtEq, value);
                }
            }
            Expr::IsNull(inner) => {
                if let Some((column, _)) = column_of(table, inner) {
                    self.columns.entry(column).or_default().is_null = true;
                }
            }
            Expr::Column(_) => {
                if let Some((column, Type::Bool)) = column_of(table, filter) {
                    self.among(column, vec![Value::Bool(true)]);
                }
            }
            Expr::Not(inner) => {
                if let Some((column, Type::Bool)) = column_of(table, inner) {
                    self.among(column, vec![Value::Bool(false)]);
                }
            }
            Expr::Literal(ScalarValue::Boolean(Some(false) | None), _) => self.impossible = true,
            _ => {}
        }
    }

    fn compare(&mut self, column: ColumnId, op: Operator, value: Value) {
        if value.is_null() {
            self.impossible |= matches!(
                op,
                Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq | Operator::NotEq
            );
            return;
        }
        let bounds = self.columns.entry(column).or_default();
        match op {
            Operator::Eq => self.among(column, vec![value]),
            Operator::Gt | Operator::GtEq => tighten(&mut bounds.above, value, op == Operator::GtEq, true),
            Operator::Lt | Operator::LtEq => tighten(&mut bounds.below, value, op == Operator::LtEq, false),
            _ => {}
        }
    }

    fn among(&mut self, column: ColumnId, mut values: Vec<Value>) {
        values.retain(|v| !v.is_null());
        let bounds = self.columns.entry(column).or_default();
        match &mut bounds.among {
            Some(before) => {
                before.retain(|b| values.iter().any(|v| v.compare(b) == Some(std::cmp::Ordering::Equal)));
            }
            None => bounds.among = Some(values),
        }
        if bounds.among.as_ref().is_some_and(Vec::is_empty) {
            self.impossible = true;
        }
    }

    /// The best way to the rows that can match, by an index that is `usable`.
    pub fn access(&self, table: &Table, usable: impl Fn(&Index) -> Result<bool>) -> Result<Access> {
        let primary: Vec<(ColumnId, Direction)> =
            table.primary.columns.iter().map(|c| (*c, Direction::Ascending)).collect();
        let mut best = self.through(table, None, table.primary.storage, &primary)?;
        best.unique = best.equalities == primary.len() && !primary.is_empty();
        if best.unique {
            return Ok(best);
        }
        for (i, index) in table.indexes.iter().enumerate() {
            let mut access = self.through(table, Some(i), index.storage, &index.columns)?;
            access.unique = index.unique && access.equalities == index.columns.len();
            let worth = |a: &Access| (a.unique, a.equalities, a.ranged && a.equalities > 0);
            if access.equalities > 0 && worth(&access) > worth(&best) && usable(index)? {
                best = access;
            }
        }
        Ok(best)
    }

    fn through(
        &self,
        table: &Table,
        index: Option<usize>,
        storage: IndexId,
        columns: &[(ColumnId, Direction)],
    ) -> Result<Access> {
        let mut prefixes = vec![Vec::<u8>::from(storage.0.to_be_bytes())];
        let mut access = Access { index, spans: Vec::new(), equalities: 0, ranged: false, unique: false };
        for (column, direction) in columns {
            let Some(bounds) = self.columns.get(column) else { break };
            let ordered = table.column_by_id(*column).is_some_and(|c| crate::catalog::types::is_ordered(&c.r#type));
            if !ordered {
                break;
            }
            let mut values = match (&bounds.among, bounds.is_null) {
                (Some(values), false) => values.clone(),
                (None, true) => vec![Value::Null],
                _ => Vec::new(),
            };
            if values.is_empty() || values.len() * prefixes.len() > MOST_SPANS {
                if let Some(spans) = ranges(&prefixes, bounds, *direction)? {
                    access.spans = spans;
                    access.ranged = true;
                }
                break;
            }
            values.sort_by(|a, b| a.compare(b).unwrap_or(std::cmp::Ordering::Equal));
            let mut longer = Vec::with_capacity(values.len() * prefixes.len());
            for prefix in &prefixes {
                for value in &values {
                    longer.push(extended(prefix, value, *direction)?);
                }
            }
            prefixes = longer;
            access.equalities += 1;
        }
        if access.spans.is_empty() {
            access.spans = prefixes.into_iter().map(|p| Key::from(p).prefix_span()).collect();
        }
        access.spans.sort_by(|a, b| a.start.cmp(&b.start));
        access.spans.dedup();
        access.spans.retain(|s| !s.is_empty());
        if self.impossible {
            access.spans.clear();
        }
        Ok(access)
    }

    /// Whether a filter says something about `index`'s first column.
    pub fn touches(&self, index: &Index) -> bool {
        index.columns.first().is_some_and(|(c, _)| self.columns.contains_key(c))
    }
}

/// Whether filters of this shape can bound keys, whatever the constant turns
/// out to be.
pub fn is_useful(table: &Table, filter: &Expr) -> bool {
    let keyed = |e: &Expr| {
        column_of(table, e).is_some_and(|(column, _)| {
            table.primary.columns.contains(&column)
                || table.indexes.iter().any(|i| i.columns.iter().any(|(c, _)| *c == column))
        })
    };
    let fixed = |e: &Expr| matches!(e, Expr::Literal(..) | Expr::Placeholder(_));
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And | Operator::Or => is_useful(table, left) && is_useful(table, right),
            Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                (keyed(left) && fixed(right)) || (keyed(right) && fixed(left))
            }
            _ => false,
        },
        Expr::InList(InList { expr, list, negated: false }) => keyed(expr) && list.iter().all(fixed),
        Expr::Between(b) => !b.negated && keyed(&b.expr) && fixed(&b.low) && fixed(&b.high),
        Expr::IsNull(inner) | Expr::Not(inner) => keyed(inner),
        Expr::Column(_) => keyed(filter),
        Expr::Literal(ScalarValue::Boolean(_), _) => true,
        _ => false,
    }
}

fn disjuncts(table: &Table, filter: &Expr, found: &mut Option<ColumnId>, values: &mut Vec<Value>) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return false };
    match op {
        Operator::Or => disjuncts(table, left, found, values) && disjuncts(table, right, found, values),
        Operator::Eq => {
            let pair = comparison(table, left, right).or_else(|| comparison(table, right, left));
            let Some((column, value)) = pair else { return false };
            if found.is_some_and(|f| f != column) {
                return false;
            }
            *found = Some(column);
            values.push(value);
            true
        }
        _ => false,
    }
}

fn comparison(table: &Table, column: &Expr, value: &Expr) -> Option<(ColumnId, Value)> {
    let (column, r#type) = column_of(table, column)?;
    Some((column, constant(value, r#type)?))
}

fn column_of<'a>(table: &'a Table, e: &Expr) -> Option<(ColumnId, &'a Type)> {
    let Expr::Column(column) = e else { return None };
    let column = table.column(&column.name)?;
    Some((column.id, &column.r#type))
}

fn constant(e: &Expr, r#type: &Type) -> Option<Value> {
    let Expr::Literal(scalar, _) = e else { return None };
    if scalar.is_null() {
        return Some(Value::Null);
    }
    // Only constants of the column's own type: others compare by other rules.
    (scalar.data_type() == types::data_type(r#type)).then(|| types::value_of(scalar, r#type).ok()).flatten()
}

fn tighten(bound: &mut Option<(Value, bool)>, value: Value, inclusive: bool, lower: bool) {
    use std::cmp::Ordering;
    let replace = match bound {
        None => true,
        Some((before, before_inclusive)) => match value.compare(before) {
            Some(Ordering::Greater) => lower,
            Some(Ordering::Less) => !lower,
            Some(Ordering::Equal) => *before_inclusive && !inclusive,
            None => false,
        },
    };
    if replace {
        *bound = Some((value, inclusive));
    }
}

fn extended(prefix: &[u8], value: &Value, direction: Direction) -> Result<Vec<u8>> {
    let mut key = KeyBuilder::default();
    key.push_raw(prefix);
    key.push_directed(value, direction).map_err(Error::internal)?;
    Ok(key.finish().0.to_vec())
}

/// The spans that a range on the next column leaves of `prefixes`.
fn ranges(prefixes: &[Vec<u8>], bounds: &Bounds, direction: Direction) -> Result<Option<Vec<Span>>> {
    if bounds.above.is_none() && bounds.below.is_none() {
        return Ok(None);
    }
    let mut spans = Vec::with_capacity(prefixes.len());
    for prefix in prefixes {
        let whole = Key::from(prefix.clone()).prefix_span();
        let edge = |bound: &Option<(Value, bool)>| -> Result<Option<(Span, bool)>> {
            match bound {
                None => Ok(None),
                Some((value, inclusive)) => {
                    Ok(Some((Key::from(extended(prefix, value, direction)?).prefix_span(), *inclusive)))
                }
            }
        };
        let (first, last) = match direction {
            Direction::Ascending => (edge(&bounds.above)?, edge(&bounds.below)?),
            Direction::Descending => (edge(&bounds.below)?, edge(&bounds.above)?),
        };
        let start = match first {
            None => whole.start.clone(),
            Some((edge, true)) => edge.start,
            Some((edge, false)) => edge.end,
        };
        let end = match last {
            None => whole.end.clone(),
            Some((edge, true)) => edge.end,
            Some((edge, false)) => edge.start,
        };
        spans.push(Span { start, end });
    }
    Ok(Some(spans))
}
