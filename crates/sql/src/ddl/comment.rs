//! COMMENT ON TABLE, COLUMN and VIEW.

use datafusion::sql::sqlparser::ast::{CommentObject, ObjectName};

use super::alter::lock_relation;
use crate::catalog::change::Change;
use crate::catalog::{Relation, Table, View, name};
use crate::error::{Condition, Error, Result};
use crate::session::Context;

/// COMMENT ON
pub(super) async fn execute(
    ctx: &mut Context<'_>,
    kind: &CommentObject,
    written: &ObjectName,
    comment: Option<&str>,
    if_exists: bool,
) -> Result<String> {
    // An empty comment is none.
    let comment = comment.filter(|c| !c.is_empty()).map(str::to_owned);
    let mut relation_name = written.clone();
    let column = match kind {
        CommentObject::Column => relation_name.0.pop().and_then(|p| p.as_ident().map(name::fold)),
        CommentObject::Table | CommentObject::View => None,
        other => return Err(Error::unsupported(format!("COMMENT ON {other}"))),
    };
    if relation_name.0.is_empty() {
        return Err(Error::new(Condition::SyntaxError, "column name must be qualified"));
    }
    let Some(relation) = lock_relation(ctx, &relation_name, if_exists, None).await? else {
        return Ok("COMMENT".to_owned());
    };
    let mut change = Change::of(ctx.catalog);
    match (kind, &relation) {
        (CommentObject::Table, Relation::Table(t)) => change.put_table(Table { comment, ..(**t).clone() })?,
        (CommentObject::View, Relation::View(v)) => change.put_view(View { comment, ..(**v).clone() })?,
        (CommentObject::Column, Relation::Table(t)) => {
            let column = column.unwrap_or_default();
            let mut table = (**t).clone();
            match table.columns.iter_mut().find(|c| c.name == column) {
                Some(found) => found.comment = comment,
                None => return Err(super::no_column(&t.name, &column)),
            }
            change.put_table(table)?;
        }
        (CommentObject::Column, _) => return Err(Error::unsupported("COMMENT ON COLUMN of anything but a table")),
        (kind, _) => {
            let (article, word) = ("a", kind.to_string().to_lowercase());
            let name = name::object(&relation_name)?;
            return Err(Error::new(Condition::WrongObjectType, format!("\"{name}\" is not {article} {word}")));
        }
    }
    change.make(ctx)?;
    Ok("COMMENT".to_owned())
}
