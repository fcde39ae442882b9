//! What is remembered of each height: its header and certificate, what was ordered, what
//! became of it, and which keys it wrote.
//!
//! ```text
//! results  SHA-256("polity/bft/results/1" outcome* key*)
//! ```
//! For as many heights as [`crate::genesis::Parameters::lifetime`] says, all of it is
//! kept: that is how replays are known, and how it is known what was written since
//! something was read. All of it is under the header's hashes, so it can be taken from a
//! snapshot and verified. Later only header and certificate are left.

use polity_base::Key;

use crate::block::{Block, Certificate, Header, signatures_hash, transactions_hash};
use crate::codec::{Decoded, Reader, Write};
use crate::hash::{Hash, sha256};
use crate::ledger::outcome::Outcome;
use crate::transaction::{TransactionId, read_key};

/// What is remembered of a height.
#[derive(Clone, PartialEq, Debug)]
pub struct Journal {
    /// The block's header
    pub header: Header,
    /// What certifies it, as this node learned it
    pub certificate: Certificate,
    /// What happened, unless that is forgotten
    pub events: Option<Events>,
}

/// What happened at a height.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Events {
    /// The transactions that were ordered
    pub ids: Vec<TransactionId>,
    /// The hash of their signatures
    pub signatures: Hash,
    /// What became of each
    pub outcomes: Vec<Outcome>,
    /// The keys that were written, in order
    pub written: Vec<Key>,
}

impl Events {
    /// What happened when a block was applied.
    pub fn new(block: &Block, outcomes: Vec<Outcome>, written: Vec<Key>) -> Events {
        let (ids, signatures) = (block.transaction_ids(), signatures_hash(&block.transactions));
        Events { ids, signatures, outcomes, written }
    }

    /// What a header says of outcomes and written keys.
    pub fn results(outcomes: &[Outcome], written: &[Key]) -> Hash {
        let mut out = Vec::with_capacity(outcomes.len() + written.len() * 24);
        write_results(outcomes, written, &mut out);
        sha256(&[b"polity/bft/results/1", &out])
    }

    /// Whether these are what a header says.
    pub fn are_of(&self, header: &Header) -> bool {
        transactions_hash(&self.ids, &self.signatures) == header.transactions
            && self.ids.len() == self.outcomes.len()
            && Events::results(&self.outcomes, &self.written) == header.results
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.count(self.ids.len());
        self.ids.iter().for_each(|id| out.raw(id));
        out.raw(&self.signatures);
        write_results(&self.outcomes, &self.written, out);
    }

    fn read(reader: &mut Reader) -> Decoded<Events> {
        Ok(Events {
            ids: reader.list(32, Reader::hash)?,
            signatures: reader.hash()?,
            outcomes: reader.list(1, Outcome::read)?,
            written: reader.list(4, read_key)?,
        })
    }
}

fn write_results(outcomes: &[Outcome], written: &[Key], out: &mut Vec<u8>) {
    out.count(outcomes.len());
    outcomes.iter().for_each(|outcome| outcome.write(out));
    out.count(written.len());
    written.iter().for_each(|key| out.bytes(key));
}

impl Journal {
    /// Writes what is remembered.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.header.write(out);
        self.certificate.write(out);
        out.option(self.events.as_ref(), |out, events| events.write(out));
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        self.write(&mut out);
        out
    }

    /// Reads what is remembered.
    pub fn read(reader: &mut Reader) -> Decoded<Journal> {
        Ok(Journal {
            header: Header::read(reader)?,
            certificate: Certificate::read(reader)?,
            events: reader.option(Events::read)?,
        })
    }

    /// Reads what is remembered, and nothing else.
    pub fn decode(bytes: &[u8]) -> Decoded<Journal> {
        Reader::whole(bytes, Journal::read)
    }

    /// What is left of it for good.
    pub fn without_events(self) -> Journal {
        Journal { events: None, ..self }
    }
}
