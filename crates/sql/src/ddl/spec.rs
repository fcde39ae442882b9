//! What a definition asks for, read from the statement and not yet matched with
//! the catalog.

use datafusion::sql::sqlparser::ast::{
    self, ColumnDef, ColumnOption, ConstraintCharacteristics, ConstraintReferenceMatchKind, CreateTableOptions,
    DataType, DeferrableInitial, Expr, GeneratedAs, IndexColumn, NullsDistinctOption, ReferentialAction,
    SequenceOptions, SqlOption, TableConstraint,
};
use polity_base::Type;

use super::extra::whole;
use crate::catalog::{Action, Guarantee, Identity, Merge, name, types};
use crate::error::{Condition, Error, Result};

/// A column.
pub(super) struct ColumnSpec {
    pub name: String,
    pub r#type: Type,
    pub merge: Merge,
    pub not_null: bool,
    pub default: Option<Expr>,
    /// smallserial, serial or bigserial
    pub serial: bool,
    pub identity: Option<(Identity, Vec<SequenceOptions>)>,
}

/// A constraint.
#[allow(clippy::large_enum_variant)] // few, and gone with the statement
pub(super) enum ConstraintSpec {
    Primary { name: Option<String>, columns: Vec<String> },
    Unique { name: Option<String>, columns: Vec<String> },
    Check { name: Option<String>, column: Option<String>, condition: Expr },
    Foreign(ForeignSpec),
}

pub(super) struct ForeignSpec {
    pub name: Option<String>,
    pub columns: Vec<String>,
    pub parent: ast::ObjectName,
    /// Empty: the parent's primary key
    pub parent_columns: Vec<String>,
    pub on_delete: Action,
    pub on_update: Action,
    pub match_full: bool,
}

const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

/// Refuses names that a column cannot have.
pub(super) fn check_column_name(name: &str) -> Result<()> {
    if SYSTEM_COLUMNS.contains(&name) || name.starts_with("__polity") {
        return Err(Error::new(
            Condition::DuplicateColumn,
            format!("column name \"{name}\" conflicts with a system column name"),
        ));
    }
    Ok(())
}

