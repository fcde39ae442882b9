//! EXPLAIN: how a statement is run, in lines of text.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{DescribeAlias, Statement, UtilityOption};
use polity_base::{Type, Value};

use super::context::Context;
use super::prepared::{Plan, Prepared};
use super::{Column, Description, Outcome, Response, RowStream, Verb};
use crate::error::{Condition, Error, Result};
use crate::query::RunEnv;
use crate::write;

/// What EXPLAIN needs and gives.
pub(super) fn describe(declared: &[Option<Type>]) -> Result<Description> {
    let parameters = declared.iter().map(|t| t.clone().unwrap_or(Type::Text)).collect();
    Ok(Description { parameters, columns: Some(columns()) })
}

fn columns() -> Arc<[Column]> {
    Arc::new([Column { name: "QUERY PLAN".to_owned(), r#type: Type::Text, source: None }])
}

/// Runs EXPLAIN.
pub(super) async fn execute(
    context: &mut Context<'_>,
    statement: &Statement,
    parameters: &[Value],
) -> Result<Outcome<Response>> {
    let Statement::Explain {
        describe_alias: DescribeAlias::Explain,
        analyze,
        statement: explained,
        format: None,
        options,
        query_plan: false,
        estimate: false,
        ..
    } = statement
    else {
        return Err(Error::unsupported("this form of EXPLAIN").hint("EXPLAIN and EXPLAIN ANALYZE give text."));
    };
    let analyze = *analyze || analyze_option(options.as_deref().unwrap_or_default())?;
    let prepared = Prepared::new(explained.to_string(), Some((**explained).clone()), Vec::new());
    let lines = match super::run::plan(context, &prepared, explained)? {
        Some(Plan::Point(point)) => {
            let mut lines = point.explain();
            if analyze {
                let begun = tokio::time::Instant::now();
                let rows = match point.run(context, parameters).await? {
                    Outcome::Stale => return Ok(Outcome::Stale),
                    Outcome::Done(Response::Rows(mut rows)) => rows.next(usize::MAX).await?.len(),
                    Outcome::Done(_) => 0,
                };
                lines.push(format!("Rows: {rows}"));
                lines.push(format!("Execution Time: {:.3} ms", begun.elapsed().as_secs_f64() * 1e3));
            }
            lines
        }
        Some(Plan::Query(planned)) => {
            let env = RunEnv::of(context);
            context.engine.planner().explain(&planned, parameters, &context.txn.view(), env, analyze).await?
        }
        None if analyze => {
            return Err(Error::unsupported("EXPLAIN ANALYZE of this statement")
                .hint("EXPLAIN without ANALYZE, or EXPLAIN ANALYZE of the query it runs."));
        }
        None => write::explain(context, explained)?,
    };
    let rows = lines.into_iter().map(|line| vec![Value::Text(line)]).collect();
    Ok(Outcome::Done(Response::Rows(RowStream::ready(columns(), Verb::Explain, rows))))
}

fn analyze_option(options: &[UtilityOption]) -> Result<bool> {
    let mut analyze = false;
    for option in options {
        let on = option.arg.as_ref().is_none_or(|a| {
            let word = a.to_string().to_ascii_lowercase();
            matches!(word.trim_matches('\''), "true" | "on" | "1")
        });
        match option.name.value.to_ascii_lowercase().as_str() {
            "analyze" => analyze = on,
            "verbose" | "costs" | "timing" | "summary" if !on => {}
            other => {
                return Err(Error::new(
                    Condition::FeatureNotSupported,
                    format!("EXPLAIN option \"{other}\" is not supported"),
                )
                .hint("ANALYZE is the option there is."));
            }
        }
    }
    Ok(analyze)
}
