//! DataFusion's errors in PostgreSQL's words.
//!
//! What binding refuses never gets to DataFusion, and functions report errors of
//! their own, which travel through it unchanged. Left are Arrow's kernels, limits,
//! and faults.

use datafusion::arrow::error::ArrowError;
use datafusion::common::DataFusionError;

use super::function::fold::too_many_rows;
use crate::error::{Condition, Error};

/// The error in our words.
pub fn of(e: DataFusionError) -> Error {
    match e {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<DataFusionError>() {
                Ok(inner) => of(*inner),
                Err(other) => Error::internal(other),
            },
        },
        DataFusionError::ArrowError(inner, _) => of_arrow(*inner),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => of(*inner),
        DataFusionError::Shared(inner) => of_shared(&inner),
        DataFusionError::Collection(mut all) if !all.is_empty() => of(all.swap_remove(0)),
        DataFusionError::ResourcesExhausted(what) => Error::new(Condition::OutOfMemory, "out of memory")
            .detail(first_line(&what))
            .hint("Make the query smaller, or raise the node's limit on query memory."),
        DataFusionError::IoError(e) => of_io(e),
        DataFusionError::NotImplemented(what) => {
            Error::new(Condition::FeatureNotSupported, format!("{} is not supported", first_line(&what)))
        }
        DataFusionError::Execution(what) if what.contains("more than one row") => too_many_rows(),
        DataFusionError::Plan(what) | DataFusionError::Execution(what) => {
            Error::new(Condition::FeatureNotSupported, format!("this query is not supported: {}", first_line(&what)))
        }
        other => Error::internal(first_line(&other.to_string())),
    }
}

fn of_shared(e: &DataFusionError) -> Error {
    match e {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => Error::internal(inner),
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => of_shared(inner),
        DataFusionError::IoError(e) => of_shared_io(e),
        DataFusionError::Shared(inner) => of_shared(inner),
        DataFusionError::ResourcesExhausted(what) => of(DataFusionError::ResourcesExhausted(what.clone())),
        DataFusionError::Execution(what) => of(DataFusionError::Execution(what.clone())),
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::DivideByZero => of_arrow(ArrowError::DivideByZero),
            ArrowError::ArithmeticOverflow(what) => of_arrow(ArrowError::ArithmeticOverflow(what.clone())),
            ArrowError::IoError(_, e) => of_shared_io(e),
            ArrowError::ExternalError(inner) => match inner.downcast_ref::<Error>() {
                Some(ours) => ours.clone(),
                None => match inner.downcast_ref::<DataFusionError>() {
                    Some(inner) => of_shared(inner),
                    None => Error::internal(inner),
                },
            },
            other => Error::internal(other),
        },
        other => Error::internal(first_line(&other.to_string())),
    }
}

fn of_shared_io(e: &std::io::Error) -> Error {
    match e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(ours) => ours.clone(),
        None => of_io(std::io::Error::new(e.kind(), e.to_string())),
    }
}

fn of_arrow(e: ArrowError) -> Error {
    match e {
        ArrowError::DivideByZero => Error::new(Condition::DivisionByZero, "division by zero"),
        ArrowError::ArithmeticOverflow(_) => Error::new(Condition::NumericValueOutOfRange, "value out of range"),
        ArrowError::ExternalError(inner) => of(DataFusionError::External(inner)),
        ArrowError::IoError(_, e) => of_io(e),
        ArrowError::CastError(what) => {
            Error::new(Condition::NumericValueOutOfRange, "value out of range").detail(first_line(&what))
        }
        other => Error::internal(first_line(&other.to_string())),
    }
}

/// Files are our own, and so are their errors.
fn of_io(e: std::io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(ours) => ours,
        Err(other) => Error::new(Condition::IoError, format!("a temporary file of the query failed: {other}")),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}
