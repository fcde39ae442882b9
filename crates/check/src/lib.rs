//! Checkers that know nothing of the database.
//!
//! A client writes down what it asked, when, and what it was told: a
//! [`history`]. A checker reads histories and nothing else, and says which
//! promise they break, if any. This crate imports no other crate of the house, so
//! a misunderstanding cannot be shared between the judge and the judged.
//!
//! | checker | judges | source |
//! |---|---|---|
//! | [`append`] | transactions on lists: dependency cycles, aborted and intermediate reads | Adya 1999; Kingsbury & Alvaro, VLDB 2020 |
//! | [`register`] | single keys: linearizability | Wing & Gong 1993; Lowe 2017 |
//! | [`bank`] | transfers: the total stays, no balance goes below zero | |
//! | [`sequence`] | numbers are handed out once | |
//! | [`keys`] | unique and foreign keys under concurrency | |
//! | [`schema`] | columns and indexes that come and go under use | |
//! | [`set`] | what was added stays, once | |
//! | [`stock`] | merging counters: nothing oversold, nothing lost, sessions, convergence | O'Neil 1986; Terry et al. 1994 |
//! | [`carts`] | merging sets and plain columns: nothing lost, nothing back, likewise | Shapiro et al. 2011 |
//!
//! A [`Finding`] has a name ([`Anomaly`]) that says at which isolation [`Level`]
//! it is forbidden, and a story for the reader: which transaction saw what.
//! [`workload`] has the clients whose histories these are.

pub mod append;
pub mod bank;
pub mod carts;
pub mod finding;
pub mod history;
pub mod keys;
pub mod random;
pub mod register;
pub mod schema;
pub mod sequence;
pub mod set;
pub mod stock;
pub mod workload;

pub use finding::{Anomaly, Finding, Findings, Level};
pub use history::{History, Operation, Outcome};

/// Judges everything in a history.
pub fn check(history: &History) -> Findings {
    let mut findings = append::check(&history.append);
    findings.merge(register::check(&history.register));
    findings.merge(bank::check(&history.bank));
    findings.merge(sequence::check(&history.sequence));
    findings.merge(set::check(&history.set));
    findings.merge(keys::check(&history.keys));
    findings.merge(schema::check(&history.schema));
    findings.merge(stock::check(&history.stock));
    findings.merge(carts::check(&history.carts));
    findings
}
