//! How deep the tree of a text will be.
//!
//! Trees are walked, copied and dropped by recursion, here and in the libraries,
//! so what is too deep for a thread's stack must not become a tree. Parentheses
//! and subqueries the parser counts itself. What it does not count are chains: in
//! `1 + 1 + 1 + …` each operator is one level more. They are counted in the
//! tokens, before there is a tree.
//!
//! Chains of OR are long in practice, since programs write them. They may be: the
//! levels of `a OR b OR c OR d` are made few by taking it for `(a OR b) OR (c OR
//! d)`, which is the same (three-valued OR is associative).

use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// Levels that fit on the stack of a thread of 16 MiB, several times over.
pub const MOST_LEVELS: usize = 1_000;
/// Alternatives of all OR in a text.
pub const MOST_ALTERNATIVES: usize = 50_000;

/// A chain of fewer alternatives is left as it is.
const FEW: usize = 64;
/// What one level of a tree takes while it is made or dropped.
const LEVEL_BYTES: usize = 2 << 10;

/// What a text's tokens say about its tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// At most so many levels, those of OR aside
    pub levels: usize,
    /// At most so many OR in a chain
    pub alternatives: usize,
}

impl Shape {
    /// The shape of a text with these tokens.
    pub fn of(tokens: &[TokenWithSpan]) -> Shape {
        let mut shape = Shape { levels: 0, alternatives: 0 };
        // Operators so far in each open group, the innermost last.
        let mut groups = vec![Group::default()];
        let mut outer = 0;
        for token in tokens {
            let Some(group) = groups.last_mut() else { break };
            match part(&token.token) {
                Part::Operand => {}
                Part::Operator => group.operators += 1,
                Part::Or => {
                    shape.alternatives += 1;
                    group.operators = 0;
                }
                Part::Separator => group.operators = 0,
                Part::Open(case) => {
                    group.operators += 1;
                    outer += group.operators;
                    groups.push(Group { case, operators: 0 });
                }
                Part::Close(case) if group.case == case && groups.len() > 1 => {
                    groups.pop();
                    outer -= groups.last().map_or(0, |g| g.operators);
                }
                Part::Close(_) => {}
                Part::End => {
                    groups.truncate(1);
                    groups[0].operators = 0;
                    outer = 0;
                }
            }
            shape.levels = shape.levels.max(outer + groups.last().map_or(0, |g| g.operators));
        }
        shape
    }

    /// Parses a text of this shape with `parse`, and makes its chains of OR shallow.
    pub fn parsed<T: VisitMut>(self, parse: impl FnOnce() -> Result<T, ParserError>) -> Result<T, ParserError> {
        if self.levels > MOST_LEVELS || self.alternatives > MOST_ALTERNATIVES {
            return Err(ParserError::RecursionLimitExceeded);
        }
        if self.alternatives < FEW {
            return parse();
        }
        // Until it is made shallow it is deep, and the parser may drop it half-made.
        stacker::grow((1 << 20) + self.alternatives * LEVEL_BYTES, || {
            let mut tree = parse()?;
            let _ = tree.visit(&mut Balance);
            Ok(tree)
        })
    }
}

#[derive(Default)]
struct Group {
    /// Opened by CASE, not by a parenthesis or bracket
    case: bool,
    operators: usize,
}

/// What a token does to the tree.
enum Part {
    Operand,
    Operator,
    Or,
    /// Begins another branch of the same level
    Separator,
    Open(bool),
    Close(bool),
    /// Ends a statement
    End,
}

fn part(token: &Token) -> Part {
    match token {
        Token::Word(word) if word.quote_style.is_some() => Part::Operand,
        Token::Word(word) => match word.keyword {
            Keyword::NoKeyword => Part::Operand,
            Keyword::OR => Part::Or,
            Keyword::CASE => Part::Open(true),
            Keyword::END => Part::Close(true),
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE => Part::Separator,
            _ => Part::Operator,
        },
        Token::LParen | Token::LBracket => Part::Open(false),
        Token::RParen | Token::RBracket => Part::Close(false),
        Token::Comma => Part::Separator,
        Token::SemiColon => Part::End,
        Token::Whitespace(_)
        | Token::Period
        | Token::EOF
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::DollarQuotedString(_)
        | Token::Placeholder(_) => Part::Operand,
        _ => Part::Operator,
    }
}

/// Makes chains of OR shallow, those outside before those within.
struct Balance;

impl VisitorMut for Balance {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if alternatives(expr) >= FEW {
            let mut rest = mem::replace(expr, Expr::value(Value::Null));
            let mut operands = Vec::new();
            let first = loop {
                match rest {
                    Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                        operands.push(*right);
                        rest = *left;
                    }
                    other => break other,
                }
            };
            operands.push(first);
            operands.reverse();
            *expr = joined(operands);
        }
        ControlFlow::Continue(())
    }
}

/// The length of the chain of OR that ends here.
fn alternatives(mut expr: &Expr) -> usize {
    let mut count = 0;
    while let Expr::BinaryOp { left, op: BinaryOperator::Or, .. } = expr {
        count += 1;
        expr = left;
    }
    count
}

/// The operands joined by OR, in pairs, pairs of pairs, and so on.
fn joined(mut operands: Vec<Expr>) -> Expr {
    while operands.len() > 1 {
        let mut pairs = Vec::with_capacity(operands.len().div_ceil(2));
        let mut given = operands.into_iter();
        while let Some(left) = given.next() {
            pairs.push(match given.next() {
                Some(right) => Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::Or, right: Box::new(right) },
                None => left,
            });
        }
        operands = pairs;
    }
    operands.pop().unwrap_or_else(|| Expr::value(Value::Null))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn shape(sql: &str) -> Shape {
        Shape::of(&Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location().unwrap())
    }

    #[test]
    fn chains_count_and_branches_do_not() {
        let base = shape("select 1").levels;
        let more = |sql: &str| shape(sql).levels - base;
        assert_eq!(more("select a + b + t.c + 'x' + $1"), 4);
        assert_eq!(more("select a + b, a + b, a + b"), 1);
        assert_eq!(more("select (a) + (b) + (c)"), 5);
        assert_eq!(more("select f(a + b, a + f(c + d))"), 4);
        assert_eq!(more("select ((((1))))"), 4);
        assert_eq!(more("select case when a = 1 then 2 when a = 2 then 3 when a = 4 then 5 end + 1"), 2);
        assert_eq!(shape("select 1; select 1; select 1").levels, base);
        assert_eq!(shape("))) end ) select 1").levels, base);
        assert_eq!(shape("select a = 1 or a = 2 or a = 3 or a = 4"), Shape { levels: 2, alternatives: 3 });
    }

    #[test]
    fn pairs_keep_their_order() {
        for count in 1..20 {
            let operands = (0..count).map(|n| Expr::value(Value::Number(n.to_string(), false))).collect();
            let text = joined(operands).to_string();
            let expected: Vec<String> = (0..count).map(|n| n.to_string()).collect();
            assert_eq!(text, expected.join(" OR "));
        }
    }
}