/// A column's definition and the constraints written with it.
pub(super) fn column(def: &ColumnDef, table: &str) -> Result<(ColumnSpec, Vec<ConstraintSpec>)> {
    let column_name = name::fold(&def.name);
    check_column_name(&column_name)?;
    let (r#type, serial, merge) = match (serial(&def.data_type), types::merging(&def.data_type)?) {
        (Some(t), _) => (t, true, Merge::Register),
        (None, Some((t, merge))) => (t, false, merge),
        (None, None) => (types::stored_type(&def.data_type)?, false, Merge::Register),
    };
    // Counters and sets begin with nothing; they are never unknown.
    let not_null = serial || merge != Merge::Register;
    let mut spec = ColumnSpec { name: column_name, r#type, merge, not_null, default: None, serial, identity: None };
    let mut constraints = Vec::new();
    let mut null = None;
    for option in &def.options {
        let constraint_name = option.name.as_ref().map(name::fold);
        match &option.option {
            ColumnOption::Null => set_null(&mut null, true, &spec, table)?,
            ColumnOption::NotNull => set_null(&mut null, false, &spec, table)?,
            other => column_option(&mut spec, &mut constraints, constraint_name, other, table)?,
        }
    }
    match null {
        Some(false) => spec.not_null = true,
        Some(true) if spec.not_null => return Err(conflicting_null(&spec.name, table)),
        _ => {}
    }
    if spec.default.is_none() {
        spec.default = super::eventual::beginning(spec.merge);
    }
    if spec.default.is_some() && (spec.serial || spec.identity.is_some()) {
        let what = if spec.serial { "multiple default values" } else { "both default and identity" };
        return Err(Error::new(
            Condition::SyntaxError,
            format!("{what} specified for column \"{}\" of table \"{table}\"", spec.name),
        ));
    }
    Ok((spec, constraints))
}

fn set_null(null: &mut Option<bool>, to: bool, spec: &ColumnSpec, table: &str) -> Result<()> {
    if null.replace(to).is_some_and(|before| before != to) {
        return Err(conflicting_null(&spec.name, table));
    }
    Ok(())
}

fn conflicting_null(column: &str, table: &str) -> Error {
    Error::new(
        Condition::SyntaxError,
        format!("conflicting NULL/NOT NULL declarations for column \"{column}\" of table \"{table}\""),
    )
}

fn column_option(
    spec: &mut ColumnSpec,
    constraints: &mut Vec<ConstraintSpec>,
    name: Option<String>,
    option: &ColumnOption,
    table: &str,
) -> Result<()> {
    let columns = || vec![spec.name.clone()];
    match option {
        ColumnOption::Default(expr) => {
            if spec.default.replace(expr.clone()).is_some() {
                return Err(Error::new(
                    Condition::SyntaxError,
                    format!("multiple default values specified for column \"{}\" of table \"{table}\"", spec.name),
                ));
            }
        }
        ColumnOption::PrimaryKey(key) => {
            immediate(key.characteristics.as_ref())?;
            constraints.push(ConstraintSpec::Primary { name, columns: columns() });
        }
        ColumnOption::Unique(unique) => {
            immediate(unique.characteristics.as_ref())?;
            constraints.push(ConstraintSpec::Unique { name, columns: columns() });
        }
        ColumnOption::Check(check) => {
            enforced(check.enforced)?;
            let condition = (*check.expr).clone();
            constraints.push(ConstraintSpec::Check { name, column: Some(spec.name.clone()), condition });
        }
        ColumnOption::ForeignKey(foreign) => {
            constraints.push(ConstraintSpec::Foreign(ForeignSpec {
                name,
                columns: columns(),
                ..foreign_key(foreign)?
            }));
        }
        ColumnOption::Generated { generated_as, sequence_options: Some(options), generation_expr: None, .. } => {
            let identity = match generated_as {
                GeneratedAs::Always => Identity::Always,
                GeneratedAs::ByDefault => Identity::ByDefault,
                GeneratedAs::ExpStored => return Err(Error::unsupported("GENERATED ALWAYS AS (expression)")),
            };
            spec.not_null = true;
            if spec.identity.replace((identity, options.clone())).is_some() {
                return Err(Error::new(
                    Condition::SyntaxError,
                    format!("multiple identity specifications for column \"{}\" of table \"{table}\"", spec.name),
                ));
            }
        }
        ColumnOption::Generated { .. } => {
            return Err(Error::unsupported("GENERATED ALWAYS AS (expression)")
                .hint("Compute the value in a view, or in the statement that writes the row."));
        }
        ColumnOption::Collation(collation) => check_collation(collation)?,
        other => return Err(Error::unsupported(format!("the column option {other}"))),
    }
    Ok(())
}

/// Text sorts by code point, which is what these collations mean.
pub(super) fn check_collation(collation: &ast::ObjectName) -> Result<()> {
    match name::parts(collation)?.1.as_str() {
        "C" | "POSIX" | "default" | "ucs_basic" => Ok(()),
        other => {
            Err(Error::unsupported(format!("the collation \"{other}\"")).hint("Text sorts by code point (\"C\")."))
        }
    }
}

fn serial(written: &DataType) -> Option<Type> {
    let DataType::Custom(name, modifiers) = written else { return None };
    if !modifiers.is_empty() {
        return None;
    }
    let (schema, name) = name::parts(name).ok()?;
    if schema.is_some_and(|s| s != "pg_catalog") {
        return None;
    }
    Some(match name.as_str() {
        "smallserial" | "serial2" => Type::Int2,
        "serial" | "serial4" => Type::Int4,
        "bigserial" | "serial8" => Type::Int8,
        _ => return None,
    })
}

/// A constraint of the table.
pub(super) fn constraint(written: &TableConstraint) -> Result<ConstraintSpec> {
    match written {
        TableConstraint::PrimaryKey(key) => {
            immediate(key.characteristics.as_ref())?;
            plain_index(key.index_type.as_ref(), &key.index_options)?;
            let columns = key.columns.iter().map(plain_column).collect::<Result<_>>()?;
            Ok(ConstraintSpec::Primary { name: key.name.as_ref().map(name::fold), columns })
        }
        TableConstraint::Unique(unique) => {
            immediate(unique.characteristics.as_ref())?;
            plain_index(unique.index_type.as_ref(), &unique.index_options)?;
            if unique.nulls_distinct == NullsDistinctOption::NotDistinct {
                return Err(Error::unsupported("NULLS NOT DISTINCT"));
            }
            let columns = unique.columns.iter().map(plain_column).collect::<Result<_>>()?;
            Ok(ConstraintSpec::Unique { name: unique.name.as_ref().map(name::fold), columns })
        }
        TableConstraint::Check(check) => {
            enforced(check.enforced)?;
            let name = check.name.as_ref().map(name::fold);
            Ok(ConstraintSpec::Check { name, column: None, condition: (*check.expr).clone() })
        }
        TableConstraint::ForeignKey(foreign) => Ok(ConstraintSpec::Foreign(foreign_key(foreign)?)),
        TableConstraint::PrimaryKeyUsingIndex(_) | TableConstraint::UniqueUsingIndex(_) => {
            Err(Error::unsupported("a constraint USING INDEX")
                .hint("Add the constraint without USING INDEX: its index is built with it."))
        }
        TableConstraint::Index(_) | TableConstraint::FulltextOrSpatial(_) => {
            Err(Error::new(Condition::SyntaxError, "an index cannot be defined within a table")
                .hint("Use CREATE INDEX."))
        }
    }
}

fn foreign_key(written: &ast::ForeignKeyConstraint) -> Result<ForeignSpec> {
    immediate(written.characteristics.as_ref())?;
    let match_full = match written.match_kind {
        None | Some(ConstraintReferenceMatchKind::Simple) => false,
        Some(ConstraintReferenceMatchKind::Full) => true,
        Some(ConstraintReferenceMatchKind::Partial) => {
            return Err(Error::new(Condition::FeatureNotSupported, "MATCH PARTIAL not yet implemented"));
        }
    };
    Ok(ForeignSpec {
        name: written.name.as_ref().map(name::fold),
        columns: written.columns.iter().map(name::fold).collect(),
        parent: written.foreign_table.clone(),
        parent_columns: written.referred_columns.iter().map(name::fold).collect(),
        on_delete: action(written.on_delete.as_ref()),
        on_update: action(written.on_update.as_ref()),
        match_full,
    })
}

fn action(written: Option<&ReferentialAction>) -> Action {
    match written {
        None | Some(ReferentialAction::NoAction) => Action::NoAction,
        Some(ReferentialAction::Restrict) => Action::Restrict,
        Some(ReferentialAction::Cascade) => Action::Cascade,
        Some(ReferentialAction::SetNull) => Action::SetNull,
        Some(ReferentialAction::SetDefault) => Action::SetDefault,
    }
}

/// Constraints are checked at the end of their statement, never later.
fn immediate(characteristics: Option<&ConstraintCharacteristics>) -> Result<()> {
    let Some(c) = characteristics else { return Ok(()) };
    enforced(c.enforced)?;
    if c.deferrable == Some(true) || matches!(c.initially, Some(DeferrableInitial::Deferred)) {
        return Err(
            Error::unsupported("a DEFERRABLE constraint").hint("Constraints are checked when each statement ends.")
        );
    }
    Ok(())
}

fn enforced(enforced: Option<bool>) -> Result<()> {
    match enforced {
        Some(false) => Err(Error::unsupported("a constraint that is NOT ENFORCED")),
        _ => Ok(()),
    }
}

fn plain_index(kind: Option<&ast::IndexType>, options: &[ast::IndexOption]) -> Result<()> {
    if kind.is_some() || !options.is_empty() {
        return Err(Error::unsupported("an index option in a constraint"));
    }
    Ok(())
}

/// The name of a column of a key: no expression, no order.
fn plain_column(column: &IndexColumn) -> Result<String> {
    let plain = column.operator_class.is_none()
        && column.column.options.asc.is_none()
        && column.column.options.nulls_first.is_none();
    match &column.column.expr {
        Expr::Identifier(ident) if plain => Ok(name::fold(ident)),
        other => Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{other}\""))),
    }
}

