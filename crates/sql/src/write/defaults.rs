//! What columns get that a statement gives no value.

use polity_base::{Type, Value};

use super::rule::{self, Rule};
use crate::catalog::{Catalog, Column, Table};
use crate::error::Result;
use crate::expr::{Assign, Env, Expr, Local, Parameters, Scope};
use crate::query::{PlanInput, RunEnv};
use crate::session::Context;

/// The default of one column.
pub struct Default {
    /// `None`: NULL
    rule: Option<(Rule, Assign)>,
}

impl Default {
    /// The default of `column`. What the small evaluator does not cover needs
    /// `input`; without it, it gives `None`.
    pub fn of(catalog: &Catalog, column: &Column, input: Option<&PlanInput>) -> Result<Option<Default>> {
        let Some(text) = &column.default else { return Ok(Some(Default { rule: None })) };
        let ast = rule::stored(text)?;
        let mut parameters = Parameters::default();
        let mut scope = Scope::new(catalog, &mut parameters);
        let Some(rule) = Rule::compile(&ast, Some(&column.r#type), &mut scope, input)? else { return Ok(None) };
        let assign = Assign::new(rule.r#type(), &column.r#type, &column.name)?;
        Ok(Some(Default { rule: Some((rule, assign)) }))
    }

    /// The default of every column of `table`, in their order.
    pub fn all(ctx: &Context<'_>, table: &Table) -> Result<Vec<Default>> {
        let mut input = None;
        let mut all = Vec::with_capacity(table.columns.len());
        for column in &table.columns {
            let default = match Default::of(ctx.catalog, column, None)? {
                Some(default) => default,
                None => {
                    let input = input.get_or_insert_with(|| PlanInput::of(ctx));
                    Default::of(ctx.catalog, column, Some(input))?.unwrap_or(Default { rule: None })
                }
            };
            all.push(default);
        }
        Ok(all)
    }

    /// The same value for every row, when that is known.
    pub fn constant(&self) -> Option<Value> {
        match &self.rule {
            None => Some(Value::Null),
            Some((Rule::Small(expr), assign)) => {
                let value = expr.as_constant()?.clone();
                assign.apply(value, Local::UTC).ok()
            }
            Some(_) => None,
        }
    }

    /// The value for one row.
    pub async fn value(&self, ctx: &mut Context<'_>, run: &mut Option<RunEnv>) -> Result<Value> {
        let Some((rule, assign)) = &self.rule else { return Ok(Value::Null) };
        let mut drawn = Vec::new();
        rule.draw(ctx, &mut drawn).await?;
        let run = run.get_or_insert_with(|| RunEnv::of(ctx));
        let env = Env::of(ctx, &[]).drawn(&drawn);
        assign.apply(rule.eval(&env, run)?, env.local)
    }

    /// The default as a small expression with its conversion; `None` when it is
    /// not one.
    pub fn into_small(self, r#type: &Type) -> Option<(Expr, Assign)> {
        match self.rule {
            None => {
                let null = Expr::constant(Value::Null, r#type.clone());
                let assign = Assign::new(r#type, r#type, "").ok()?;
                Some((null, assign))
            }
            Some((Rule::Small(expr), assign)) => Some((expr, assign)),
            Some((Rule::General(_), _)) => None,
        }
    }
}
