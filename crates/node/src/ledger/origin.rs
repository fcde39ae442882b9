//! What a ledger needs to begin: this node's key, and the genesis that all agree on.
//!
//! Both are kept in the node's log, which is sealed: a key that was lost would be a
//! validator that is lost, and one that was read would be a liar's. The genesis is also a
//! row of the strong range, which is written once: that is how nodes agree on it.

use bytes::Bytes;
use polity_base::key::KeyBuilder;
use polity_base::seams::Entropy;
use polity_base::{IndexId, Key, RangeId, Timestamp};
use polity_bft::genesis::Genesis;
use polity_bft::signing::SecretKey;
use polity_store::log::{Log, Record};
use polity_store::state::State;
use polity_txn::Database;

use crate::error::Error;

/// The names in the log, of group [`RangeId::NODE`], of the seed of the node's key, and of
/// the genesis.
const SEED: &str = "ledger key";
const GENESIS: &str = "ledger genesis";
/// The key of the genesis in the strong range.
fn row() -> Key {
    KeyBuilder::new(IndexId::GENESIS).finish()
}

async fn remember(log: &Log, name: &'static str, value: Bytes) -> Result<(), Error> {
    Ok(log.append_wait(vec![Record::State { group: RangeId::NODE, name: name.into(), value }]).await?)
}

/// The key that this node signs with. It is made at the first start, and is the same ever
/// after.
pub async fn key(log: &Log, entropy: &dyn Entropy) -> Result<SecretKey, Error> {
    if let Some(kept) = log.state(RangeId::NODE, SEED) {
        let seed = kept.as_ref().try_into();
        return seed.map(SecretKey::from_seed).map_err(|_| Error::file("log", "holds a ledger key that is none"));
    }
    let mut seed = [0; 32];
    entropy.fill(&mut seed);
    remember(log, SEED, Bytes::copy_from_slice(&seed)).await?;
    Ok(SecretKey::from_seed(seed))
}

/// The genesis that this node keeps, if it has learnt of one.
pub fn kept(log: &Log) -> Result<Option<Genesis>, Error> {
    let kept = log.state(RangeId::NODE, GENESIS);
    kept.map(|bytes| Genesis::decode(&bytes))
        .transpose()
        .map_err(|e| Error::file("log", format!("ledger genesis: {e}")))
}

/// Keeps the genesis from now on.
pub async fn keep(log: &Log, genesis: &Genesis) -> Result<(), Error> {
    remember(log, GENESIS, genesis.encode().into()).await
}

/// The genesis that the cluster agreed on, as far as this node has it.
pub fn agreed(state: &State) -> Result<Option<Genesis>, Error> {
    let found = state.snapshot()?.get(&row(), Timestamp::MAX)?;
    let genesis = found.map(|(bytes, _)| Genesis::decode(&bytes)).transpose();
    genesis.map_err(|e| Error::Ledger(format!("what the ledger began with cannot be read: {e}")))
}

/// Has the cluster agree on a genesis, unless it has agreed on one already.
pub async fn propose(database: &Database, genesis: &Genesis) -> Result<(), polity_txn::Error> {
    // If it was written before, that one stands.
    database.write_if_absent(row(), genesis.encode().into()).await.map(drop)
}
