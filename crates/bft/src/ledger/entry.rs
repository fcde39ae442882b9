//! What a ledger's log holds: from its entries alone all of its state can be made again.
//!
//! ```text
//! entry = 0 genesis | 1 block certificate | 2 height part*
//! ```

use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use crate::block::{Block, Certificate};
use crate::codec::{Reader, Write};
use crate::genesis::Genesis;
use crate::types::Height;

/// An entry.
pub enum Entry {
    /// What the ledger begins with
    Genesis(Genesis),
    /// A decided block
    Block(Arc<Block>, Arc<Certificate>),
    /// A snapshot that was put in place of everything before
    Snapshot(Height, Vec<Bytes>),
}

impl Entry {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(1024);
        match self {
            Entry::Genesis(genesis) => {
                out.byte(0);
                out.bytes(&genesis.encode());
            }
            Entry::Block(block, certificate) => {
                out.byte(1);
                block.write(&mut out);
                certificate.write(&mut out);
            }
            Entry::Snapshot(height, parts) => {
                out.byte(2);
                out.u64(height.0);
                out.count(parts.len());
                parts.iter().for_each(|part| out.bytes(part));
            }
        }
        out.into()
    }

    /// Reads an entry that was written here.
    pub fn decode(bytes: &Bytes) -> Result<Entry, Error> {
        let read = Reader::whole(bytes, |reader| {
            let unknown = reader.error("an entry of an unknown kind");
            Ok(match reader.byte()? {
                0 => {
                    let damaged = reader.error("a genesis that cannot be read");
                    Entry::Genesis(Genesis::decode(reader.bytes()?).map_err(|_| damaged)?)
                }
                1 => Entry::Block(Arc::new(Block::read(reader)?), Arc::new(Certificate::read(reader)?)),
                2 => {
                    let height = reader.height()?;
                    Entry::Snapshot(height, reader.list(4, |reader| Ok(bytes.slice_ref(reader.bytes()?)))?)
                }
                _ => return Err(unknown),
            })
        });
        read.map_err(|e| Error::damaged("an entry of the log", &e))
    }
}
