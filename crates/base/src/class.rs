//! What a caller should do about an error.

/// The class of an error. Every error enum of the workspace maps to one of
/// these, and code that reacts to an error reacts to its class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Class {
    /// The request is wrong; the same request will fail again.
    Input,
    /// Another transaction was first; the same transaction, run again from its
    /// start, may succeed.
    Conflict,
    /// Nothing was done and nothing is wrong; ask again, perhaps elsewhere.
    Retry,
    /// It is not known whether the request took effect.
    Unknown,
    /// The guarantee cannot be kept right now, so the request was refused.
    Unavailable,
    /// A limit of memory, disk, connections or size was met.
    Resource,
    /// What is on disk is not what was written.
    Corrupt,
    /// A fault in Polity.
    Bug,
}
