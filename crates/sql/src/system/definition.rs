//! Objects as the SQL that would make them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, Expr, Ident, ObjectName, ObjectNamePart, Value as Literal, visit_expressions_mut, visit_relations_mut,
};
use polity_base::key::Direction;
use polity_base::{ColumnId, TableId, Type};

use super::relations::{index_of_constraint, indexes_of};
use crate::catalog::{Action, Catalog, Check, ForeignKey, Relation, Table, name, types};
use crate::ddl::view::names_of_ctes;
use crate::ddl::{dialect, expression};
use crate::expr::cast::without_modifier;

fn names(table: &Table, columns: &[ColumnId]) -> String {
    let names: Vec<String> =
        columns.iter().filter_map(|c| table.column_by_id(*c)).map(|c| name::quote(&c.name)).collect();
    names.join(", ")
}

/// The columns a CHECK uses, in the table's order.
pub(super) fn columns_of_check(table: &Table, check: &Check) -> Vec<ColumnId> {
    let Ok(condition) = expression::parse(&check.expression) else { return Vec::new() };
    let used = expression::columns(&condition);
    table.columns.iter().filter(|c| used.contains(&c.name)).map(|c| c.id).collect()
}

/// An expression as PostgreSQL shows it: constants that were written as strings
/// say their type. `whole`: the type of the column it is a default of; `schema`: what
/// names of relations begin with.
pub(super) fn shown(table: &Table, written: &str, whole: Option<&Type>, schema: &str) -> String {
    let Ok(mut expr) = expression::parse(written) else { return written.to_owned() };
    if let Some(sequence) = expression::nextval_of(&expr) {
        let schema = if sequence.contains('.') { "" } else { schema };
        return format!("nextval({}::regclass)", name::literal(&format!("{schema}{sequence}")));
    }
    let is_string = |e: &Expr| matches!(e, Expr::Value(v) if matches!(v.value, Literal::SingleQuotedString(_)));
    if let Some(r#type) = whole
        && is_string(&expr)
    {
        return format!("{expr}::{}", constant_type(r#type));
    }
    let typed = |e: &mut Box<Expr>, r#type: &str| {
        if is_string(e) {
            // A name is what a cast of any type is written with.
            **e = Expr::Identifier(Ident::new(format!("{e}::{type}")));
        }
    };
    let column = |e: &Expr| match e {
        Expr::Identifier(name) => table.column(&name::fold(name)).map(|c| c.r#type.clone()),
        _ => None,
    };
    let _ = visit_expressions_mut(&mut expr, |e| {
        if let Expr::Cast { kind: CastKind::DoubleColon, expr, data_type, .. } = e
            && let Ok(r#type) = types::data_type(data_type)
        {
            *e = Expr::Identifier(Ident::new(format!("{expr}::{type}")));
        }
        if let Expr::BinaryOp { left, right, .. } = e {
            match (column(left), column(right)) {
                // Texts of a limited length are compared as text, which says nothing here.
                (Some(Type::Varchar(_) | Type::Char(_)), _) | (_, Some(Type::Varchar(_) | Type::Char(_))) => {}
                (Some(t), None) => typed(right, &constant_type(&t)),
                (None, Some(t)) => typed(left, &constant_type(&t)),
                _ => {}
            }
        }
        ControlFlow::<()>::Continue(())
    });
    expr.to_string()
}

/// The name of a constant's type: without modifier, which `character` would mean one by.
fn constant_type(r#type: &Type) -> String {
    match r#type {
        Type::Char(_) => "bpchar".to_owned(),
        other => without_modifier(other).to_string(),
    }
}

/// A constraint: `PRIMARY KEY (a)`, `CHECK ((a > 0))`, …; names of relations begin with
/// `schema`.
pub fn constraint(catalog: &Catalog, oid: u32, pretty: bool, schema: &str) -> Option<String> {
    if let Some(index) = index_of_constraint(oid) {
        let table = catalog.tables.get(catalog.index_tables.get(&index)?)?;
        let facts = indexes_of(table).find(|i| i.id == index && i.constraint)?;
        let columns: Vec<ColumnId> = facts.columns.iter().map(|(c, _)| *c).collect();
        let kind = if facts.primary { "PRIMARY KEY" } else { "UNIQUE" };
        return Some(format!("{kind} ({})", names(table, &columns)));
    }
    for table in catalog.tables.values() {
        if let Some(check) = table.checks.iter().find(|c| c.id.0 == oid) {
            let condition = shown(table, &check.expression, None, schema);
            return Some(if pretty { format!("CHECK ({condition})") } else { format!("CHECK (({condition}))") });
        }
        if let Some(key) = table.foreign_keys.iter().find(|f| f.id.0 == oid) {
            return Some(foreign_key(catalog, table, key, schema));
        }
    }
    None
}

fn foreign_key(catalog: &Catalog, table: &Table, key: &ForeignKey, schema: &str) -> String {
    let mut text = format!("FOREIGN KEY ({})", names(table, &key.columns));
    if let Some(parent) = catalog.tables.get(&key.parent) {
        let columns = names(parent, &key.parent_columns);
        text.push_str(&format!(" REFERENCES {schema}{}({columns})", name::quote(&parent.name)));
    }
    if key.match_full {
        text.push_str(" MATCH FULL");
    }
    for (when, action) in [("UPDATE", key.on_update), ("DELETE", key.on_delete)] {
        if let Some(words) = action_words(action) {
            text.push_str(&format!(" ON {when} {words}"));
        }
    }
    text
}

/// A referential action as it is written; `None` for the one that goes unsaid.
fn action_words(action: Action) -> Option<&'static str> {
    match action {
        Action::NoAction => None,
        Action::Restrict => Some("RESTRICT"),
        Action::Cascade => Some("CASCADE"),
        Action::SetNull => Some("SET NULL"),
        Action::SetDefault => Some("SET DEFAULT"),
    }
}

/// An index: `CREATE UNIQUE INDEX i ON public.t USING btree (a, b DESC)`.
pub fn index(catalog: &Catalog, id: TableId, with_schema: bool) -> Option<String> {
    let table = catalog.tables.get(catalog.index_tables.get(&id)?)?;
    let facts = indexes_of(table).find(|i| i.id == id)?;
    let columns: Vec<String> = facts
        .columns
        .iter()
        .filter_map(|(c, direction)| {
            let name = name::quote(&table.column_by_id(*c)?.name);
            Some(if *direction == Direction::Descending { format!("{name} DESC") } else { name })
        })
        .collect();
    let unique = if facts.unique { "UNIQUE " } else { "" };
    let schema = if with_schema { "public." } else { "" };
    let fill = facts.fillfactor.map_or(String::new(), |f| format!(" WITH (fillfactor='{f}')"));
    Some(format!(
        "CREATE {unique}INDEX {} ON {schema}{} USING btree ({}){fill}",
        name::quote(facts.name),
        name::quote(&table.name),
        columns.join(", ")
    ))
}

/// The column at a position of an index, counted from 1.
pub fn index_column(catalog: &Catalog, id: TableId, position: usize) -> Option<String> {
    let table = catalog.tables.get(catalog.index_tables.get(&id)?)?;
    let facts = indexes_of(table).find(|i| i.id == id)?;
    let (column, _) = facts.columns.get(position.checked_sub(1)?)?;
    Some(name::quote(&table.column_by_id(*column)?.name))
}

/// A view's query. `qualified`: where the schema is not looked in, relations say it.
pub fn view(catalog: &Catalog, id: TableId, qualified: bool) -> Option<String> {
    let Relation::View(view) = catalog.relation_by_id(id)? else { return None };
    let text = super::relations::view_text(&view);
    if !qualified {
        return Some(text);
    }
    let Ok(mut query) = dialect::read_text(&view.query, |parser| parser.parse_query()) else { return Some(text) };
    let own = names_of_ctes(&query);
    let _ = visit_relations_mut(&mut query, |relation: &mut ObjectName| {
        if let [ObjectNamePart::Identifier(written)] = relation.0.as_slice() {
            let name = name::fold(written);
            if !own.contains(&name) && catalog.names.contains_key(&name) {
                relation.0.insert(0, ObjectNamePart::Identifier(Ident::new("public")));
            }
        }
        ControlFlow::<()>::Continue(())
    });
    Some(format!(" {query};"))
}
