//! Expressions that are evaluated over rows being written: defaults, checks,
//! `RETURNING` and `SET` items.
//!
//! Most are small and run in [`crate::expr`]; the others go through the planner
//! once and through DataFusion for each row.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr as Ast, Ident, visit_expressions_mut};
use polity_base::{Type, Value};

use crate::ddl::dialect;
use crate::ddl::sequence;
use crate::error::{Condition, Error, Result};
use crate::expr::{self, Env, Expr, Scope};
use crate::query::{PlanInput, RunEnv, Scalar};
use crate::session::Context;

/// A compiled expression over a row.
pub enum Rule {
    /// In the small evaluator
    Small(Expr),
    /// In DataFusion
    General(Box<Scalar>),
}

impl Rule {
    /// The type of its values.
    pub fn r#type(&self) -> &Type {
        match self {
            Rule::Small(expr) => &expr.r#type,
            Rule::General(scalar) => &scalar.r#type,
        }
    }

    /// Compiles `ast` over the columns of `scope`. With `wanted`, literals and
    /// parameters that stand alone are of that type. What the small evaluator
    /// does not cover needs `input`; without it, it gives `None`.
    pub fn compile(
        ast: &Ast,
        wanted: Option<&Type>,
        scope: &mut Scope<'_>,
        input: Option<&PlanInput>,
    ) -> Result<Option<Rule>> {
        let before = scope.parameters.clone();
        let small = match wanted {
            Some(t) => expr::compile_as(ast, t, scope),
            None => expr::compile(ast, scope),
        };
        if let Some(expr) = small {
            return Ok(Some(Rule::Small(expr)));
        }
        *scope.parameters = before;
        input.map(|input| general(ast, scope, input)).transpose()
    }

    /// Draws the values of sequences that the next evaluation needs.
    pub async fn draw(&self, ctx: &mut Context<'_>, drawn: &mut Vec<i64>) -> Result<()> {
        drawn.clear();
        let Rule::Small(expr) = self else { return Ok(()) };
        for id in &expr.sequences {
            drawn.push(sequence::next_value(ctx, *id).await?);
        }
        Ok(())
    }

    /// The value over one row.
    pub fn eval(&self, env: &Env<'_>, run: &RunEnv) -> Result<Value> {
        match self {
            Rule::Small(expr) => expr.eval(env),
            Rule::General(scalar) => {
                let rows = [env.columns.to_vec()];
                let mut values = scalar.eval(&rows, env.parameters, run)?;
                values.pop().ok_or_else(|| Error::internal("an expression gave no value"))
            }
        }
    }

    /// Whether the value over one row is false: what a CHECK refuses.
    pub fn is_false(&self, env: &Env<'_>, run: &RunEnv) -> Result<bool> {
        match self {
            Rule::Small(expr) => expr.is_false(env),
            Rule::General(_) => Ok(self.eval(env, run)? == Value::Bool(false)),
        }
    }

    /// The first row over which the value is false.
    pub fn first_false<'r>(
        &self,
        rows: &'r [Vec<Value>],
        env: &Env<'_>,
        run: &RunEnv,
    ) -> Result<Option<&'r Vec<Value>>> {
        match self {
            Rule::Small(expr) => {
                for row in rows {
                    if expr.is_false(&env.row(row))? {
                        return Ok(Some(row));
                    }
                }
                Ok(None)
            }
            Rule::General(scalar) => {
                let values = scalar.eval(rows, env.parameters, run)?;
                let at = values.iter().position(|v| *v == Value::Bool(false));
                Ok(at.and_then(|at| rows.get(at)))
            }
        }
    }

    /// Whether the value over one row is true.
    pub fn is_true(&self, env: &Env<'_>, run: &RunEnv) -> Result<bool> {
        match self {
            Rule::Small(expr) => expr.is_true(env),
            Rule::General(_) => Ok(self.eval(env, run)? == Value::Bool(true)),
        }
    }
}

/// Columns get names of their own, since the general path knows no qualifiers.
fn general(ast: &Ast, scope: &mut Scope<'_>, input: &PlanInput) -> Result<Rule> {
    let mut columns = Vec::with_capacity(scope.width());
    for source in &scope.sources {
        for (name, r#type) in &source.columns {
            columns.push(((*name).to_owned(), (*r#type).clone()));
        }
    }
    let mut renamed = ast.clone();
    if scope.sources.len() > 1 || has_qualifiers(ast) {
        for (at, (name, _)) in columns.iter_mut().enumerate() {
            *name = format!("column {at}");
        }
        let renaming = visit_expressions_mut(&mut renamed, |e| {
            let words = match e {
                Ast::Identifier(word) => std::slice::from_ref(word),
                Ast::CompoundIdentifier(words) => words.as_slice(),
                _ => return ControlFlow::Continue(()),
            };
            match scope.column(words) {
                Some((at, _)) => {
                    *e = Ast::Identifier(Ident::with_quote('"', format!("column {at}")));
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Break(undefined(words, scope)),
            }
        });
        if let ControlFlow::Break(error) = renaming {
            return Err(error);
        }
    }
    let scalar = Scalar::compile(input, &columns, &renamed, None, &scope.parameters.types())?;
    let used = super::select::placeholders(ast);
    for (at, r#type) in scalar.parameters.iter().enumerate().filter(|(at, _)| used.contains(at)) {
        scope.parameters.infer(at, r#type);
    }
    Ok(Rule::General(Box::new(scalar)))
}

fn has_qualifiers(ast: &Ast) -> bool {
    datafusion::sql::sqlparser::ast::visit_expressions(ast, |e| match e {
        Ast::CompoundIdentifier(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}

/// The error for a column that is not there, or is there twice.
pub fn undefined(words: &[Ident], scope: &Scope<'_>) -> Error {
    let names: Vec<String> = words.iter().map(crate::catalog::name::fold).collect();
    let Some(column) = names.last() else { return Error::internal("a column without a name") };
    if let [qualifier, _] = names.as_slice() {
        return if scope.sources.iter().any(|s| s.qualifier.as_ref() == Some(qualifier)) {
            Error::new(Condition::UndefinedColumn, format!("column {qualifier}.{column} does not exist"))
        } else {
            Error::new(Condition::UndefinedTable, format!("missing FROM-clause entry for table \"{qualifier}\""))
        };
    }
    let found = scope.sources.iter().filter(|s| s.columns.iter().any(|(n, _)| n == column)).count();
    if found > 1 {
        Error::new(Condition::AmbiguousColumn, format!("column reference \"{column}\" is ambiguous"))
    } else {
        Error::new(Condition::UndefinedColumn, format!("column \"{column}\" does not exist"))
    }
}

/// The expression that the catalog keeps as text.
pub fn stored(text: &str) -> Result<Ast> {
    dialect::read_text(text, |parser| parser.parse_expr())
        .map_err(|e| Error::new(Condition::DataCorrupted, format!("the stored expression {text} cannot be read: {e}")))
}
