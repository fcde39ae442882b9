//! Bringing the ledger in step with the catalog.

use polity_txn::byzantine::bft::types::Height;
use polity_txn::byzantine::{Ledger, Reader};

use super::difference::{Change, Known, difference};
use crate::error::{Condition, Error, Result};
use crate::session::Engine;

/// Rounds of comparing until it is given up: each is another change that came between.
const MOST_ROUNDS: usize = 20;

/// Makes sure that there is a ledger and that it can order what a new table needs.
pub async fn ensure(engine: &Engine, user: &str) -> Result<()> {
    let Some(ledger) = engine.database().directory().ledger() else {
        return Err(Error::unsupported("a byzantine table on this node")
            .detail("A ledger needs four nodes at least, so that one may lie; this one is alone.")
            .hint("Start a cluster of four or more nodes: polity demo, or docs/operating.md."));
    };
    Ok(ledger.ensure(user).await?)
}

/// Makes the ledger's tables those of the newest catalog, if there is a ledger. Does
/// nothing where they are; may be run by several nodes at once.
pub async fn in_step(engine: &Engine) -> Result<()> {
    let Some(ledger) = engine.database().directory().ledger().cloned() else { return Ok(()) };
    let Some(reader) = ledger.reader() else { return Ok(()) };
    for _ in 0..MOST_ROUNDS {
        match round(engine, ledger.as_ref(), &reader).await {
            Err(error) if error.condition() == Condition::SerializationFailure => {}
            done => return done,
        }
    }
    Err(Error::new(Condition::SerializationFailure, "the definitions of byzantine tables keep changing"))
}

async fn round(engine: &Engine, ledger: &dyn Ledger, reader: &Reader) -> Result<()> {
    // The ledger first: a catalog that is read later knows all that led to it.
    let at: Height = reader.height().map_err(of_ledger)?;
    let tables = reader.tables().map_err(of_ledger)?.into_iter().map(|(storage, table)| {
        let grants = reader.grants(storage).map_err(of_ledger)?;
        Ok(Known { storage, table, grants })
    });
    let tables = tables.collect::<Result<Vec<_>>>()?;
    let catalog = engine.current_catalog().await?;
    for Change { user, table, preconditions, operations } in difference(&catalog, &tables, at)? {
        tracing::info!(table, user, "the ledger is told of a table");
        ledger.submit(&user, preconditions, operations).await?;
    }
    Ok(())
}

/// An error of the ledger's storage.
pub(crate) fn of_ledger(error: polity_txn::byzantine::bft::ledger::Error) -> Error {
    use polity_base::Class;
    let condition = match error.class() {
        Class::Corrupt => Condition::DataCorrupted,
        Class::Resource => Condition::DiskFull,
        _ => Condition::InternalError,
    };
    Error::new(condition, error.to_string())
}
