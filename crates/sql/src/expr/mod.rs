//! A small evaluator for expressions over one row.
//!
//! Statements that touch a row by its key, defaults, checks and `RETURNING`
//! lists are mostly made of a few kinds of expressions. These are compiled here
//! once and evaluated in nanoseconds, with PostgreSQL's types, results and
//! errors. [`compile()`](compile::compile) says `None` to anything else, and to
//! anything that is wrong: then [`crate::query`] decides, which knows the whole
//! language and has the words for every error.
//!
//! | module         | holds                                                      |
//! |----------------|------------------------------------------------------------|
//! | [`compile`]    | from the syntax tree to a typed [`Expr`]                   |
//! | [`scope`]      | the columns and parameters an expression may name          |
//! | [`operand`]    | literals and parameters whose type is decided by their use |
//! | [`eval`]       | from an [`Expr`] and a row to a value                      |
//! | [`arithmetic`] | `+ - * / %` with overflow and division rules               |
//! | [`like`]       | LIKE and ILIKE                                             |
//! | [`cast`]       | conversions between types: implicit, assignment, explicit  |
//! | [`label`]      | what PostgreSQL calls an output column                     |

pub mod arithmetic;
pub mod cast;
pub mod compile;
pub mod eval;
pub mod label;
pub mod like;
pub mod operand;
pub mod scope;
pub(crate) mod text;

use std::cmp::Ordering;

use polity_base::{TableId, Type, Value};

pub use self::cast::Assign;
pub use self::compile::{compile, compile_as};
pub use self::eval::Env;
pub use self::scope::{Parameters, Scope};

use self::arithmetic::{Kind, Operator};
use crate::session::Context;

/// The session's time: what the text of a date or time depends on.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// The name of the time zone
    pub zone: &'a str,
    /// `now()`, in microseconds since 1970 UTC
    pub now: i64,
}

impl<'a> Local<'a> {
    /// For what does not depend on it
    pub const UTC: Local<'static> = Local { zone: "UTC", now: 0 };

    /// The time of the statement that runs in `ctx`.
    pub fn of(ctx: &'a Context<'_>) -> Local<'a> {
        Local { zone: ctx.settings.show("TimeZone").unwrap_or("UTC"), now: ctx.transaction_time }
    }
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Expr {
    pub(crate) node: Node,
    /// The type of its values
    pub r#type: Type,
    /// The sequences that each evaluation draws a value of, in order; the values
    /// are drawn before, since drawing may wait
    pub sequences: Vec<TableId>,
}

/// What an expression does.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Constant(Value),
    /// A column, by its place in the row
    Column(usize),
    /// A parameter, counted from 0
    Parameter(usize),
    Arithmetic(Operator, Kind, Box<[Node; 2]>),
    Negate(Kind, Box<Node>),
    Concat(Box<[Node; 2]>),
    Compare(Comparison, Box<[Node; 2]>),
    /// IS [NOT] DISTINCT FROM
    Distinct {
        negated: bool,
        sides: Box<[Node; 2]>,
    },
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    IsNull {
        negated: bool,
        value: Box<Node>,
    },
    /// IS [NOT] TRUE, FALSE or UNKNOWN (`None`)
    Is {
        what: Option<bool>,
        negated: bool,
        value: Box<Node>,
    },
    InList {
        negated: bool,
        value: Box<Node>,
        list: Vec<Node>,
    },
    Like {
        negated: bool,
        insensitive: bool,
        escape: Option<char>,
        sides: Box<[Node; 2]>,
    },
    Case {
        branches: Vec<(Node, Node)>,
        otherwise: Box<Node>,
    },
    Coalesce(Vec<Node>),
    NullIf(Box<[Node; 2]>),
    Cast {
        value: Box<Node>,
        to: Type,
        explicit: bool,
    },
    Call(Function, Box<Node>),
    /// A value of `sequences`, by its place there
    Drawn(usize),
    /// `now()`
    Now,
    /// `LOCALTIMESTAMP`
    LocalNow,
    /// `CURRENT_DATE`
    Today,
    RandomUuid,
}

/// A function of one argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Function {
    Lower,
    Upper,
    /// Characters of a text
    Length,
    /// Bytes
    OctetLength,
    Abs(Kind),
}

