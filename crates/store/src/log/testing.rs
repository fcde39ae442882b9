//! What tests of the store have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use polity_base::RangeId;
use polity_base::seams::Entropy;
use proptest::prelude::*;

use crate::disk::MemoryDisk;
use crate::error::Error;
use crate::log::{Log, LogOptions, Record, RecoveredGroup};
use crate::seal::{Keyring, MasterKey};

/// Entropy that repeats itself in every run, and never within one.
#[derive(Default)]
pub struct CountingEntropy(AtomicU64);

impl Entropy for CountingEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let n = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            let bytes = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// A keyring that is made once and stays when the disk is torn.
pub fn keys() -> Keyring {
    let entropy = CountingEntropy::default();
    Keyring::open(&MemoryDisk::new(0), &MasterKey::generate(&entropy), &entropy).unwrap()
}

/// Opens the log of a folder in memory.
pub async fn open(disk: &MemoryDisk, options: LogOptions) -> Result<(Log, Vec<RecoveredGroup>), Error> {
    Log::open(Arc::new(disk.clone()), &keys(), Arc::new(CountingEntropy::default()), options).await
}

pub fn entry(group: u64, index: u64, term: u64, payload: impl Into<Bytes>) -> Record {
    Record::Entry { group: RangeId(group), index, term, payload: payload.into() }
}

pub fn state(group: u64, name: &'static str, value: impl Into<Bytes>) -> Record {
    Record::State { group: RangeId(group), name: name.into(), value: value.into() }
}

pub fn truncate(group: u64, from_index: u64) -> Record {
    Record::Truncate { group: RangeId(group), from_index }
}

pub fn purge(group: u64, upto_index: u64) -> Record {
    Record::Purge { group: RangeId(group), upto_index }
}

pub fn any_record() -> impl Strategy<Value = Record> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<u64>(), bytes())
            .prop_map(|(group, index, term, payload)| entry(group, index, term, payload)),
        (any::<u64>(), any::<u64>()).prop_map(|(group, at)| truncate(group, at)),
        (any::<u64>(), any::<u64>()).prop_map(|(group, at)| purge(group, at)),
        (any::<u64>(), ".{0,9}", bytes()).prop_map(|(group, name, value)| Record::State {
            group: RangeId(group),
            name: name.into(),
            value
        }),
    ]
}