/// What stands behind WITH.
#[derive(Clone, Copy, Default)]
pub(super) struct TableOptions {
    pub fillfactor: Option<u8>,
    pub guarantee: Option<Guarantee>,
    /// `ack`: how many replicas keep a write before it is acknowledged
    pub replicas: Option<u32>,
}

/// What options name, and nothing else they may name.
pub(super) fn table_options(options: &CreateTableOptions) -> Result<TableOptions> {
    let options = match options {
        CreateTableOptions::None => return Ok(TableOptions::default()),
        CreateTableOptions::With(options) => options,
        other => return Err(Error::unsupported(format!("the table option {other}"))),
    };
    let mut all = TableOptions::default();
    for option in options {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(Error::new(Condition::InvalidParameterValue, format!("unrecognized parameter \"{option}\"")));
        };
        match name::fold(key).as_str() {
            "guarantee" => all.guarantee = Some(guarantee(value)?),
            "ack" => all.replicas = Some(replicas(value)?),
            "fillfactor" => all.fillfactor = Some(fillfactor(value)?),
            "oids" if is_false(value) => {}
            "oids" => return Err(Error::unsupported("WITH OIDS")),
            other => return Err(unrecognized(other)),
        }
    }
    Ok(all)
}

/// The error for a storage parameter that is not there.
pub(super) fn unrecognized(parameter: &str) -> Error {
    let error = Error::new(Condition::InvalidParameterValue, format!("unrecognized parameter \"{parameter}\""));
    if parameter.starts_with("autovacuum_") || parameter.starts_with("toast") || parameter == "parallel_workers" {
        return error.hint("Old row versions are collected by themselves; there is nothing to tune.");
    }
    error.hint("Known parameters are guarantee, ack and fillfactor.")
}

