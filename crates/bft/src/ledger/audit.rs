//! The ledger from the beginning: what the state root must be, if every block since
//! genesis did what its header says.

use std::sync::Arc;

use super::error::Error;
use super::machine::{Ledger, Options};
use super::rules::RowRules;
use super::storage::memory::MemoryStorage;
use super::storage::{Storage, Views};
use super::tree::{Authenticated, Jellyfish};
use crate::block::{Block, Certificate};
use crate::consensus::application::Application;
use crate::genesis::Genesis;
use crate::hash::Hash;
use crate::proof::verify;
use crate::types::Height;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Audited {
    /// The last height
    pub height: Height,
    /// The root of the state after it
    pub state_root: Hash,
}

/// Applies all blocks since genesis to an empty state, verifying everything: signatures
/// and certificates too.
///
/// # Errors
/// [`Error::Invalid`], which says at which height what does not hold.
pub fn audit(
    genesis: &Genesis,
    rules: Arc<dyn RowRules>,
    blocks: impl IntoIterator<Item = (Arc<Block>, Arc<Certificate>)>,
) -> Result<Audited, Error> {
    let mut ledger = Ledger::open(MemoryStorage::new(), genesis.clone(), rules, Options::default())?;
    for (block, certificate) in blocks {
        let height = block.header.height;
        let at = |why: String| Error::Invalid(format!("height {height}: {why}"));
        let validators = ledger.tip().validators;
        verify::certified(&ledger.id(), &block.header, &certificate, &validators).map_err(|e| at(e.to_string()))?;
        ledger.commit(&block, &certificate).map_err(|e| at(e.to_string()))?;
    }
    let height = ledger.tip().height;
    let state_root = Jellyfish.root(&ledger.into_storage().views().now()?)?;
    Ok(Audited { height, state_root })
}
