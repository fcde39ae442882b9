//! What PostgreSQL calls an output column that was given no name
//! (`FigureColname` in its parse_target.c).

use datafusion::sql::sqlparser::ast::{AccessExpr, Expr as Ast};

use crate::catalog::{name, types};

/// The name of an output column.
pub fn label(ast: &Ast) -> String {
    named(ast).map_or_else(|| "?column?".to_owned(), |(name, _)| name)
}

/// The name and whether it is a good one: that of a type or of CASE gives way.
fn named(ast: &Ast) -> Option<(String, bool)> {
    let good = |name: &str| Some((name.to_owned(), true));
    match ast {
        Ast::Nested(inner) | Ast::Collate { expr: inner, .. } => named(inner),
        Ast::Identifier(word) => Some((name::fold(word), true)),
        Ast::CompoundIdentifier(words) => words.last().map(|w| (name::fold(w), true)),
        Ast::CompoundFieldAccess { root, access_chain } => match access_chain.last() {
            Some(AccessExpr::Dot(inner)) => named(inner),
            _ => named(root),
        },
        Ast::Function(call) => {
            let (_, name) = name::parts(&call.name).ok()?;
            Some((name, true))
        }
        Ast::Cast { expr, data_type, .. } => match named(expr) {
            Some((name, true)) => Some((name, true)),
            weak => match types::data_type(data_type) {
                Ok(t) => Some((type_label(&t), false)),
                Err(_) => weak,
            },
        },
        Ast::TypedString(typed) => types::data_type(&typed.data_type).ok().map(|t| (type_label(&t), false)),
        Ast::Interval(_) => Some(("interval".to_owned(), false)),
        Ast::Case { else_result, .. } => match else_result.as_deref().and_then(named) {
            Some((name, true)) => Some((name, true)),
            _ => Some(("case".to_owned(), false)),
        },
        Ast::Extract { .. } => good("extract"),
        Ast::Ceil { .. } => good("ceil"),
        Ast::Floor { .. } => good("floor"),
        Ast::Position { .. } => good("position"),
        Ast::Substring { .. } => good("substring"),
        Ast::Overlay { .. } => good("overlay"),
        Ast::AtTimeZone { .. } => good("timezone"),
        Ast::Trim { trim_where, .. } => {
            use datafusion::sql::sqlparser::ast::TrimWhereField as T;
            good(match trim_where {
                None | Some(T::Both) => "btrim",
                Some(T::Leading) => "ltrim",
                Some(T::Trailing) => "rtrim",
            })
        }
        Ast::Array(_) => good("array"),
        Ast::Tuple(_) => good("row"),
        Ast::Exists { .. } => good("exists"),
        _ => None,
    }
}

fn type_label(r#type: &polity_base::Type) -> String {
    match r#type {
        polity_base::Type::Array(element) => types::internal_name(element),
        other => types::internal_name(other),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    #[test]
    fn labels_are_postgresqls() {
        for (sql, expected) in [
            ("a", "a"),
            ("t.\"B\"", "B"),
            ("1", "?column?"),
            ("a + 1", "?column?"),
            ("count(*)", "count"),
            ("'1'::int", "int4"),
            ("a::text", "a"),
            ("CASE WHEN a THEN 1 ELSE 2 END", "case"),
            ("CASE WHEN a THEN 1 ELSE b END", "b"),
            ("CURRENT_TIMESTAMP", "current_timestamp"),
            ("date '2020-01-01'", "date"),
            ("coalesce(a, 1)", "coalesce"),
            ("trim(a)", "btrim"),
        ] {
            let ast = Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).unwrap().parse_expr().unwrap();
            assert_eq!(super::label(&ast), expected, "{sql}");
        }
    }
}