/// How two values are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Whether values that compare as `ordering` satisfy it.
    pub fn holds(self, ordering: Ordering) -> bool {
        match self {
            Comparison::Equal => ordering.is_eq(),
            Comparison::NotEqual => ordering.is_ne(),
            Comparison::Less => ordering.is_lt(),
            Comparison::LessOrEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Expr {
    /// An expression that is always this value.
    pub fn constant(value: Value, r#type: Type) -> Expr {
        Expr { node: Node::Constant(value), r#type, sequences: Vec::new() }
    }

    /// The column at `place`.
    pub fn column(place: usize, r#type: Type) -> Expr {
        Expr { node: Node::Column(place), r#type, sequences: Vec::new() }
    }

    /// The value, when it is always the same.
    pub fn as_constant(&self) -> Option<&Value> {
        match &self.node {
            Node::Constant(value) => Some(value),
            _ => None,
        }
    }

    /// The parameter it is, counted from 0, when it is nothing more.
    pub fn as_parameter(&self) -> Option<usize> {
        match self.node {
            Node::Parameter(at) => Some(at),
            _ => None,
        }
    }

    /// The column it is, when it is nothing more.
    pub fn as_column(&self) -> Option<usize> {
        match self.node {
            Node::Column(at) => Some(at),
            _ => None,
        }
    }

    /// Calls `f` with the place of every column it reads.
    pub fn columns(&self, f: &mut dyn FnMut(usize)) {
        self.node.columns(f);
    }

    /// Whether it reads columns.
    pub fn reads_columns(&self) -> bool {
        let mut any = false;
        self.columns(&mut |_| any = true);
        any
    }

    /// Makes it read column `f(at)` where it read column `at`.
    pub fn move_columns(&mut self, f: &dyn Fn(usize) -> usize) {
        self.node.move_columns(f);
    }
}

impl Node {
    pub(crate) fn children(&self) -> Vec<&Node> {
        match self {
            Node::Constant(_)
            | Node::Column(_)
            | Node::Parameter(_)
            | Node::Drawn(_)
            | Node::Now
            | Node::LocalNow
            | Node::Today
            | Node::RandomUuid => Vec::new(),
            Node::Arithmetic(_, _, sides)
            | Node::Concat(sides)
            | Node::Compare(_, sides)
            | Node::Distinct { sides, .. }
            | Node::Like { sides, .. }
            | Node::NullIf(sides) => sides.iter().collect(),
            Node::Negate(_, value)
            | Node::Not(value)
            | Node::IsNull { value, .. }
            | Node::Is { value, .. }
            | Node::Cast { value, .. }
            | Node::Call(_, value) => vec![value],
            Node::And(all) | Node::Or(all) | Node::Coalesce(all) => all.iter().collect(),
            Node::InList { value, list, .. } => std::iter::once(&**value).chain(list).collect(),
            Node::Case { branches, otherwise } => {
                branches.iter().flat_map(|(when, then)| [when, then]).chain([&**otherwise]).collect()
            }
        }
    }

    fn children_mut(&mut self) -> Vec<&mut Node> {
        match self {
            Node::Constant(_)
            | Node::Column(_)
            | Node::Parameter(_)
            | Node::Drawn(_)
            | Node::Now
            | Node::LocalNow
            | Node::Today
            | Node::RandomUuid => Vec::new(),
            Node::Arithmetic(_, _, sides)
            | Node::Concat(sides)
            | Node::Compare(_, sides)
            | Node::Distinct { sides, .. }
            | Node::Like { sides, .. }
            | Node::NullIf(sides) => sides.iter_mut().collect(),
            Node::Negate(_, value)
            | Node::Not(value)
            | Node::IsNull { value, .. }
            | Node::Is { value, .. }
            | Node::Cast { value, .. }
            | Node::Call(_, value) => vec![value],
            Node::And(all) | Node::Or(all) | Node::Coalesce(all) => all.iter_mut().collect(),
            Node::InList { value, list, .. } => std::iter::once(&mut **value).chain(list).collect(),
            Node::Case { branches, otherwise } => {
                branches.iter_mut().flat_map(|(when, then)| [when, then]).chain([&mut **otherwise]).collect()
            }
        }
    }

    fn columns(&self, f: &mut dyn FnMut(usize)) {
        if let Node::Column(at) = self {
            f(*at);
        }
        for child in self.children() {
            child.columns(f);
        }
    }

    fn move_columns(&mut self, f: &dyn Fn(usize) -> usize) {
        if let Node::Column(at) = self {
            *at = f(*at);
        }
        for child in self.children_mut() {
            child.move_columns(f);
        }
    }
}

#[cfg(test)]
mod tests;
