//! The errors of constraints, in PostgreSQL's words.

use polity_base::{Type, Value};

use crate::catalog::Table;
use crate::error::{Condition, Error};
use crate::expr::{Local, cast};

/// Characters of a value that are shown.
const SHOWN: usize = 64;

/// `Failing row contains (1, null, abc).`
fn failing_row(table: &Table, row: &[Value], local: Local<'_>) -> String {
    let shown = table.columns.iter().zip(row).map(|(column, value)| match value {
        Value::Null => "null".to_owned(),
        value => cut(cast::write(value, &column.r#type, local)),
    });
    format!("Failing row contains ({}).", shown.collect::<Vec<_>>().join(", "))
}

fn cut(mut text: String) -> String {
    if text.len() > SHOWN {
        let mut end = SHOWN;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// NULL in a column that refuses it.
pub fn not_null(table: &Table, place: usize, row: &[Value], local: Local<'_>) -> Error {
    let column = table.columns.get(place).map_or("", |c| c.name.as_str());
    Error::new(
        Condition::NotNullViolation,
        format!("null value in column \"{column}\" of relation \"{}\" violates not-null constraint", table.name),
    )
    .detail(failing_row(table, row, local))
    .table(&table.name)
    .column(column)
}

/// A CHECK that is false.
pub fn check(table: &Table, constraint: &str, row: &[Value], local: Local<'_>) -> Error {
    Error::new(
        Condition::CheckViolation,
        format!("new row for relation \"{}\" violates check constraint \"{constraint}\"", table.name),
    )
    .detail(failing_row(table, row, local))
    .table(&table.name)
    .constraint(constraint)
}

/// `(a, b)=(1, x)`
pub fn key_text<'a>(columns: impl Iterator<Item = (&'a str, &'a Type, &'a Value)>, local: Local<'_>) -> String {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (name, r#type, value) in columns {
        names.push(crate::catalog::name::quote(name));
        values.push(match value {
            Value::Null => "null".to_owned(),
            value => cast::write(value, r#type, local),
        });
    }
    format!("({})=({})", names.join(", "), values.join(", "))
}

/// Names, types and values of a row's columns at `places`.
pub fn columns_at<'a>(
    table: &'a Table,
    places: impl Iterator<Item = usize> + 'a,
    row: &'a [Value],
) -> impl Iterator<Item = (&'a str, &'a Type, &'a Value)> + 'a {
    places.filter_map(|place| {
        let column = table.columns.get(place)?;
        Some((column.name.as_str(), &column.r#type, row.get(place)?))
    })
}

/// A key that is there already.
pub fn unique(
    table: &Table,
    constraint: &str,
    places: impl Iterator<Item = usize>,
    row: &[Value],
    local: Local<'_>,
) -> Error {
    let places: Vec<usize> = places.collect();
    Error::new(Condition::UniqueViolation, format!("duplicate key value violates unique constraint \"{constraint}\""))
        .detail(format!("Key {} already exists.", key_text(columns_at(table, places.into_iter(), row), local)))
        .table(&table.name)
        .constraint(constraint)
}

/// A reference to a row that is not there.
pub fn no_parent(table: &Table, constraint: &str, parent: &str, key: &str) -> Error {
    Error::new(
        Condition::ForeignKeyViolation,
        format!("insert or update on table \"{}\" violates foreign key constraint \"{constraint}\"", table.name),
    )
    .detail(format!("Key {key} is not present in table \"{parent}\"."))
    .table(&table.name)
    .constraint(constraint)
}

/// A reference that is partly NULL, with MATCH FULL.
pub fn partly_null(table: &Table, constraint: &str) -> Error {
    Error::new(
        Condition::ForeignKeyViolation,
        format!("insert or update on table \"{}\" violates foreign key constraint \"{constraint}\"", table.name),
    )
    .detail("MATCH FULL does not allow mixing of null and nonnull key values.")
    .table(&table.name)
    .constraint(constraint)
}

/// A row that is still referred to.
pub fn still_referenced(parent: &str, constraint: &str, child: &Table, key: &str) -> Error {
    Error::new(
        Condition::ForeignKeyViolation,
        format!(
            "update or delete on table \"{parent}\" violates foreign key constraint \"{constraint}\" on table \"{}\"",
            child.name
        ),
    )
    .detail(format!("Key {key} is still referenced from table \"{}\".", child.name))
    .table(&child.name)
    .constraint(constraint)
}
