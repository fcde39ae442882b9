//! Validity: only what clients signed and handed in is ordered, each once, and no
//! block is empty.
//!
//! External validity: Cachin, Kursawe, Petzold & Shoup, "Secure and Efficient
//! Asynchronous Broadcast Protocols", CRYPTO 2001; Buchman, Kwon & Milosevic 2018,
//! section 3.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Sight};
use crate::transaction::TransactionId;
use crate::types::Height;

/// What was handed in, and what was ordered.
#[derive(Default)]
pub struct Validity {
    submitted: BTreeSet<TransactionId>,
    ordered: BTreeMap<TransactionId, Height>,
}

impl Invariant for Validity {
    fn look(&mut self, sight: &Sight) -> Result<(), String> {
        let block = match sight {
            Sight::Submitted(transaction) => {
                self.submitted.insert(transaction.id());
                return Ok(());
            }
            Sight::Committed(_, block, ..) => block,
            _ => return Ok(()),
        };
        let height = block.header().height;
        if block.transactions.is_empty() && block.evidence.is_empty() {
            return Err(format!("validity: the block of height {height} is empty"));
        }
        let mut here = BTreeSet::new();
        for transaction in &block.transactions {
            let id = transaction.id();
            if !self.submitted.contains(&id) {
                return Err(format!("validity: height {height} orders a transaction that nobody handed in"));
            }
            if !here.insert(id) || *self.ordered.entry(id).or_insert(height) != height {
                return Err(format!("validity: height {height} orders a transaction that was ordered before"));
            }
        }
        Ok(())
    }
}
