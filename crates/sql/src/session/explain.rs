//! EXPLAIN: how a statement is run, in lines of text or as json.
//!
//! Plans come as lines indented by two spaces per level. As json each line is an object with the lines below it in
//! `Plans`; what follows the plan (row counts, times) are members of the outermost object.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{AnalyzeFormat, AnalyzeFormatKind, DescribeAlias, Statement, UtilityOption};
use polity_base::{Type, Value};
use serde_json::{Map, Value as Json, json};

use super::context::Context;
use super::prepared::{Plan, Prepared};
use super::{Column, Description, Outcome, Response, RowStream, Verb};
use crate::error::{Condition, Error, Result};
use crate::query::{Explained, RunEnv};
use crate::write;

/// What EXPLAIN needs and gives.
pub(super) fn describe(statement: &Statement, declared: &[Option<Type>]) -> Result<Description> {
    let parameters = declared.iter().map(|t| t.clone().unwrap_or(Type::Text)).collect();
    let (options, _) = Options::of(statement)?;
    Ok(Description { parameters, columns: Some(columns(&options)) })
}

fn columns(options: &Options) -> Arc<[Column]> {
    let r#type = if options.json { Type::Json } else { Type::Text };
    Arc::new([Column { name: "QUERY PLAN".to_owned(), r#type, source: None }])
}

/// What EXPLAIN is to show.
struct Options {
    analyze: bool,
    verbose: bool,
    timing: bool,
    summary: bool,
    json: bool,
}

impl Options {
    /// The options of an EXPLAIN, and the statement it explains.
    fn of(statement: &Statement) -> Result<(Options, &Statement)> {
        let Statement::Explain {
            describe_alias: DescribeAlias::Explain,
            analyze,
            verbose,
            statement: explained,
            format,
            options,
            query_plan: false,
            estimate: false,
        } = statement
        else {
            return Err(Error::unsupported("this form of EXPLAIN").hint("Write EXPLAIN (options) statement."));
        };
        let mut chosen = Options { analyze: *analyze, verbose: *verbose, timing: true, summary: true, json: false };
        match format {
            None | Some(AnalyzeFormatKind::Keyword(AnalyzeFormat::TEXT)) => {}
            Some(AnalyzeFormatKind::Keyword(AnalyzeFormat::JSON)) => chosen.json = true,
            Some(_) => return Err(Error::unsupported("this format of EXPLAIN").hint("Formats are text and json.")),
        }
        for option in options.as_deref().unwrap_or_default() {
            chosen.set(option)?;
        }
        Ok((chosen, explained))
    }

    fn set(&mut self, option: &UtilityOption) -> Result<()> {
        let name = option.name.value.to_ascii_lowercase();
        let value = option.arg.as_ref().map(|a| a.to_string().trim_matches('\'').to_ascii_lowercase());
        if name == "format" {
            self.json = match value.as_deref().unwrap_or_default() {
                "text" => false,
                "json" => true,
                other @ ("xml" | "yaml") => {
                    return Err(
                        Error::unsupported(format!("EXPLAIN in format {other}")).hint("Formats are text and json.")
                    );
                }
                other => {
                    return Err(Error::new(
                        Condition::InvalidParameterValue,
                        format!("unrecognized value for EXPLAIN option \"format\": \"{other}\""),
                    ));
                }
            };
            return Ok(());
        }
        let on = match value.as_deref() {
            None | Some("true" | "on" | "1") => true,
            Some("false" | "off" | "0") => false,
            Some(_) => {
                return Err(Error::new(Condition::SyntaxError, format!("{name} requires a Boolean value")));
            }
        };
        match name.as_str() {
            "analyze" => self.analyze = on,
            "verbose" => self.verbose = on,
            "timing" => self.timing = on,
            "summary" => self.summary = on,
            "costs" | "buffers" | "settings" | "wal" if !on => {}
            "costs" | "buffers" | "settings" | "wal" => {
                return Err(Error::unsupported(format!("EXPLAIN option \"{name}\""))
                    .hint("Options are ANALYZE, VERBOSE, TIMING, SUMMARY and FORMAT."));
            }
            _ => {
                return Err(Error::new(Condition::SyntaxError, format!("unrecognized EXPLAIN option \"{name}\""))
                    .hint("Options are ANALYZE, VERBOSE, TIMING, SUMMARY and FORMAT."));
            }
        }
        Ok(())
    }

    fn shown(&self, explained: Explained) -> Vec<String> {
        let Explained { plan, rows, planning, execution } = explained;
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
        let mut facts: Vec<(&str, Json, String)> = Vec::new();
        if let Some(rows) = rows {
            facts.push(("Rows", json!(rows), rows.to_string()));
        }
        for (name, time) in [("Planning Time", planning), ("Execution Time", execution)] {
            if let Some(time) = time.filter(|_| self.summary && self.timing) {
                facts.push((name, json!((ms(time) * 1e3).round() / 1e3), format!("{:.3} ms", ms(time))));
            }
        }
        if !self.json {
            let facts = facts.into_iter().map(|(name, _, text)| format!("{name}: {text}"));
            return plan.into_iter().chain(facts).collect();
        }
        let mut whole = Map::new();
        whole.insert("Plan".to_owned(), tree(&plan).pop().unwrap_or_else(|| json!({})));
        whole.extend(facts.into_iter().map(|(name, value, _)| (name.to_owned(), value)));
        let text = serde_json::to_string_pretty(&json!([whole])).unwrap_or_default();
        vec![text]
    }
}

/// Lines as objects, those below a line in its `Plans`.
fn tree(lines: &[String]) -> Vec<Json> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut nodes = Vec::new();
    let mut rest = lines;
    while let Some((first, after)) = rest.split_first() {
        let below = after.iter().take_while(|l| depth(l) > depth(first)).count();
        let (children, next) = after.split_at(below);
        let line = first.trim().trim_start_matches("->").trim();
        let (kind, details) = line.split_once(": ").map_or((line, None), |(kind, details)| (kind, Some(details)));
        let mut node = Map::new();
        node.insert("Node Type".to_owned(), json!(kind));
        if let Some(details) = details {
            node.insert("Details".to_owned(), json!(details));
        }
        if !children.is_empty() {
            node.insert("Plans".to_owned(), Json::Array(tree(children)));
        }
        nodes.push(Json::Object(node));
        rest = next;
    }
    nodes
}

/// Runs EXPLAIN.
pub(super) async fn execute(
    context: &mut Context<'_>,
    statement: &Statement,
    parameters: &[Value],
) -> Result<Outcome<Response>> {
    let (options, explained) = Options::of(statement)?;
    let prepared = Prepared::new(explained.to_string(), Some(explained.clone()), Vec::new());
    let explained = match super::run::plan(context, &prepared, explained)? {
        Some(Plan::Point(point)) => {
            let mut shown = Explained { plan: point.explain(), ..Explained::default() };
            if options.analyze {
                let begun = tokio::time::Instant::now();
                shown.rows = Some(match point.run(context, parameters).await? {
                    Outcome::Stale => return Ok(Outcome::Stale),
                    Outcome::Done(Response::Rows(mut rows)) => rows.next(usize::MAX).await?.len(),
                    Outcome::Done(_) => 0,
                });
                shown.execution = Some(begun.elapsed());
            }
            shown
        }
        Some(Plan::Query(planned)) => {
            let env = RunEnv::of(context);
            let metrics = options.analyze && options.timing;
            let ask = (options.analyze, metrics, options.verbose);
            context.engine.planner().explain(&planned, parameters, &context.txn.view(), env, ask).await?
        }
        None if options.analyze => {
            return Err(Error::unsupported("EXPLAIN ANALYZE of this statement")
                .hint("EXPLAIN without ANALYZE, or EXPLAIN ANALYZE of the query it runs."));
        }
        None => Explained { plan: write::explain(context, explained)?, ..Explained::default() },
    };
    let rows = options.shown(explained).into_iter().map(|line| vec![Value::Text(line)]).collect();
    Ok(Outcome::Done(Response::Rows(RowStream::ready(columns(&options), Verb::Explain, rows))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::prepared::parse;

    fn options(sql: &str) -> Result<Options> {
        let statement = parse(sql)?.pop().unwrap();
        Options::of(&statement.statement).map(|(options, _)| options)
    }

    #[test]
    fn options_are_taken_and_unknown_ones_refused() {
        let o = options("EXPLAIN (ANALYZE, TIMING off, COSTS false, FORMAT json) SELECT 1").unwrap();
        assert!(o.analyze && !o.timing && o.json && o.summary && !o.verbose);
        assert!(options("EXPLAIN ANALYZE VERBOSE SELECT 1").unwrap().verbose);
        let condition = |sql: &str| options(sql).err().unwrap().condition();
        assert_eq!(condition("EXPLAIN (COLOUR) SELECT 1"), Condition::SyntaxError);
        assert_eq!(condition("EXPLAIN (ANALYZE perhaps) SELECT 1"), Condition::SyntaxError);
        assert_eq!(condition("EXPLAIN (BUFFERS) SELECT 1"), Condition::FeatureNotSupported);
        assert_eq!(condition("EXPLAIN (FORMAT yaml) SELECT 1"), Condition::FeatureNotSupported);
        assert_eq!(condition("EXPLAIN (FORMAT poem) SELECT 1"), Condition::InvalidParameterValue);
    }

    #[test]
    fn json_nests_as_lines_are_indented() {
        let lines = ["Sort: a", "  Join", "    Scan: t", "    Scan: u"].map(str::to_owned);
        let scan = |t: &str| json!({"Node Type": "Scan", "Details": t});
        let join = json!({"Node Type": "Join", "Plans": [scan("t"), scan("u")]});
        assert_eq!(tree(&lines), [json!({"Node Type": "Sort", "Details": "a", "Plans": [join]})]);
    }
}
