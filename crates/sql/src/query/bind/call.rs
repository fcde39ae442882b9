//! Function calls: which function is meant (`func_get_detail` and
//! `func_select_candidate` in PostgreSQL's parse_func.c).

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::expr::{Case, Placeholder};
use datafusion::logical_expr::{Expr, Operator, Volatility};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments};
use polity_base::{Type, Value};
use std::sync::Arc;

use super::Binder;
use super::bound::Bound;
use super::coerce::{self, Category, category, is_implicit, is_preferred, shown};
use super::literal::open_text;
use super::scope::Level;
use crate::catalog::name;
use crate::error::{Condition, Error, Result};
use crate::query::function::kernel::{Eval, Kernel};
use crate::query::function::list::{Body, Function, Ty, named};
use crate::query::types;

/// The placeholder that a run fills with the time its transaction began.
pub const NOW: &str = "$now";
/// The placeholder for the number of the session: plans are shared between sessions.
pub const SESSION: &str = "$session";

impl Binder<'_> {
    /// A call as written.
    pub fn call(&self, level: &Level<'_>, call: &ast::Function) -> Result<Bound> {
        let (schema, name) = name::parts(&call.name)?;
        if !matches!(schema.as_deref(), None | Some("pg_catalog" | "public")) {
            return Err(name::no_schema(schema.as_deref().unwrap_or_default()));
        }
        if !matches!(call.parameters, FunctionArguments::None) || call.uses_odbc_syntax {
            return Err(Error::new(Condition::SyntaxError, format!("syntax error in the call of {name}")));
        }
        if super::aggregate::is_aggregate(&name) || super::window::is_window(&name) && call.over.is_some() {
            return self.aggregate_call(level, &name, call);
        }
        if super::window::is_window(&name) {
            if !call.within_group.is_empty() {
                return Err(Error::unsupported(format!("the hypothetical-set aggregate {name}")));
            }
            return Err(Error::new(
                Condition::WindowingError,
                format!("window function {name} requires an OVER clause"),
            ));
        }
        if call.over.is_some() {
            return Err(Error::new(
                Condition::WrongObjectType,
                format!("OVER specified, but {name} is not a window function nor an aggregate function"),
            ));
        }
        if call.filter.is_some() {
            return Err(Error::new(
                Condition::WrongObjectType,
                format!("FILTER specified, but {name} is not an aggregate function"),
            ));
        }
        if !call.within_group.is_empty() {
            return Err(Error::new(
                Condition::WrongObjectType,
                format!("WITHIN GROUP specified, but {name} is not an ordered-set aggregate"),
            ));
        }
        let list = match &call.args {
            FunctionArguments::None => {
                return self.word(&name)?.ok_or_else(|| missing_function(&name, &[]));
            }
            FunctionArguments::Subquery(query) if name == "array" => return self.array_subquery(level, query),
            FunctionArguments::Subquery(_) => {
                return Err(Error::new(Condition::SyntaxError, format!("syntax error in the call of {name}")));
            }
            FunctionArguments::List(list) => list,
        };
        if list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct) {
            return Err(Error::new(
                Condition::WrongObjectType,
                format!("DISTINCT specified, but {name} is not an aggregate function"),
            ));
        }
        if let Some(clause) = list.clauses.first() {
            return Err(Error::unsupported(format!("the clause {clause} in a call of {name}")));
        }
        if name == "grouping" {
            let args = list.args.iter().map(|a| self.argument(level, a)).collect::<Result<Vec<_>>>()?;
            return super::group::grouping(level, args);
        }
        let args = list.args.iter().map(|a| self.argument(level, a)).collect::<Result<Vec<_>>>()?;
        if crate::query::function::set::is_set(&name) {
            return self.set_in_expression(level, &name, args);
        }
        self.function(&name, args)
    }

    /// An argument.
    pub fn argument(&self, level: &Level<'_>, arg: &FunctionArg) -> Result<Bound> {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => self.expr(level, e),
            FunctionArg::Unnamed(other) => {
                Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{other}\"")))
            }
            FunctionArg::Named { name, .. } => Err(Error::unsupported(format!("the named argument {name}"))),
            FunctionArg::ExprNamed { name, .. } => Err(Error::unsupported(format!("the named argument {name}"))),
        }
    }

    /// A call of a function by its name, with bound arguments.
    pub fn function(&self, name: &str, args: Vec<Bound>) -> Result<Bound> {
        match name {
            "coalesce" => return self.coalesce(args),
            "nullif" => return self.nullif(args),
            "greatest" | "least" => return self.extreme(name, args),
            "row" => return Ok(super::expr::row(args)),
            _ => {}
        }
        // pg_typeof and the like take literals as they are.
        let candidates: Vec<&Function> = named(name).collect();
        if candidates.is_empty() {
            if let Some(bound) = crate::query::function::system::call(self, name, &args)? {
                return Ok(bound);
            }
            // A type's name is a function that casts to it.
            if let ([arg], Some(to)) = (args.as_slice(), crate::catalog::types::by_name(name)) {
                return self.explicit(arg.clone(), &to);
            }
            return Err(missing_function(name, &args));
        }
        let Some(chosen) = choose(&candidates, &args)? else {
            return Err(missing_function(name, &args));
        };
        self.apply(chosen, args)
    }

    fn apply(&self, function: &Function, args: Vec<Bound>) -> Result<Bound> {
        let element = self.element_of(function, &args)?;
        let mut converted = Vec::with_capacity(args.len());
        for (i, arg) in args.into_iter().enumerate() {
            converted.push(match (function.argument(i), &element) {
                (Ty::Element, Some(to)) => coerce::free(self.implicit(arg, to)?),
                (Ty::AnyArray, Some(to)) if arg.is_open() => self.implicit(arg, &Type::Array(Box::new(to.clone())))?,
                (want, _) => match want.r#type() {
                    Some(to) => self.implicit(arg, &to)?,
                    None => self.decided(arg)?,
                },
            });
        }
        let returns = match function.returns {
            Ty::Element | Ty::Any => element.unwrap_or(Type::Text),
            Ty::AnyArray => Type::Array(Box::new(element.unwrap_or(Type::Text))),
            other => other.r#type().unwrap_or(Type::Text),
        };
        let data = types::data_type(&returns);
        // The types of the arguments are part of what a kernel is.
        let kinds: Vec<String> = converted.iter().map(|a| crate::catalog::types::internal_name(&a.r#type)).collect();
        let id = format!("{}[{}]", function.name, kinds.join(","));
        let exprs = |bounds: Vec<Bound>| bounds.into_iter().map(|b| b.expr).collect::<Vec<_>>();
        let expr = match function.body {
            Body::Strict(row) => Kernel::strict(id, data, row, exprs(converted)),
            Body::Lenient(row) => Kernel::lenient(id, data, row, exprs(converted)),
            Body::Volatile(row) => {
                let eval = Eval::Row(Arc::new(row), true);
                Kernel::call(id, data, Volatility::Volatile, eval, exprs(converted))
            }
            Body::Zoned(row) => {
                let zone = self.zone().to_owned();
                let id = format!("{id} at {zone}");
                Kernel::strict(id, data, move |a, out| row(a, out, &zone), exprs(converted))
            }
            Body::Bind(bind) => return bind(self, converted),
        };
        Ok(Bound::new(expr, returns))
    }

    /// What the arguments say the type of elements is.
    fn element_of(&self, function: &Function, args: &[Bound]) -> Result<Option<Type>> {
        let of_array = args.iter().enumerate().find_map(|(i, a)| match (function.argument(i), &a.r#type) {
            (Ty::AnyArray, Type::Array(element)) => Some((**element).clone()),
            _ => None,
        });
        if of_array.is_some() {
            return Ok(of_array);
        }
        let wanted = |i: usize| matches!(function.argument(i), Ty::Element | Ty::AnyArray);
        let known: Vec<Type> =
            args.iter().enumerate().filter(|(i, _)| wanted(*i)).map(|(_, a)| coerce::open_type(a)).collect();
        if known.is_empty() { Ok(None) } else { self.common_type(&known, function.name).map(Some) }
    }

    /// A word that is a value: `current_date`, `user`.
    pub fn word(&self, name: &str) -> Result<Option<Bound>> {
        let text = |s: &str, t: Type| coerce::literal(&Value::Text(s.to_owned()), &t).map(Some);
        match name {
            "current_timestamp" => Ok(Some(self.now())),
            "current_date" => self.explicit(self.now(), &Type::Date).map(Some),
            "localtimestamp" => self.explicit(self.now(), &Type::Timestamp).map(Some),
            "localtime" => self.explicit(self.explicit(self.now(), &Type::Timestamp)?, &Type::Time).map(Some),
            "current_time" => Err(Error::unsupported("time with time zone").hint("Use localtime.")),
            "current_user" | "session_user" | "user" | "current_role" => text(&self.input().user, Type::Name),
            "current_catalog" => text(&self.input().catalog.database, Type::Name),
            "current_schema" if !self.input().settings.looks_in_public() => {
                super::coerce::literal(&Value::Null, &Type::Name).map(Some)
            }
            "current_schema" => text(name::PUBLIC, Type::Name),
            _ => Ok(None),
        }
    }

    /// `now()`.
    pub fn now(&self) -> Bound {
        self.moment.set(true);
        let data = types::data_type(&Type::TimestampTz);
        let field = datafusion::arrow::datatypes::Field::new("", data, true);
        let placeholder = Placeholder::new_with_field(NOW.to_owned(), Some(Arc::new(field)));
        Bound::new(Expr::Placeholder(placeholder), Type::TimestampTz)
    }

    /// `pg_backend_pid()`
    pub fn session_number(&self) -> Bound {
        let field = datafusion::arrow::datatypes::Field::new("", DataType::Int32, true);
        let placeholder = Placeholder::new_with_field(SESSION.to_owned(), Some(Arc::new(field)));
        Bound::new(Expr::Placeholder(placeholder), Type::Int4)
    }

    fn coalesce(&self, args: Vec<Bound>) -> Result<Bound> {
        let (args, common) = self.unify(args, "COALESCE")?;
        let data = args.first().map_or(DataType::Utf8View, |b| b.data.clone());
        let mut args: Vec<Expr> = args.into_iter().map(|b| b.expr).collect();
        let Some(last) = args.pop() else {
            return Err(Error::new(Condition::SyntaxError, "syntax error at or near \")\""));
        };
        if args.is_empty() {
            return Ok(Bound::with_data(last, common, data));
        }
        // CASE evaluates no more than it needs, as COALESCE promises.
        let whens = args.into_iter().map(|a| (Box::new(Expr::IsNotNull(Box::new(a.clone()))), Box::new(a))).collect();
        Ok(Bound::with_data(Expr::Case(Case::new(None, whens, Some(Box::new(last)))), common, data))
    }

    fn nullif(&self, args: Vec<Bound>) -> Result<Bound> {
        let [a, b] = args.try_into().map_err(|args: Vec<Bound>| missing_function("nullif", &args))?;
        let a = if a.is_open() && !b.is_open() { self.implicit(a, &b.r#type)? } else { self.decided(a)? };
        let equal = self.compare(a.clone(), Operator::Eq, b)?;
        let null = Expr::Literal(types::scalar(&Value::Null, &a.data)?, None);
        let case = Case::new(None, vec![(Box::new(equal.expr), Box::new(null))], Some(Box::new(a.expr)));
        Ok(Bound::with_data(Expr::Case(case), a.r#type, a.data))
    }

    fn extreme(&self, name: &str, args: Vec<Bound>) -> Result<Bound> {
        let greatest = name == "greatest";
        let (args, common) = self.unify(args, if greatest { "GREATEST" } else { "LEAST" })?;
        let data = args.first().map_or(DataType::Utf8View, |b| b.data.clone());
        let json = matches!(common, Type::Json | Type::Jsonb);
        let element = common.clone();
        let expr = Kernel::lenient(
            format!("{name} of {}", crate::catalog::types::internal_name(&common)),
            data.clone(),
            move |a, out| {
                let mut best = Value::Null;
                for k in 0..a.len() {
                    let value = a.value(k)?;
                    if value.is_null() {
                        continue;
                    }
                    let replaces = match value.compare(&best) {
                        None => best.is_null(),
                        Some(order) => (order == std::cmp::Ordering::Greater) == greatest && order.is_ne(),
                    };
                    if replaces {
                        best = value;
                    }
                }
                let _ = (json, &element);
                out.value(&best)
            },
            args.into_iter().map(|b| b.expr).collect(),
        );
        Ok(Bound::with_data(expr, common, data))
    }
}

/// The candidate that fits best; `None` when none fits.
fn choose<'f>(candidates: &[&'f Function], args: &[Bound]) -> Result<Option<&'f Function>> {
    let open: Vec<bool> = args.iter().map(Bound::is_open).collect();
    let base: Vec<Type> = args.iter().map(|a| crate::expr::cast::without_modifier(&a.r#type)).collect();
    let fits = |f: &Function| {
        f.takes(args.len())
            && base.iter().enumerate().all(|(i, t)| match f.argument(i) {
                Ty::Any => true,
                Ty::Element => true,
                Ty::AnyArray => open.get(i) == Some(&true) || matches!(t, Type::Array(_)),
                want => open.get(i) == Some(&true) || want.r#type().is_some_and(|w| *t == w || is_implicit(t, &w)),
            })
    };
    let mut left: Vec<&Function> = candidates.iter().copied().filter(|f| fits(f)).collect();
    if left.len() <= 1 {
        return Ok(left.pop());
    }
    let exact = |f: &Function, i: usize| {
        open.get(i) == Some(&false) && f.argument(i).r#type().is_some_and(|w| base.get(i) == Some(&w))
    };
    keep_best(&mut left, |f| (0..args.len()).filter(|i| exact(f, *i)).count());
    keep_best(&mut left, |f| {
        (0..args.len())
            .filter(|i| {
                let want = f.argument(*i).r#type();
                open.get(*i) == Some(&false)
                    && (exact(f, *i)
                        || want.is_some_and(|w| {
                            is_preferred(&w) && base.get(*i).is_some_and(|b| category(b) == category(&w))
                        }))
            })
            .count()
    });
    if left.len() > 1 {
        for (i, is_open) in open.iter().enumerate() {
            if !is_open {
                continue;
            }
            let categories: Vec<Category> =
                left.iter().map(|f| f.argument(i).r#type().map_or(Category::Unknown, |t| category(&t))).collect();
            let wanted = if categories.contains(&Category::String) {
                Some(Category::String)
            } else {
                categories.first().copied().filter(|c| categories.iter().all(|o| o == c))
            };
            if let Some(wanted) = wanted {
                let in_category =
                    |f: &&Function| f.argument(i).r#type().map_or(Category::Unknown, |t| category(&t)) == wanted;
                left.retain(in_category);
                let preferred = |f: &&Function| f.argument(i).r#type().is_some_and(|t| is_preferred(&t));
                if left.iter().any(preferred) {
                    left.retain(preferred);
                }
            }
        }
    }
    if left.len() > 1
        && let Some(known) = base.iter().zip(&open).find(|(_, o)| !**o).map(|(t, _)| t.clone())
    {
        // Literals are thought to be of the type of the other arguments.
        let same = |f: &&Function| {
            (0..args.len()).all(|i| f.argument(i).r#type().is_some_and(|w| w == known || is_implicit(&known, &w)))
        };
        if left.iter().filter(|f| same(f)).count() == 1 {
            left.retain(same);
        }
    }
    match left.as_slice() {
        [one] => Ok(Some(one)),
        [first, ..] => Err(Error::new(
            Condition::AmbiguousFunction,
            format!("function {} is not unique", signature(first.name, args)),
        )
        .hint("Could not choose a best candidate function. You might need to add explicit type casts.")),
        [] => Ok(None),
    }
}

fn keep_best(left: &mut Vec<&Function>, score: impl Fn(&Function) -> usize) {
    let best = left.iter().map(|f| score(f)).max().unwrap_or(0);
    left.retain(|f| score(f) == best);
}

fn signature(name: &str, args: &[Bound]) -> String {
    let types: Vec<String> =
        args.iter().map(|a| if a.is_open() { "unknown".to_owned() } else { shown(&a.r#type) }).collect();
    format!("{name}({})", types.join(", "))
}

/// The error for a function that is not there.
pub fn missing_function(name: &str, args: &[Bound]) -> Error {
    Error::new(Condition::UndefinedFunction, format!("function {} does not exist", signature(name, args)))
        .hint("No function matches the given name and argument types. You might need to add explicit type casts.")
}

/// A text argument for functions that take one by position.
pub fn text_argument(text: &str) -> Bound {
    open_text(text)
}