fn is_false(value: &Expr) -> bool {
    matches!(value.to_string().trim_matches('\'').to_ascii_lowercase().as_str(), "false" | "off" | "0")
}

fn guarantee(value: &Expr) -> Result<Guarantee> {
    let text = value.to_string().trim_matches('\'').to_ascii_lowercase();
    match text.as_str() {
        "strong" => Ok(Guarantee::Strong),
        "eventual" => Ok(Guarantee::Eventual),
        "byzantine" => Ok(Guarantee::Byzantine),
        _ => Err(Error::new(
            Condition::InvalidParameterValue,
            format!("invalid value for parameter \"guarantee\": \"{text}\""),
        )
        .hint("The guarantees are 'eventual', 'strong' and 'byzantine'.")),
    }
}

/// After how many replicas a write is acknowledged.
pub(super) fn replicas(value: &Expr) -> Result<u32> {
    let written = value.to_string();
    let written = written.trim_matches('\'');
    written.trim().parse().ok().filter(|n| (1..=64).contains(n)).ok_or_else(|| {
        Error::new(Condition::InvalidParameterValue, format!("invalid value for parameter \"ack\": {written}"))
            .detail("It is the number of replicas that keep a write before it is acknowledged, from 1 to 64.")
    })
}

/// A fillfactor as PostgreSQL checks it. It has no effect: rows are not stored
/// in pages that could be filled less.
pub(super) fn fillfactor(value: &Expr) -> Result<u8> {
    let written = value.to_string();
    let number = whole(value).or_else(|| written.trim_matches('\'').trim().parse().ok());
    let number = number.ok_or_else(|| {
        Error::new(
            Condition::InvalidParameterValue,
            format!("invalid value for integer option \"fillfactor\": {}", written.trim_matches('\'')),
        )
    })?;
    in_bounds(number)
}

/// [`fillfactor`] of a number.
pub(super) fn fillfactor_of(number: u64) -> Result<u8> {
    in_bounds(i64::try_from(number).unwrap_or(i64::MAX))
}

fn in_bounds(number: i64) -> Result<u8> {
    u8::try_from(number).ok().filter(|n| (10..=100).contains(n)).ok_or_else(|| {
        Error::new(Condition::InvalidParameterValue, format!("value {number} out of bounds for option \"fillfactor\""))
            .detail("Valid values are between \"10\" and \"100\".")
    })
}
