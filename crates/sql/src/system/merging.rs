//! The types of columns that merge, as `pg_type` has them: domains, since their values are
//! those of another type, which is also what clients are told of results.

use polity_base::Type;

use crate::catalog::{Column, Merge};

/// A type of columns that merge.
#[derive(Debug)]
pub(super) struct MergingType {
    pub oid: u32,
    /// As it is written in a definition
    pub name: &'static str,
    /// The elements, of a set
    elements: Option<Type>,
}

/// All of them.
pub(super) static ALL: &[MergingType] = &[
    MergingType { oid: 13_700, name: "counter", elements: None },
    MergingType { oid: 13_701, name: "set_of(text)", elements: Some(Type::Text) },
    MergingType { oid: 13_702, name: "set_of(integer)", elements: Some(Type::Int4) },
    MergingType { oid: 13_703, name: "set_of(bigint)", elements: Some(Type::Int8) },
    MergingType { oid: 13_704, name: "set_of(uuid)", elements: Some(Type::Uuid) },
    MergingType { oid: 13_705, name: "set_of(date)", elements: Some(Type::Date) },
];

impl MergingType {
    /// What its values are.
    pub fn values(&self) -> Type {
        self.elements.clone().map_or(Type::Int8, |element| Type::Array(Box::new(element)))
    }
}

/// The one with this identifier.
pub(super) fn of_oid(oid: u32) -> Option<&'static MergingType> {
    ALL.iter().find(|t| t.oid == oid)
}

/// A column's, if it merges.
pub(super) fn of_column(column: &Column) -> Option<&'static MergingType> {
    (column.merge != Merge::Register).then(|| ALL.iter().find(|t| t.values() == column.r#type))?
}
