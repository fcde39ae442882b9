//! The order of rows within an aggregate: ORDER BY among its arguments, DISTINCT,
//! WITHIN GROUP.
//!
//! DataFusion's orders for aggregates sort the *input* of a partial aggregate;
//! states of several partitions are then merged as they come, and of two
//! aggregates with different orders one is not heeded. So what is sorted by goes
//! to the aggregate as further arguments, travels with its state, and the rows of
//! a group are sorted when its result is asked for. That holds whatever the plan.

use std::cmp::Ordering;

use polity_base::{Interval, Value};

use super::datetime;
use crate::error::{Condition, Error, Result};

/// One item of an order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Order {
    /// What is sorted by, as the place of an argument
    pub argument: usize,
    /// Largest first
    pub descending: bool,
    /// NULLs before everything else
    pub nulls_first: bool,
}

impl Order {
    /// Smallest first, NULLs last.
    pub fn ascending(argument: usize) -> Order {
        Order { argument, descending: false, nulls_first: false }
    }

    fn compare(&self, a: &[Value], b: &[Value]) -> Ordering {
        let (a, b) = match (a.get(self.argument), b.get(self.argument)) {
            (Some(a), Some(b)) => (a, b),
            _ => return Ordering::Equal,
        };
        match (a.is_null(), b.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) if self.nulls_first => Ordering::Less,
            (true, false) => Ordering::Greater,
            (false, true) if self.nulls_first => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) if self.descending => compare(b, a),
            (false, false) => compare(a, b),
        }
    }
}

/// Sorts rows; those that are equal stay as they are.
pub fn sort(rows: &mut [Vec<Value>], order: &[Order]) {
    rows.sort_by(|a, b| order.iter().map(|o| o.compare(a, b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal));
}

/// Whether two rows are equal in all that is sorted by.
pub fn is_same(a: &[Value], b: &[Value], order: &[Order]) -> bool {
    order.iter().all(|o| o.compare(a, b).is_eq())
}

/// [`Value::compare`], and NULLs within arrays are their largest elements.
fn compare(a: &Value, b: &Value) -> Ordering {
    if let (Value::Array(a), Value::Array(b)) = (a, b) {
        let unequal = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|o| o.is_ne());
        return unequal.unwrap_or_else(|| a.len().cmp(&b.len()));
    }
    a.compare(b).unwrap_or_else(|| a.is_null().cmp(&b.is_null()))
}

/// The most frequent value of sorted ones; of several the first.
pub fn mode(rows: Vec<Vec<Value>>) -> Value {
    let mut best: (usize, Value) = (0, Value::Null);
    let mut run: (usize, Value) = (0, Value::Null);
    for value in rows.into_iter().filter_map(|r| r.into_iter().next()) {
        if value.compare(&run.1) == Some(Ordering::Equal) {
            run.0 += 1;
        } else {
            run = (1, value);
        }
        if run.0 > best.0 {
            best = run.clone();
        }
    }
    best.1
}

/// The value a fraction of the way through sorted values, or one for each of an
/// array of fractions, which come along as the second argument.
pub fn percentile(rows: Vec<Vec<Value>>, continuous: bool) -> Result<Value> {
    let fraction = rows.first().and_then(|r| r.get(1)).cloned().unwrap_or(Value::Null);
    let values: Vec<Value> = rows.into_iter().filter_map(|r| r.into_iter().next()).collect();
    let at = |fraction: &Value| match fraction {
        Value::Float8(f) if !(0.0..=1.0).contains(f) => {
            Err(Error::new(Condition::NumericValueOutOfRange, format!("percentile value {} is not between 0 and 1", f)))
        }
        Value::Float8(f) if continuous => between(&values, *f),
        Value::Float8(f) => {
            let place = (f * values.len() as f64).ceil() as usize;
            Ok(values.get(place.max(1) - 1).cloned().unwrap_or(Value::Null))
        }
        _ => Ok(Value::Null),
    };
    match &fraction {
        Value::Array(fractions) => Ok(Value::Array(fractions.iter().map(at).collect::<Result<_>>()?)),
        one => at(one),
    }
}

/// What lies at `fraction`, between the two values around it.
fn between(values: &[Value], fraction: f64) -> Result<Value> {
    let place = fraction * values.len().saturating_sub(1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    let share = place - low as f64;
    Ok(match (values.get(low), values.get(high)) {
        (Some(one), _) if low == high => one.clone(),
        (Some(Value::Float8(a)), Some(Value::Float8(b))) => Value::Float8(a + share * (b - a)),
        (Some(Value::Interval(a)), Some(Value::Interval(b))) => Value::Interval(interval_between(*a, *b, share)?),
        _ => Value::Null,
    })
}

fn interval_between(a: Interval, b: Interval, share: f64) -> Result<Interval> {
    let distance = datetime::add_intervals(b, datetime::negated(a)?)?;
    datetime::add_intervals(datetime::scaled(distance, |x| x * share)?, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[Value]) -> Vec<Vec<Value>> {
        values.iter().map(|v| vec![v.clone()]).collect()
    }

    #[test]
    fn nulls_are_where_they_are_asked_to_be() {
        let given = [Value::Int4(2), Value::Null, Value::Int4(3), Value::Int4(1)];
        for (descending, nulls_first, expected) in
            [(false, false, "1 2 3 -"), (false, true, "- 1 2 3"), (true, false, "3 2 1 -"), (true, true, "- 3 2 1")]
        {
            let mut rows = rows(&given);
            sort(&mut rows, &[Order { argument: 0, descending, nulls_first }]);
            let shown: Vec<String> =
                rows.iter().map(|r| r[0].as_i64().map_or("-".to_owned(), |v| v.to_string())).collect();
            assert_eq!(shown.join(" "), expected);
        }
    }

    #[test]
    fn percentiles_take_a_value_or_what_lies_between_two() {
        let at = |continuous: bool, fraction: f64| {
            let rows = [1.0, 2.0, 4.0, 8.0].iter().map(|v| vec![Value::Float8(*v), Value::Float8(fraction)]).collect();
            percentile(rows, continuous).unwrap()
        };
        assert_eq!(at(true, 0.5), Value::Float8(3.0));
        assert_eq!(at(false, 0.5), Value::Float8(2.0));
        assert_eq!(at(false, 0.51), Value::Float8(4.0));
        assert_eq!((at(true, 0.0), at(false, 0.0)), (Value::Float8(1.0), Value::Float8(1.0)));
        assert_eq!((at(true, 1.0), at(false, 1.0)), (Value::Float8(8.0), Value::Float8(8.0)));
    }
}
