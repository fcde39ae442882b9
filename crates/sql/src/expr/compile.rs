//! From the syntax tree to a typed expression.
//!
//! Every function here answers `None` to what is not covered or is wrong.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, Expr as Ast, Function as Call, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, UnaryOperator, Value as Literal,
};
use polity_base::{Type, Value};

use super::arithmetic::{Kind, Operator};
use super::operand::{self, Operand, Unknown};
use super::scope::Scope;
use super::{Comparison, Expr, Function, Node, cast};
use crate::catalog::{name, types};

/// Compiles `ast`. What has no type of its own becomes text. `None`: not
/// covered, or wrong.
pub fn compile(ast: &Ast, scope: &mut Scope<'_>) -> Option<Expr> {
    scope.sequences.clear();
    let (node, r#type) = operand(ast, scope)?.or_text(scope)?;
    Some(Expr { node, r#type, sequences: std::mem::take(&mut scope.sequences) })
}

/// Compiles `ast` where a value of `wanted` belongs: literals and parameters
/// that stand alone become of that type, without its modifiers. The result may
/// be of another type still.
pub fn compile_as(ast: &Ast, wanted: &Type, scope: &mut Scope<'_>) -> Option<Expr> {
    scope.sequences.clear();
    let (node, r#type) = match operand(ast, scope)? {
        Operand::Known(node, r#type) => (node, r#type),
        Operand::Unknown(unknown) => {
            let plain = cast::without_modifier(wanted);
            (unknown.decided(&plain, scope)?, plain)
        }
    };
    Some(Expr { node, r#type, sequences: std::mem::take(&mut scope.sequences) })
}

fn known(node: Node, r#type: Type) -> Option<Operand> {
    Some(Operand::Known(node, r#type))
}

fn operand(ast: &Ast, scope: &mut Scope<'_>) -> Option<Operand> {
    match ast {
        Ast::Nested(inner) => operand(inner, scope),
        Ast::Value(v) => operand::literal(&v.value, scope),
        Ast::Identifier(word) => column(std::slice::from_ref(word), scope),
        Ast::CompoundIdentifier(words) => column(words, scope),
        Ast::UnaryOp { op, expr } => unary(op, expr, scope),
        Ast::BinaryOp { left, op, right } => binary(left, op, right, scope),
        Ast::IsNull(inner) => is_null(inner, false, scope),
        Ast::IsNotNull(inner) => is_null(inner, true, scope),
        Ast::IsTrue(inner) => is(inner, Some(true), false, scope),
        Ast::IsNotTrue(inner) => is(inner, Some(true), true, scope),
        Ast::IsFalse(inner) => is(inner, Some(false), false, scope),
        Ast::IsNotFalse(inner) => is(inner, Some(false), true, scope),
        Ast::IsUnknown(inner) => is(inner, None, false, scope),
        Ast::IsNotUnknown(inner) => is(inner, None, true, scope),
        Ast::IsDistinctFrom(a, b) => distinct(a, b, false, scope),
        Ast::IsNotDistinctFrom(a, b) => distinct(a, b, true, scope),
        Ast::Between { expr, negated, low, high } => between(expr, *negated, low, high, scope),
        Ast::InList { expr, list, negated } => in_list(expr, list, *negated, scope),
        Ast::Like { negated, any: false, expr, pattern, escape_char } => {
            like([expr, pattern], escape_char.as_ref().map(|v| &v.value), *negated, false, scope)
        }
        Ast::ILike { negated, any: false, expr, pattern, escape_char } => {
            like([expr, pattern], escape_char.as_ref().map(|v| &v.value), *negated, true, scope)
        }
        Ast::Case { operand, conditions, else_result, .. } => {
            case(operand.as_deref(), conditions, else_result.as_deref(), scope)
        }
        Ast::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, array: false, format: None } => {
            let to = types::data_type(data_type).ok()?;
            explicit_cast(operand(expr, scope)?, to, scope)
        }
        Ast::TypedString(typed) if !typed.uses_odbc_syntax => {
            let to = types::data_type(&typed.data_type).ok()?;
            explicit_cast(operand::literal(&typed.value.value, scope)?, to, scope)
        }
        Ast::Function(call) => function(call, scope),
        _ => None,
    }
}

fn column(words: &[datafusion::sql::sqlparser::ast::Ident], scope: &mut Scope<'_>) -> Option<Operand> {
    let (at, r#type) = scope.column(words)?;
    known(Node::Column(at), r#type)
}

fn condition(ast: &Ast, scope: &mut Scope<'_>) -> Option<Node> {
    match operand(ast, scope)?.decided(&Type::Bool, scope)? {
        (node, Type::Bool) => Some(node),
        _ => None,
    }
}

/// The digits of a number that stands alone.
fn digits(ast: &Ast) -> Option<&str> {
    match ast {
        Ast::Nested(inner) => digits(inner),
        Ast::Value(v) => match &v.value {
            Literal::Number(digits, false) => Some(digits),
            _ => None,
        },
        _ => None,
    }
}

fn unary(op: &UnaryOperator, inner: &Ast, scope: &mut Scope<'_>) -> Option<Operand> {
    if *op == UnaryOperator::Minus
        && let Some(digits) = digits(inner)
    {
        // The sign is part of the number: -2147483648 is an integer.
        let value = operand::number(&format!("-{digits}"))?;
        let r#type = operand::type_of(&value)?;
        return known(Node::Constant(value), r#type);
    }
    match op {
        UnaryOperator::Not => known(Node::Not(Box::new(condition(inner, scope)?)), Type::Bool),
        UnaryOperator::Minus => match operand(inner, scope)? {
            Operand::Known(node, r#type) => {
                let kind = Kind::of(&r#type)?;
                known(Node::Negate(kind, Box::new(node)), kind.r#type())
            }
            Operand::Unknown(_) => None,
        },
        UnaryOperator::Plus => match operand(inner, scope)? {
            Operand::Known(node, r#type) => {
                let kind = Kind::of(&r#type)?;
                known(node, kind.r#type())
            }
            Operand::Unknown(_) => None,
        },
        _ => None,
    }
}

fn binary(left: &Ast, op: &BinaryOperator, right: &Ast, scope: &mut Scope<'_>) -> Option<Operand> {
    let operator = match op {
        BinaryOperator::And | BinaryOperator::Or => {
            let is_and = *op == BinaryOperator::And;
            let mut all = Vec::new();
            for side in [left, right] {
                match condition(side, scope)? {
                    Node::And(inner) if is_and => all.extend(inner),
                    Node::Or(inner) if !is_and => all.extend(inner),
                    other => all.push(other),
                }
            }
            return known(if is_and { Node::And(all) } else { Node::Or(all) }, Type::Bool);
        }
        BinaryOperator::StringConcat => return concat(left, right, scope),
        BinaryOperator::Plus => Operator::Add,
        BinaryOperator::Minus => Operator::Subtract,
        BinaryOperator::Multiply => Operator::Multiply,
        BinaryOperator::Divide => Operator::Divide,
        BinaryOperator::Modulo => Operator::Modulo,
        other => {
            let sides = comparable(operand(left, scope)?, operand(right, scope)?, scope)?;
            return known(Node::Compare(comparison(other)?, Box::new(sides)), Type::Bool);
        }
    };
    let (a, b) = (operand(left, scope)?, operand(right, scope)?);
    let ((a, a_type), (b, b_type)) = same_if_unknown(a, b, scope)?;
    let kind = Kind::of(&a_type)?.common(Kind::of(&b_type)?);
    if operator == Operator::Modulo && matches!(kind, Kind::Float4 | Kind::Float8) {
        return None;
    }
    known(Node::Arithmetic(operator, kind, Box::new([a, b])), kind.r#type())
}

fn comparison(op: &BinaryOperator) -> Option<Comparison> {
    Some(match op {
        BinaryOperator::Eq => Comparison::Equal,
        BinaryOperator::NotEq => Comparison::NotEqual,
        BinaryOperator::Lt => Comparison::Less,
        BinaryOperator::LtEq => Comparison::LessOrEqual,
        BinaryOperator::Gt => Comparison::Greater,
        BinaryOperator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// An operand without a type takes the other's (PostgreSQL manual, 10.2, step
/// 2a). `None` when neither has one.
fn same_if_unknown(a: Operand, b: Operand, scope: &mut Scope<'_>) -> Option<((Node, Type), (Node, Type))> {
    match (a.r#type().map(cast::without_modifier), b.r#type().map(cast::without_modifier)) {
        (None, None) => None,
        (Some(t), None) => Some((a.decided(&t, scope)?, b.decided(&t, scope)?)),
        (_, Some(t)) => Some((a.decided(&t, scope)?, b.decided(&t, scope)?)),
    }
}

/// Both sides, brought to types whose values compare.
fn comparable(a: Operand, b: Operand, scope: &mut Scope<'_>) -> Option<[Node; 2]> {
    let (a, b) = match (a.r#type(), b.r#type()) {
        (None, None) => (a.or_text(scope)?, b.or_text(scope)?),
        _ => same_if_unknown(a, b, scope)?,
    };
    let common = comparison_type(&a.1, &b.1)?;
    Some([implicit(a, &common), implicit(b, &common)])
}

/// The type in which values of two types are compared.
pub fn comparison_type(a: &Type, b: &Type) -> Option<Type> {
    if let (Some(x), Some(y)) = (Kind::of(a), Kind::of(b)) {
        return Some(x.common(y).r#type());
    }
    let (a, b) = (cast::without_modifier(a), cast::without_modifier(b));
    match (&a, &b) {
        (Type::Json | Type::Jsonb | Type::Array(_) | Type::Void | Type::Regclass | Type::InternalChar, _) => None,
        _ if a == b => Some(a),
        (x, y) if x.is_text() && y.is_text() => Some(Type::Text),
        (Type::Oid, y) if y.is_integer() => Some(Type::Int8),
        (x, Type::Oid) if x.is_integer() => Some(Type::Int8),
        (Type::Date, Type::Timestamp) | (Type::Timestamp, Type::Date) => Some(Type::Timestamp),
        (Type::Date | Type::Timestamp, Type::TimestampTz) | (Type::TimestampTz, Type::Date | Type::Timestamp) => {
            Some(Type::TimestampTz)
        }
        _ => None,
    }
}

/// The node as a value of `to`, which it converts to implicitly.
fn implicit((node, from): (Node, Type), to: &Type) -> Node {
    let same_values = cast::without_modifier(&from) == cast::without_modifier(to)
        || (from.is_text() && to.is_text())
        // Whole numbers of all widths compare among each other and with numeric.
        || (from.is_integer() && (to.is_integer() || matches!(to, Type::Numeric(_))));
    if same_values { node } else { Node::Cast { value: Box::new(node), to: to.clone(), explicit: false } }
}

fn concat(left: &Ast, right: &Ast, scope: &mut Scope<'_>) -> Option<Operand> {
    let (a, b) = (operand(left, scope)?, operand(right, scope)?);
    // At least one side must be text; what else is there converts.
    if ![&a, &b].iter().any(|o| o.r#type().is_some_and(Type::is_text)) {
        return None;
    }
    let mut sides = Vec::with_capacity(2);
    for side in [a, b] {
        let (node, r#type) = side.or_text(scope)?;
        if matches!(r#type, Type::Array(_) | Type::Json | Type::Jsonb | Type::Bytea) {
            return None;
        }
        sides.push(if r#type.is_text() {
            node
        } else {
            Node::Cast { value: Box::new(node), to: Type::Text, explicit: true }
        });
    }
    known(Node::Concat(Box::new(sides.try_into().ok()?)), Type::Text)
}

fn is_null(inner: &Ast, negated: bool, scope: &mut Scope<'_>) -> Option<Operand> {
    let (node, _) = operand(inner, scope)?.or_text(scope)?;
    known(Node::IsNull { negated, value: Box::new(node) }, Type::Bool)
}

fn is(inner: &Ast, what: Option<bool>, negated: bool, scope: &mut Scope<'_>) -> Option<Operand> {
    let value = Box::new(condition(inner, scope)?);
    known(Node::Is { what, negated, value }, Type::Bool)
}

fn distinct(a: &Ast, b: &Ast, negated: bool, scope: &mut Scope<'_>) -> Option<Operand> {
    let sides = comparable(operand(a, scope)?, operand(b, scope)?, scope)?;
    known(Node::Distinct { negated, sides: Box::new(sides) }, Type::Bool)
}

fn between(value: &Ast, negated: bool, low: &Ast, high: &Ast, scope: &mut Scope<'_>) -> Option<Operand> {
    let value = operand(value, scope)?;
    let low = comparable(value.clone(), operand(low, scope)?, scope)?;
    let high = comparable(value, operand(high, scope)?, scope)?;
    let all = vec![
        Node::Compare(Comparison::GreaterOrEqual, Box::new(low)),
        Node::Compare(Comparison::LessOrEqual, Box::new(high)),
    ];
    let within = Node::And(all);
    known(if negated { Node::Not(Box::new(within)) } else { within }, Type::Bool)
}

fn in_list(value: &Ast, list: &[Ast], negated: bool, scope: &mut Scope<'_>) -> Option<Operand> {
    let value = operand(value, scope)?;
    let value_type = cast::without_modifier(value.r#type()?);
    let mut items = Vec::with_capacity(list.len());
    let mut common = value_type.clone();
    for item in list {
        let item = operand(item, scope)?.decided(&value_type, scope)?;
        common = comparison_type(&common, &item.1)?;
        items.push(item);
    }
    let list = items.into_iter().map(|item| implicit(item, &common)).collect();
    let value = Box::new(implicit(value.decided(&value_type, scope)?, &common));
    known(Node::InList { negated, value, list }, Type::Bool)
}

fn like(
    [value, pattern]: [&Ast; 2],
    escape: Option<&Literal>,
    negated: bool,
    insensitive: bool,
    scope: &mut Scope<'_>,
) -> Option<Operand> {
    let escape = match escape {
        None => Some('\\'),
        Some(Literal::SingleQuotedString(s)) => {
            let mut chars = s.chars();
            let first = chars.next();
            if chars.next().is_some() {
                return None;
            }
            first
        }
        Some(_) => return None,
    };
    let (value, value_type) = operand(value, scope)?.or_text(scope)?;
    let (pattern, pattern_type) = operand(pattern, scope)?.or_text(scope)?;
    // A char(n) matches with its padding, which is not stored.
    let fits = |t: &Type| t.is_text() && !matches!(t, Type::Char(_));
    if !fits(&value_type) || !fits(&pattern_type) {
        return None;
    }
    known(Node::Like { negated, insensitive, escape, sides: Box::new([value, pattern]) }, Type::Bool)
}

/// The one type of several results (PostgreSQL manual, 10.5), and each as a
/// value of it.
fn unified(operands: Vec<Operand>, scope: &mut Scope<'_>) -> Option<(Vec<Node>, Type)> {
    let mut common: Option<Type> = None;
    for o in &operands {
        let Some(t) = o.r#type() else { continue };
        common = Some(match common {
            None => t.clone(),
            Some(c) if c == *t => c,
            Some(c) => match (Kind::of(&c), Kind::of(t)) {
                (Some(a), Some(b)) => a.common(b).r#type(),
                _ if c.is_text() && t.is_text() => Type::Text,
                _ if cast::without_modifier(&c) == cast::without_modifier(t) => cast::without_modifier(t),
                _ => return None,
            },
        });
    }
    let common = common.unwrap_or(Type::Text);
    let mut nodes = Vec::with_capacity(operands.len());
    for o in operands {
        let (node, from) = o.decided(&cast::without_modifier(&common), scope)?;
        let same =
            cast::without_modifier(&from) == cast::without_modifier(&common) || (from.is_text() && common.is_text());
        nodes.push(if same {
            node
        } else {
            Node::Cast { value: Box::new(node), to: cast::without_modifier(&common), explicit: false }
        });
    }
    Some((nodes, common))
}

fn case(
    subject: Option<&Ast>,
    conditions: &[CaseWhen],
    otherwise: Option<&Ast>,
    scope: &mut Scope<'_>,
) -> Option<Operand> {
    let subject = match subject {
        Some(ast) => Some(operand(ast, scope)?),
        None => None,
    };
    let mut whens = Vec::with_capacity(conditions.len());
    let mut results = Vec::with_capacity(conditions.len() + 1);
    for CaseWhen { condition: when, result } in conditions {
        whens.push(match &subject {
            None => condition(when, scope)?,
            Some(subject) => {
                let sides = comparable(subject.clone(), operand(when, scope)?, scope)?;
                Node::Compare(Comparison::Equal, Box::new(sides))
            }
        });
        results.push(operand(result, scope)?);
    }
    results.push(match otherwise {
        Some(ast) => operand(ast, scope)?,
        None => Operand::Unknown(Unknown::Null),
    });
    let (mut results, r#type) = unified(results, scope)?;
    let otherwise = Box::new(results.pop()?);
    known(Node::Case { branches: whens.into_iter().zip(results).collect(), otherwise }, r#type)
}

fn explicit_cast(inner: Operand, to: Type, scope: &mut Scope<'_>) -> Option<Operand> {
    let plain = cast::without_modifier(&to);
    let (node, from) = match inner {
        Operand::Unknown(unknown) => {
            if let Unknown::Parameter(at) = unknown {
                scope.parameters.set_inside(at);
            }
            (unknown.decided(&plain, scope)?, plain.clone())
        }
        Operand::Known(node, from) => (node, from),
    };
    if from == to || (from == plain && to == plain) {
        return known(node, to);
    }
    // What a name of an object means is for those who know the catalog.
    if matches!(to, Type::Regclass | Type::Array(_) | Type::InternalChar | Type::Name)
        || matches!(from, Type::Regclass | Type::Array(_) | Type::InternalChar)
        || cast::context(&from, &to).is_none()
    {
        return None;
    }
    known(Node::Cast { value: Box::new(node), to: to.clone(), explicit: true }, to)
}

fn function(call: &Call, scope: &mut Scope<'_>) -> Option<Operand> {
    if call.filter.is_some() || call.over.is_some() || !call.within_group.is_empty() || call.null_treatment.is_some() {
        return None;
    }
    let (schema, name) = name::parts(&call.name).ok()?;
    if schema.is_some_and(|s| s != "pg_catalog") {
        return None;
    }
    let arguments = match &call.args {
        FunctionArguments::None => Vec::new(),
        FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses })
            if clauses.is_empty() =>
        {
            args.iter()
                .map(|arg| match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>()?
        }
        _ => return None,
    };
    let words_only = matches!(call.args, FunctionArguments::None);
    match (name.as_str(), arguments.as_slice()) {
        ("now" | "transaction_timestamp", []) if !words_only => known(Node::Now, Type::TimestampTz),
        ("current_timestamp", []) if words_only => known(Node::Now, Type::TimestampTz),
        ("localtimestamp", []) if words_only => known(Node::LocalNow, Type::Timestamp),
        ("current_date", []) if words_only => known(Node::Today, Type::Date),
        ("gen_random_uuid", []) => known(Node::RandomUuid, Type::Uuid),
        ("lower", [text]) => text_function(Function::Lower, text, Type::Text, scope),
        ("upper", [text]) => text_function(Function::Upper, text, Type::Text, scope),
        ("length" | "char_length" | "character_length", [text]) => {
            text_function(Function::Length, text, Type::Int4, scope)
        }
        ("octet_length", [text]) => text_function(Function::OctetLength, text, Type::Int4, scope),
        ("abs", [number]) => match operand(number, scope)? {
            Operand::Known(node, r#type) => {
                let kind = Kind::of(&r#type)?;
                known(Node::Call(Function::Abs(kind), Box::new(node)), kind.r#type())
            }
            Operand::Unknown(_) => None,
        },
        ("coalesce", [_, ..]) => {
            let operands = arguments.iter().map(|a| operand(a, scope)).collect::<Option<Vec<_>>>()?;
            let (nodes, r#type) = unified(operands, scope)?;
            known(Node::Coalesce(nodes), r#type)
        }
        ("nullif", [a, b]) => {
            let (a, b) = (operand(a, scope)?, operand(b, scope)?);
            null_if(a, b, scope)
        }
        ("nextval", [sequence]) => drawn(sequence, scope),
        _ => None,
    }
}

/// NULLIF gives back the first value as it was compared.
fn null_if(a: Operand, b: Operand, scope: &mut Scope<'_>) -> Option<Operand> {
    let (a, b) = match (a.r#type(), b.r#type()) {
        (None, None) => (a.or_text(scope)?, b.or_text(scope)?),
        _ => same_if_unknown(a, b, scope)?,
    };
    let common = match (&a.1, &b.1) {
        (x, y) if x.is_integer() && y.is_integer() => x.clone(),
        (x, y) => comparison_type(x, y)?,
    };
    let first = match cast::without_modifier(&a.1) == common || (a.1.is_text() && common.is_text()) {
        true => a.0,
        false => Node::Cast { value: Box::new(a.0), to: common.clone(), explicit: false },
    };
    let second = match b.1.is_integer() && common.is_integer() {
        true => b.0,
        false => implicit(b, &common),
    };
    known(Node::NullIf(Box::new([first, second])), common)
}

fn text_function(function: Function, argument: &Ast, result: Type, scope: &mut Scope<'_>) -> Option<Operand> {
    let (node, r#type) = operand(argument, scope)?.or_text(scope)?;
    let fits = match function {
        // char(n) has its padding here, which is not stored.
        Function::OctetLength => matches!(r#type, Type::Text | Type::Varchar(_)),
        _ => r#type.is_text(),
    };
    fits.then_some(())?;
    known(Node::Call(function, Box::new(node)), result)
}

/// `nextval('name')`: the value is drawn before the expression is evaluated.
fn drawn(sequence: &Ast, scope: &mut Scope<'_>) -> Option<Operand> {
    let id = sequence_named(sequence, scope.catalog)?;
    scope.sequences.push(id);
    known(Node::Drawn(scope.sequences.len() - 1), Type::Int8)
}

/// The sequence that a text literal names, with or without a cast to regclass.
fn sequence_named(ast: &Ast, catalog: &crate::catalog::Catalog) -> Option<polity_base::TableId> {
    match ast {
        Ast::Nested(inner) => sequence_named(inner, catalog),
        Ast::Cast { expr, data_type, .. } => {
            matches!(types::data_type(data_type), Ok(Type::Regclass | Type::Text)).then_some(())?;
            sequence_named(expr, catalog)
        }
        Ast::Value(v) => match &v.value {
            Literal::SingleQuotedString(text) => {
                let id = *catalog.names.get(&name::of_text(text).ok()?)?;
                catalog.sequences.contains_key(&id).then_some(id)
            }
            _ => None,
        },
        _ => None,
    }
}

/// A constant as an expression of the syntax tree: what a parameter stood for.
pub fn to_ast(value: &Value) -> Option<Ast> {
    let literal = match value {
        Value::Null => Literal::Null,
        Value::Bool(b) => Literal::Boolean(*b),
        Value::Text(s) => Literal::SingleQuotedString(s.clone()),
        Value::Int4(_) | Value::Int8(_) | Value::Numeric(_) => {
            let digits = match value {
                Value::Numeric(v) => v.to_string(),
                other => other.as_i64()?.to_string(),
            };
            if let Some(magnitude) = digits.strip_prefix('-') {
                let inner = Ast::Value(Literal::Number(magnitude.to_owned(), false).into());
                let negative = Ast::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(inner) };
                return Some(Ast::Nested(Box::new(negative)));
            }
            Literal::Number(digits, false)
        }
        _ => return None,
    };
    Some(Ast::Value(literal.into()))
}
