//! What an expression may name: columns of the rows at hand, and parameters.

use datafusion::sql::sqlparser::ast::Ident;
use polity_base::Type;

use crate::catalog::{Catalog, Table, name};

/// The columns and parameters an expression may name.
pub struct Scope<'a> {
    /// For sequences that are named by text
    pub catalog: &'a Catalog,
    /// Where columns come from, in the order of the row
    pub sources: Vec<Source<'a>>,
    /// The statement's parameters
    pub parameters: &'a mut Parameters,
    /// The sequences drawn from so far
    pub(crate) sequences: Vec<polity_base::TableId>,
}

/// Columns that share a qualifier.
pub struct Source<'a> {
    /// What stands before the dot; `None` when nothing can
    pub qualifier: Option<String>,
    /// Names and types
    pub columns: Vec<(&'a str, &'a Type)>,
    /// The place of the first in the row
    pub first: usize,
}

impl<'a> Scope<'a> {
    /// A scope without columns.
    pub fn new(catalog: &'a Catalog, parameters: &'a mut Parameters) -> Scope<'a> {
        Scope { catalog, sources: Vec::new(), parameters, sequences: Vec::new() }
    }

    /// Adds the columns of `table` under the name `qualifier`.
    pub fn with_table(mut self, table: &'a Table, qualifier: &str) -> Scope<'a> {
        let columns = table.columns.iter().map(|c| (c.name.as_str(), &c.r#type)).collect();
        self.add(Some(qualifier.to_owned()), columns);
        self
    }

    /// Adds columns after those there are.
    pub fn add(&mut self, qualifier: Option<String>, columns: Vec<(&'a str, &'a Type)>) {
        let first = self.width();
        self.sources.push(Source { qualifier, columns, first });
    }

    /// How many columns there are.
    pub fn width(&self) -> usize {
        self.sources.last().map_or(0, |s| s.first + s.columns.len())
    }

    /// The place and type of the column these words name; `None` when there is
    /// not exactly one.
    pub fn column(&self, words: &[Ident]) -> Option<(usize, Type)> {
        let (qualifier, column) = match words {
            [column] => (None, name::fold(column)),
            [qualifier, column] => (Some(name::fold(qualifier)), name::fold(column)),
            _ => return None,
        };
        let mut found = None;
        for source in &self.sources {
            if qualifier.is_some() && source.qualifier != qualifier {
                continue;
            }
            for (at, (name, r#type)) in source.columns.iter().enumerate() {
                if *name == column {
                    if found.is_some() {
                        return None;
                    }
                    found = Some((source.first + at, (*r#type).clone()));
                }
            }
        }
        found
    }
}

/// The types of a statement's parameters, as far as they are known.
///
/// A parameter whose type the client has not stated gets it from where it
/// stands, as PostgreSQL does. It may also be a literal that was lifted out of
/// the text; then it matters *how* it was used. One that is compared with a key
/// or assigned to a column as a whole may have any type that converts. One
/// inside an expression stands for its inferred type only: `x + 1.5` is not
/// `x + 1` with another number.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    list: Vec<Parameter>,
}

#[derive(Clone, Debug, Default)]
struct Parameter {
    r#type: Option<Type>,
    inside: bool,
}

impl Parameters {
    /// Parameters of which the client has stated these types.
    pub fn stated(types: &[Option<Type>]) -> Parameters {
        let known = |t: &Option<Type>| t.clone().filter(|t| *t != Type::Unknown);
        let list = types.iter().map(|t| Parameter { r#type: known(t), inside: false }).collect();
        Parameters { list }
    }

    /// The type of parameter `at`, counted from 0.
    pub fn r#type(&mut self, at: usize) -> Option<&Type> {
        self.reach(at);
        self.list[at].r#type.as_ref()
    }

    /// Infers the type of a parameter. `false`: it is known to be another.
    pub fn infer(&mut self, at: usize, r#type: &Type) -> bool {
        self.reach(at);
        let parameter = &mut self.list[at];
        match &parameter.r#type {
            Some(known) => known == r#type,
            None => {
                parameter.r#type = Some(r#type.clone());
                true
            }
        }
    }

    /// Notes that a parameter is part of an expression.
    pub fn set_inside(&mut self, at: usize) {
        self.reach(at);
        self.list[at].inside = true;
    }

    /// Whether a parameter is part of an expression.
    pub fn is_inside(&self, at: usize) -> bool {
        self.list.get(at).is_some_and(|p| p.inside)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The types so far.
    pub fn types(&self) -> Vec<Option<Type>> {
        self.list.iter().map(|p| p.r#type.clone()).collect()
    }

    /// The types, if all are known.
    pub fn known(&self) -> Option<Vec<Type>> {
        self.list.iter().map(|p| p.r#type.clone()).collect()
    }

    fn reach(&mut self, at: usize) {
        if self.list.len() <= at {
            self.list.resize_with(at + 1, Parameter::default);
        }
    }
}
