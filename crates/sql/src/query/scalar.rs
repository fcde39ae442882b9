//! One expression over given rows: defaults, checks, RETURNING and SET, where
//! [`crate::expr`] does not know the expression.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::Array;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::create_physical_expr;
use datafusion::sql::sqlparser::ast;
use polity_base::{Type, Value};

use super::bind::Binder;
use super::bind::bound::Names;
use super::bind::scope::{Asked, Level, Scope, ScopeColumn};
use super::run::{self, unpanicked_now};
use super::types::{self, Cells};
use super::{PlanInput, RunEnv, errors};
use crate::error::{Error, Result};

/// An expression over given columns, without subqueries, compiled once.
pub struct Scalar {
    /// The type of the result
    pub r#type: Type,
    /// The types of the parameters
    pub parameters: Vec<Type>,
    expr: Expr,
    schema: SchemaRef,
    /// Columns it reads; others need not be converted
    used: Vec<bool>,
}

impl Scalar {
    /// Compiles `expr` over `columns`, converted to `wanted` as an assignment
    /// would. Parameters are `$1`, `$2`, … of the types `parameter_types`.
    pub fn compile(
        input: &PlanInput,
        columns: &[(String, Type)],
        expr: &ast::Expr,
        wanted: Option<&Type>,
        parameter_types: &[Option<Type>],
    ) -> Result<Scalar> {
        unpanicked_now(|| Scalar::compile_inner(input, columns, expr, wanted, parameter_types))
    }

    fn compile_inner(
        input: &PlanInput,
        columns: &[(String, Type)],
        expr: &ast::Expr,
        wanted: Option<&Type>,
        parameter_types: &[Option<Type>],
    ) -> Result<Scalar> {
        let binder = Binder::new(input, parameter_types, false);
        let mut scope = Scope::default();
        let mut fields = Vec::with_capacity(columns.len());
        for (i, (name, r#type)) in columns.iter().enumerate() {
            let data = types::data_type(r#type);
            fields.push(Field::new(format!("c{i}"), data.clone(), true));
            scope.columns.push(ScopeColumn {
                relation: None,
                name: name.clone(),
                column: Column::new_unqualified(format!("c{i}")),
                r#type: r#type.clone(),
                data,
                names: Names::Relation,
                source: None,
                hidden: false,
                merged: false,
            });
        }
        let asked = Asked::default();
        let level = Level::bare(&scope, &asked, "an expression");
        let bound = binder.expr(&level, expr)?;
        let bound = match wanted {
            Some(to) => binder.assignment(bound, to)?,
            None => binder.decided(bound)?,
        };
        if super::bind::from::has_subquery(&bound.expr) || bound.expr.exists(is_async).unwrap_or(true) {
            return Err(Error::unsupported("a subquery here"));
        }
        let used = (0..columns.len())
            .map(|i| {
                let column = Expr::Column(Column::new_unqualified(format!("c{i}")));
                super::bind::group::contains(&bound.expr, |e| *e == column)
            })
            .collect();
        Ok(Scalar {
            r#type: bound.r#type,
            parameters: binder.parameters(),
            expr: bound.expr,
            schema: Arc::new(Schema::new(fields)),
            used,
        })
    }

    /// The result for each row.
    pub fn eval(&self, rows: &[Vec<Value>], parameters: &[Value], env: &RunEnv) -> Result<Vec<Value>> {
        unpanicked_now(|| self.eval_inner(rows, parameters, env))
    }

    fn eval_inner(&self, rows: &[Vec<Value>], parameters: &[Value], env: &RunEnv) -> Result<Vec<Value>> {
        let values = run::values(parameters, &self.parameters, env);
        let expr = filled(&self.expr, &values)?;
        let schema = DFSchema::try_from(self.schema.as_ref().clone()).map_err(errors::of)?;
        let physical =
            create_physical_expr(&expr, &schema, &ExecutionProps::new(), &Default::default()).map_err(errors::of)?;
        let blanked: Vec<Vec<Value>> = rows
            .iter()
            .map(|row| {
                let keep = |(v, used): (&Value, &bool)| if *used { v.clone() } else { Value::Null };
                row.iter().zip(&self.used).map(keep).collect()
            })
            .collect();
        let batch = types::batch(&blanked, &self.schema)?;
        let array = physical.evaluate(&batch).and_then(|v| v.into_array(rows.len())).map_err(errors::of)?;
        let cells = Cells::new(array.as_ref(), &self.r#type)?;
        (0..array.len()).map(|i| cells.value(i)).collect()
    }
}

fn is_async(e: &Expr) -> datafusion::common::Result<bool> {
    Ok(matches!(e, Expr::ScalarFunction(f) if f.func.as_async().is_some()))
}

fn filled(expr: &Expr, values: &HashMap<String, (Value, Type)>) -> Result<Expr> {
    let filled = expr.clone().transform_up(|e| match &e {
        Expr::Placeholder(p) => {
            let Some((value, r#type)) = values.get(&p.id) else { return Ok(Transformed::no(e)) };
            let data = p.field.as_ref().map_or_else(|| types::data_type(r#type), |f| f.data_type().clone());
            let scalar = types::scalar(value, &data).map_err(|e| DataFusionError::External(Box::new(e)))?;
            Ok(Transformed::yes(Expr::Literal(scalar, None)))
        }
        _ => Ok(Transformed::no(e)),
    });
    filled.map(|t| t.data).map_err(errors::of)
}
